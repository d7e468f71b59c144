#include "eval/retrieval_prompts.h"

#include <cmath>
#include <cstdio>

#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

using Tokens = std::vector<int32_t>;

void append(Tokens& to, const Tokens& from) { to.insert(to.end(), from.begin(), from.end()); }

Tokens first_tokens(const Tokenizer& tokenizer) {
  return tokenizer.bos_id() >= 0 ? Tokens{tokenizer.bos_id()} : Tokens{};
}

[[noreturn]] void too_short(RetrievalTask task, int64_t length, size_t needed) {
  fail(ExitCode::config, "eval.retrieval.lengths: a prompt of ", config::name_of(task), " takes at least ", needed,
       " tokens of this tokenizer; got ", length);
}

constexpr const char* kPasskeyTask =
    "Somewhere in the following text a secret number is told. Remember it; you will be asked for it at the end.";
constexpr const char* kPasskeyFiller =
    "Rain fell on the hills. A cart went down the road. The bell rang at noon. Nobody was in a hurry.";
constexpr const char* kPasskeyQuestion = "What was the secret number? The secret number is";

RetrievalPrompt passkey_prompt(const Tokenizer& tokenizer, int64_t length, double depth, const CounterRng& rng) {
  const std::string number = std::to_string(10000 + rng.bits(0) % 90000);
  const Tokens needle = tokenizer.encode("The secret number is " + number + ". Remember: " + number + ".");
  const Tokens question = tokenizer.encode(kPasskeyQuestion), filler = tokenizer.encode(kPasskeyFiller);
  RetrievalPrompt prompt{first_tokens(tokenizer), tokenizer.encode(number), depth, 1};
  append(prompt.tokens, tokenizer.encode(kPasskeyTask));
  const size_t fixed = prompt.tokens.size() + needle.size() + question.size();
  if (static_cast<int64_t>(fixed) > length) too_short(RetrievalTask::passkey, length, fixed);
  const size_t free = static_cast<size_t>(length) - fixed;
  const auto before = static_cast<size_t>(std::llround(depth * static_cast<double>(free)));
  for (size_t i = 0; i < before; ++i) prompt.tokens.push_back(filler[i % filler.size()]);
  append(prompt.tokens, needle);
  for (size_t i = before; i < free; ++i) prompt.tokens.push_back(filler[i % filler.size()]);
  append(prompt.tokens, question);
  return prompt;
}

/// A random UUID of version 4 (RFC 9562).
std::string make_uuid(const CounterRng& rng, uint64_t number) {
  const uint64_t high = (rng.bits(2 * number) & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t low = (rng.bits(2 * number + 1) & ~(uint64_t{3} << 62)) | (uint64_t{1} << 63);
  char text[40];
  std::snprintf(text, sizeof(text), "%08llx-%04llx-%04llx-%04llx-%012llx", static_cast<unsigned long long>(high >> 32),
                static_cast<unsigned long long>(high >> 16 & 0xFFFF), static_cast<unsigned long long>(high & 0xFFFF),
                static_cast<unsigned long long>(low >> 48), static_cast<unsigned long long>(low & 0xFFFFFFFFFFFF));
  return text;
}

constexpr const char* kPairsTask = "Below are keys and their values. Find the value of the key that is asked for.";

RetrievalPrompt pairs_prompt(const Tokenizer& tokenizer, int64_t length, const CounterRng& rng) {
  const auto key = [&](uint64_t pair) { return make_uuid(rng, 2 * pair); };
  const auto value = [&](uint64_t pair) { return make_uuid(rng, 2 * pair + 1); };
  const auto question = [&](uint64_t pair) { return tokenizer.encode("The value of \"" + key(pair) + "\" is:"); };
  Tokens head = first_tokens(tokenizer);
  append(head, tokenizer.encode(kPairsTask));
  std::vector<Tokens> lines;
  // Questions differ in length by a few tokens; the longest so far is kept free.
  size_t used = head.size(), longest_question = 0;
  for (uint64_t pair = 0;; ++pair) {
    Tokens line = tokenizer.encode("\"" + key(pair) + "\": " + value(pair) + ",\n");
    const size_t asked = std::max(longest_question, question(pair).size());
    if (static_cast<int64_t>(used + line.size() + asked) > length) {
      if (lines.empty()) too_short(RetrievalTask::kv_retrieval, length, used + line.size() + asked);
      break;
    }
    used += line.size();
    longest_question = asked;
    lines.push_back(std::move(line));
  }
  const uint64_t wanted = CounterRng({rng.bits(0), key_of("asked")}).bits(0) % lines.size();
  RetrievalPrompt prompt{std::move(head), tokenizer.encode(value(wanted)), 0, static_cast<int64_t>(lines.size())};
  for (const Tokens& line : lines) append(prompt.tokens, line);
  append(prompt.tokens, question(wanted));
  prompt.depth = (static_cast<double>(wanted) + 0.5) / static_cast<double>(lines.size());
  return prompt;
}

}  // namespace

RetrievalPrompt make_retrieval_prompt(RetrievalTask task, const Tokenizer& tokenizer, int64_t length, int64_t sample,
                                      const RetrievalConfig& config) {
  const CounterRng rng({key_of(config::name_of(task)), static_cast<uint64_t>(config.seed),
                        static_cast<uint64_t>(length), static_cast<uint64_t>(sample)});
  if (task == RetrievalTask::kv_retrieval) return pairs_prompt(tokenizer, length, rng);
  const double depth = (static_cast<double>(sample) + 0.5) / static_cast<double>(config.samples);
  return passkey_prompt(tokenizer, length, depth, rng);
}

}  // namespace dga
