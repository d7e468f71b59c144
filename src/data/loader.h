#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "data/batch.h"
#include "data/config.h"
#include "data/tokenizer.h"

namespace dga {

/// Which part of which global batch a process reads.
struct LoaderOptions {
  uint64_t seed = 0;
  int64_t global_batch_size = 0;  // rows of a step over all processes
  int64_t first_row = 0;          // this process reads rows [first_row, first_row + rows) of each step
  int64_t rows = 0;
  int64_t vocab_size = 0;  // of the model; a token beyond it is an input error naming its document
};

/// Packed batches of a mix of sources, in an order that depends on the config and the seed alone: not on rows, threads,
/// restarts or how far tokenising has come. The order:
///  - a source's files, sorted by path, are permuted anew in each epoch; documents keep their order within a file;
///  - a shuffle window is a run of documents with at least data.shuffle_tokens tokens, and is permuted; it ends with
///  the
///    epoch at the latest;
///  - the next document comes from the source with the fewest tokens so far divided by its weight (ties: the first);
///  - rows are cut from the stream as batch.h says, so documents go on from row to row.
/// data.skip: when step from_step (counted from 1) would be drawn, the to_step - from_step batches of the steps
/// [from_step, to_step) are passed over, so that step from_step gets what to_step would have got. Ranges apply in
/// order, each in step numbers of the run with the earlier ones applied, so the numbers of its log are the right ones.
/// A range that begins before the step a run resumes at changes nothing. A thread works a few batches ahead; background
/// threads tokenise text that has no token shard yet.
class Loader {
 public:
  /// `tokenizer` may be null if all sources are token bins and data.bos_id, data.eos_id are set or not needed.
  /// Throws an input error for a source without files.
  Loader(const DataConfig& config, std::shared_ptr<const Tokenizer> tokenizer, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next step's rows. Throws what went wrong in the background, naming file and line.
  Batch next();
  /// Waits at most so long until next() would return or throw at once; whether it would.
  bool wait(std::chrono::milliseconds limit);

  /// The place after the batch that next() returned last: a few numbers a source.
  nlohmann::json state() const;
  /// Goes on after the batch that the state was taken at. Throws a config error naming what differs if the state
  /// belongs to another order of data: other sources, files, seed, batch size, context length, tokenizer or shuffling.
  void restore(const nlohmann::json& state);

 private:
  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace dga
