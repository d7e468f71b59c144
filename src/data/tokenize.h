#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/config.h"
#include "data/problems.h"
#include "data/tokenizer.h"

namespace dga {

/// How far tokenize_sources has come.
struct TokenizeProgress {
  int64_t files = 0;      // text files in all
  int64_t done = 0;       // of them, those that have a shard
  int64_t found = 0;      // of them, those that had one before, or were made by another process meanwhile
  int64_t bins = 0;       // files that are tokens already
  int64_t documents = 0;  // in all shards, finished or not
  int64_t tokens = 0;
  int64_t new_tokens = 0;  // of them, those made by this call
  ProblemCounts problems{};
};

/// Makes the token shards of all text files of the sources; those that exist are kept, so that a call that was ended
/// goes on where it was. `report` is called a few times a second; when it returns false, the shards under way are
/// thrown away and the call returns. Throws an input error under data.on_error: refuse.
TokenizeProgress tokenize_sources(const std::vector<SourceConfig>& sources, const DataConfig& data,
                                  std::shared_ptr<const Tokenizer> tokenizer,
                                  const std::function<bool(const TokenizeProgress&)>& report);

}  // namespace dga
