#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/writer.h"
#include "model/llama.h"
#include "model/weights_io.h"
#include "optim/adamw.h"
#include "train/outlier_filter.h"

namespace dga {

/// Everything that survives a restart, beside the tensors: the weights (model*.safetensors) and the optimizer's moments
/// and fp32 masters (optimizer*.safetensors). The learning rate is a function of `step`, and every random number is one
/// of seed and position, so the seed is all there is to save of both.
struct TrainingState {
  int64_t step = 0;               // steps taken, skipped ones included
  int64_t tokens = 0;             // seen so far
  int64_t optimizer_updates = 0;  // steps less skipped ones
  int64_t metrics_bytes = 0;      // size of metrics.jsonl after the step's line
  int64_t seed = 0;
  OutlierFilter::State outliers;
  nlohmann::json loader;
  std::string config_hash;
  std::map<std::string, std::string> config;  // every field, to name what a later start changes
};

nlohmann::json to_json(const TrainingState& state);

/// Reads state.json of a checkpoint. Throws an input error naming the file where it is none.
TrainingState read_training_state(const std::filesystem::path& checkpoint);

/// Whether a checkpoint's tensors are copied when it is put together, so that training may go on before it is written.
enum class Snapshot { live, copied };

/// A rank's files of a checkpoint, which is a Hugging Face folder with the optimizer's state and state.json beside the
/// model. All ranks have the same weights; `rank` writes its share of them and the state that it owns.
CheckpointContent make_checkpoint(const TrainingState& state, const Llama& model, const HfExport& description,
                                  const AdamW& optimizer, Snapshot snapshot, const Share& rank);

/// Loads the weights of a checkpoint of any number of ranks, and what this rank holds of the optimizer's state.
void restore_tensors(const std::filesystem::path& checkpoint, const TrainingState& state, const Llama& model,
                     AdamW& optimizer);

}  // namespace dga
