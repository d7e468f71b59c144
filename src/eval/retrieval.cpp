#include "eval/retrieval.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

using nlohmann::json;

constexpr int64_t kDepths = 5;

using Prompts = std::vector<RetrievalPrompt>;

at::Tensor stacked(const std::vector<std::vector<int32_t>>& rows) {
  std::vector<at::Tensor> tensors;
  for (const std::vector<int32_t>& row : rows) tensors.push_back(at::tensor(row, at::kInt).to(at::kLong));
  return at::stack(tensors);
}

/// 1 for each of some prompts of equal length, with answers of equal length, that is answered right, else 0.
at::Tensor answer(const NextTokens& next, Asking asking, const Prompts& prompts) {
  std::vector<std::vector<int32_t>> questions, answers;
  for (const RetrievalPrompt& prompt : prompts) {
    questions.push_back(prompt.tokens);
    answers.push_back(prompt.answer);
  }
  const at::Tensor asked = stacked(questions), wanted = stacked(answers);  // [B, L], [B, A]
  const int64_t length = asked.size(1), count = wanted.size(1);
  at::Tensor found;
  if (asking == Asking::at_once) {
    found = next(at::cat({asked, wanted.narrow(1, 0, count - 1)}, 1), length - 1);
  } else {
    std::vector<at::Tensor> columns;
    for (int64_t i = 0; i < count; ++i) {
      columns.push_back(next(at::cat({asked, wanted.narrow(1, 0, i)}, 1), length - 1 + i));
    }
    found = at::cat(columns, 1);
  }
  DGA_CHECK(found.sizes() == wanted.sizes(), "next tokens of shape ", found.sizes(), " for answers ", wanted.sizes());
  return found.eq(wanted).all(1);
}

bool same_shape(const RetrievalPrompt& a, const RetrievalPrompt& b) {
  return a.tokens.size() == b.tokens.size() && a.answer.size() == b.answer.size();
}

/// The next batches from prompt `first` on, at most `limit`, of prompts of one shape and at most `rows`.
std::vector<Prompts> next_batches(const Prompts& prompts, size_t first, size_t rows, size_t limit) {
  std::vector<Prompts> batches;
  while (first < prompts.size() && batches.size() < limit) {
    size_t last = first + 1;
    while (last < prompts.size() && last - first < rows && same_shape(prompts[first], prompts[last])) ++last;
    const auto begin = prompts.begin();
    batches.emplace_back(begin + static_cast<std::ptrdiff_t>(first), begin + static_cast<std::ptrdiff_t>(last));
    first = last;
  }
  return batches;
}

void count(const RetrievalPrompt& prompt, bool match, RetrievalResult& result) {
  const auto depth = std::min<int64_t>(static_cast<int64_t>(prompt.depth * kDepths), kDepths - 1);
  DepthResult& bucket = result.by_depth[static_cast<size_t>(depth)];
  ++bucket.samples;
  bucket.matches += match ? 1 : 0;
  ++result.samples;
  result.matches += match ? 1 : 0;
  const auto n = static_cast<double>(result.samples);
  result.mean_prompt_tokens += (static_cast<double>(prompt.tokens.size()) - result.mean_prompt_tokens) / n;
  result.mean_items += (static_cast<double>(prompt.items) - result.mean_items) / n;
}

RetrievalResult empty_result(int64_t length) {
  RetrievalResult result;
  result.length = length;
  for (int64_t i = 0; i < kDepths; ++i) {
    result.by_depth.push_back({static_cast<double>(i) / kDepths, static_cast<double>(i + 1) / kDepths, 0, 0});
  }
  return result;
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof(text), "%.1f", 100 * share);
  return text;
}

}  // namespace

NextTokens model_next_tokens(const Llama& model) {
  return [&model](const at::Tensor& tokens, int64_t first) {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden =
        model.forward(tokens.to(model.device()), SequenceLayout::whole_rows(tokens.size(0), tokens.size(1)));
    return at::linear(hidden.slice(1, first), model.output_weight()).argmax(2).cpu();
  };
}

std::vector<RetrievalResult> evaluate_retrieval(const NextTokens& next, Asking asking, RetrievalTask task,
                                                const Tokenizer& tokenizer, const RetrievalConfig& config,
                                                int64_t batch_tokens, const EvalRanks& ranks, EvalProgress& progress) {
  json answered = progress.earlier().is_null() ? json::array() : progress.earlier();  // by length, the outcomes so far
  PassRounds rounds(ranks, "eval");
  std::vector<RetrievalResult> results;
  for (size_t i = 0; i < config.lengths.size(); ++i) {
    const int64_t length = config.lengths[i];
    if (i >= answered.size()) answered.push_back(json::array());
    std::vector<RetrievalPrompt> prompts;
    for (int64_t s = 0; s < config.samples; ++s) {
      prompts.push_back(make_retrieval_prompt(task, tokenizer, length, s, config));
    }
    const auto rows = static_cast<size_t>(std::max<int64_t>(1, batch_tokens / length));
    while (answered[i].size() < prompts.size()) {
      const std::vector<Prompts> batches = next_batches(prompts, answered[i].size(), rows, rounds.size());
      std::vector<int64_t> counts;
      for (const Prompts& batch : batches) counts.push_back(static_cast<int64_t>(batch.size()));
      for (const at::Tensor& matches : rounds.run(counts, [&](size_t b) { return answer(next, asking, batches[b]); })) {
        for (int64_t m = 0; m < matches.size(0); ++m) answered[i].push_back(matches[m].item<double>() != 0);
      }
      log::show_status(
          str(config::name_of(task), ": length ", length, ", prompt ", answered[i].size(), " of ", prompts.size()));
      progress.after_round(rounds.stop_signal(), [&] { return answered; });
    }
    RetrievalResult result = empty_result(length);
    for (size_t s = 0; s < prompts.size(); ++s) count(prompts[s], answered[i][s].get<bool>(), result);
    results.push_back(std::move(result));
  }
  log::show_status("");
  return results;
}

json retrieval_json(RetrievalTask task, const RetrievalConfig& config, const std::vector<RetrievalResult>& results) {
  json rows = json::array();
  for (const RetrievalResult& result : results) {
    const Interval95 interval = wilson_ci95(result.matches, result.samples);
    json depths = json::array();
    for (const DepthResult& depth : result.by_depth) {
      depths.push_back(
          {{"begin", depth.begin}, {"end", depth.end}, {"samples", depth.samples}, {"matches", depth.matches}});
    }
    rows.push_back({{"length", result.length},
                    {"samples", result.samples},
                    {"matches", result.matches},
                    {"exact_match", static_cast<double>(result.matches) / static_cast<double>(result.samples)},
                    {"ci95", {interval.low, interval.high}},
                    {"mean_prompt_tokens", result.mean_prompt_tokens},
                    {"mean_items", result.mean_items},
                    {"by_depth", depths}});
  }
  return {{"task", config::name_of(task)}, {"seed", config.seed}, {"results", rows}};
}

std::string retrieval_table(const json& result) {
  std::string text = str(result.at("task").get<std::string>(), ", ", result.at("attention").get<std::string>(),
                         result.at("looks_ahead").get<bool>() ? " (asked token by token)" : "",
                         "\nlength  samples  exact match %  95 % interval  by depth, front to end\n");
  for (const json& row : result.at("results")) {
    char line[128];
    std::snprintf(line, sizeof(line), "%6lld  %7lld  %13s  %6s-%-6s ", static_cast<long long>(row.at("length")),
                  static_cast<long long>(row.at("samples")), percent(row.at("exact_match")).c_str(),
                  percent(row.at("ci95").at(0)).c_str(), percent(row.at("ci95").at(1)).c_str());
    text += line;
    for (const json& depth : row.at("by_depth")) {
      text += str(" ", depth.at("matches").get<int64_t>(), "/", depth.at("samples").get<int64_t>());
    }
    text += "\n";
  }
  return text;
}

}  // namespace dga
