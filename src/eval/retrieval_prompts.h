#pragma once

#include <cstdint>
#include <vector>

#include "data/tokenizer.h"
#include "eval/config.h"

namespace dga {

/// What generated prompts ask for. The texts are this project's own wording of two known tests.
///   passkey       a number of five digits, told once in the midst of text that says nothing (Mohtashami and Jaggi
///   2023) kv_retrieval  the value of one key in a JSON object of random UUIDs (Liu et al. 2023, "Lost in the middle")
enum class RetrievalTask { passkey, kv_retrieval };
inline auto enum_names(RetrievalTask) {
  return config::names<RetrievalTask>(
      {{RetrievalTask::passkey, "passkey"}, {RetrievalTask::kv_retrieval, "kv_retrieval"}});
}

struct RetrievalPrompt {
  std::vector<int32_t> tokens;  // BOS, where the tokenizer has one, and the prompt
  std::vector<int32_t> answer;  // what a right model goes on with
  double depth = 0;             // where the answer stands: 0 at the front, 1 at the end
  int64_t items = 0;            // pairs of kv_retrieval; 1 for passkey
};

/// The `sample`-th of `samples` prompts. passkey has exactly `length` tokens, answer not counted, and depths spread
/// evenly; kv_retrieval has as many pairs as fit, and asks for one drawn at random. Depends on the arguments alone.
/// Throws a config error where not even the shortest prompt fits.
RetrievalPrompt make_retrieval_prompt(RetrievalTask task, const Tokenizer& tokenizer, int64_t length, int64_t sample,
                                      const RetrievalConfig& config);

}  // namespace dga
