#include "eval/perplexity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "eval/attention_label.h"
#include "eval/windows.h"
#include "loss/linear_cross_entropy.h"
#include "model/attention_record.h"
#include "util/log.h"
#include "util/timer.h"

namespace dga {
namespace {

using nlohmann::json;

constexpr int64_t kLogitChunkTokens = 1024;

/// A window of one of the text's sequences.
struct PlacedWindow {
  size_t sequence = 0;
  int64_t sequence_start = 0;  // number of the sequence's first token in the whole text
  Window window;
};

/// What is known about one context length after some of its windows.
struct LengthSums {
  size_t windows = 0;             // done so far
  std::vector<NllSum> sequences;  // of the text
  std::vector<NllSum> stretches;  // of the stream, each as long as the context; without per_document
  std::vector<NllSum> positions;  // by the tokens before, in equal stretches of the context
  int64_t bytes = 0;
  double seconds = 0;
};

json sums_state(const LengthSums& sums) {
  return {{"windows", sums.windows},
          {"sequences", sums_json(sums.sequences)},
          {"stretches", sums_json(sums.stretches)},
          {"positions", sums_json(sums.positions)},
          {"bytes", sums.bytes},
          {"seconds", sums.seconds}};
}

LengthSums restored(const json& state) {
  LengthSums sums;
  state.at("windows").get_to(sums.windows);
  sums.sequences = sums_of(state.at("sequences"));
  sums.stretches = sums_of(state.at("stretches"));
  sums.positions = sums_of(state.at("positions"));
  state.at("bytes").get_to(sums.bytes);
  state.at("seconds").get_to(sums.seconds);
  return sums;
}

/// What an earlier call left of the sums over this text: an array; empty where the text has changed since.
json earlier_sums(const EvalText& text, const EvalProgress& progress, const Communicator& ranks) {
  const json& earlier = progress.earlier();
  if (earlier.is_null()) return json::array();
  if (earlier.at("documents") == text.documents && earlier.at("tokens") == text.tokens) return earlier.at("lengths");
  if (ranks.is_first())
    log::warning("the text has changed since the evaluation was stopped; starting from the beginning");
  return json::array();
}

LengthSums empty_sums(const EvalConfig& config, const EvalText& text, int64_t context_length) {
  LengthSums sums;
  sums.sequences.resize(text.sequences.size());
  sums.positions.resize(static_cast<size_t>(std::min(config.position_buckets, context_length)));
  if (!config.per_document) sums.stretches.resize(static_cast<size_t>(text.tokens / context_length + 1));
  return sums;
}

/// The first token, counted from the window's start, of an equal stretch of the context.
int64_t bucket_begin(size_t bucket, size_t buckets, int64_t context_length) {
  const auto i = static_cast<int64_t>(bucket), n = static_cast<int64_t>(buckets);
  return (i * context_length + n - 1) / n;
}

std::vector<PlacedWindow> place_windows(const EvalConfig& config, const EvalText& text, int64_t context_length) {
  const int64_t stride = config.stride_for(context_length);
  std::vector<PlacedWindow> placed;
  int64_t sequence_start = 0;
  for (size_t s = 0; s < text.sequences.size(); ++s) {
    const int64_t size = static_cast<int64_t>(text.sequences[s].size());
    const int64_t used = config.truncate_to_context ? std::min(size, context_length) : size;
    for (const Window& window : plan_windows(config.protocol, used, context_length, stride)) {
      placed.push_back({s, sequence_start, window});
    }
    sequence_start += size;
  }
  if (placed.empty()) {
    fail(ExitCode::config, "eval: no window of ", context_length, " tokens scores anything: the text has ", text.tokens,
         " tokens in ", text.sequences.size(), config.per_document ? " documents" : " stream");
  }
  return placed;
}

/// Whether both windows may stand in one batch.
bool same_shape(const Window& a, const Window& b) {
  return a.length == b.length && a.first_scored - a.start == b.first_scored - b.start;
}

WindowBatch make_batch(const EvalText& text, const std::vector<PlacedWindow>& placed, size_t first, size_t last) {
  const Window& shape = placed[first].window;
  WindowBatch batch;
  batch.first_scored = shape.first_scored - shape.start;
  batch.tokens = at::empty({static_cast<int64_t>(last - first), shape.length}, at::kLong);
  int64_t* out = batch.tokens.data_ptr<int64_t>();
  for (size_t i = first; i < last; ++i) {
    const auto& [sequence, sequence_start, window] = placed[i];
    out = std::copy_n(text.sequences[sequence].begin() + window.start, window.length, out);
    batch.first_token.push_back(sequence_start + window.start);
  }
  return batch;
}

int64_t scored_tokens(const WindowBatch& batch) { return batch.tokens.size(1) - batch.first_scored; }

/// The batch's log-probabilities [B, scored].
at::Tensor score(const WindowScorer& scorer, const WindowBatch& batch) {
  const at::Tensor values = scorer(batch);
  DGA_CHECK(values.dim() == 2 && values.size(0) == batch.tokens.size(0) && values.size(1) == scored_tokens(batch),
            "a scorer returned log-probabilities of shape ", values.sizes(), " for windows of shape ",
            batch.tokens.sizes(), " scored from ", batch.first_scored);
  return values;
}

/// Adds the batch's log-probabilities [B * scored] double to the sums.
void add_batch(const at::Tensor& log_probs, const std::vector<PlacedWindow>& placed, const WindowBatch& batch,
               const std::vector<int32_t>& token_bytes, int64_t context_length, LengthSums& sums) {
  const at::Tensor values = log_probs.contiguous();
  const int64_t scored = scored_tokens(batch);
  const double* value = values.data_ptr<double>();
  const auto tokens = batch.tokens.accessor<int64_t, 2>();
  const auto buckets = static_cast<int64_t>(sums.positions.size());
  for (int64_t row = 0; row < batch.tokens.size(0); ++row) {
    NllSum& sequence = sums.sequences[placed[sums.windows + static_cast<size_t>(row)].sequence];
    for (int64_t i = 0; i < scored; ++i, ++value) {
      const int64_t before = batch.first_scored + i, position = batch.first_token[row] + before;
      if (!std::isfinite(*value)) {
        fail(ExitCode::numerics, "eval: log-probability ", *value, " at token ", position,
             " of the text, in a window of ", batch.tokens.size(1), " tokens");
      }
      sequence.add(-*value);
      sums.positions[static_cast<size_t>(before * buckets / context_length)].add(-*value);
      if (!sums.stretches.empty()) sums.stretches[static_cast<size_t>(position / context_length)].add(-*value);
      if (!token_bytes.empty()) sums.bytes += token_bytes.at(tokens[row][before]);
    }
  }
  sums.windows += static_cast<size_t>(batch.tokens.size(0));
}

LengthResult summarise(const EvalConfig& config, const LengthSums& sums, int64_t context_length, bool bytes_known) {
  LengthResult result;
  result.context_length = context_length;
  result.stride = config.stride_for(context_length);
  result.windows = static_cast<int64_t>(sums.windows);
  result.seconds = sums.seconds;
  double nll_sum = 0.0;
  double perplexity_sum = 0.0;
  for (const NllSum& sum : sums.sequences) {
    if (sum.tokens == 0) continue;
    nll_sum += sum.nll;
    result.tokens_scored += sum.tokens;
    ++result.documents_scored;
    perplexity_sum += std::exp(sum.mean());
  }
  result.nll = nll_sum / static_cast<double>(result.tokens_scored);
  result.perplexity = std::exp(result.nll);
  result.nll_ci95 = ratio_ci95(config.per_document ? sums.sequences : sums.stretches);
  if (config.per_document) {
    result.document_perplexity_mean = perplexity_sum / static_cast<double>(result.documents_scored);
  }
  if (bytes_known && sums.bytes > 0) {
    result.bits_per_byte = nll_sum / std::numbers::ln2 / static_cast<double>(sums.bytes);
  }
  const size_t buckets = sums.positions.size();
  for (size_t i = 0; i < buckets; ++i) {
    result.by_position.push_back(
        {bucket_begin(i, buckets, context_length), bucket_begin(i + 1, buckets, context_length), sums.positions[i]});
  }
  return result;
}

/// The next batches from window `first` on, at most `limit`: what one pass after the other would take.
std::vector<WindowBatch> next_batches(const EvalConfig& config, const EvalText& text,
                                      const std::vector<PlacedWindow>& placed, size_t first, size_t limit) {
  std::vector<WindowBatch> batches;
  while (first < placed.size() && batches.size() < limit) {
    const auto rows = static_cast<size_t>(std::max<int64_t>(1, config.batch_tokens / placed[first].window.length));
    size_t last = first + 1;
    while (last < placed.size() && last - first < rows && same_shape(placed[first].window, placed[last].window)) ++last;
    batches.push_back(make_batch(text, placed, first, last));
    first = last;
  }
  return batches;
}

/// Sums over all windows of one context length. `after_round` is called after every round of passes.
LengthSums sum_length(const WindowScorer& scorer, PassRounds& rounds, const EvalConfig& config, const EvalText& text,
                      const std::vector<int32_t>& token_bytes, int64_t context_length, LengthSums sums,
                      const std::function<void(const LengthSums&)>& after_round) {
  Timer timer;
  const std::vector<PlacedWindow> placed = place_windows(config, text, context_length);
  while (sums.windows < placed.size()) {
    const std::vector<WindowBatch> batches = next_batches(config, text, placed, sums.windows, rounds.size());
    std::vector<int64_t> counts;
    for (const WindowBatch& batch : batches) counts.push_back(batch.tokens.size(0) * scored_tokens(batch));
    const std::vector<at::Tensor> results = rounds.run(counts, [&](size_t i) { return score(scorer, batches[i]); });
    for (size_t i = 0; i < batches.size(); ++i) {
      add_batch(results[i], placed, batches[i], token_bytes, context_length, sums);
    }
    sums.seconds += timer.restart();
    log::show_status(str("eval: context ", context_length, ", window ", sums.windows, " of ", placed.size()));
    after_round(sums);
  }
  log::show_status("");
  return sums;
}

void check_vocabulary(const EvalText& text, int64_t vocab_size) {
  int64_t position = 0;
  for (const std::vector<int32_t>& sequence : text.sequences) {
    for (const int32_t token : sequence) {
      DGA_CHECK_INPUT(token >= 0 && token < vocab_size, "eval: token ", position, " of the text has id ", token,
                      ", but the model's vocabulary has ", vocab_size, " entries: another tokenizer?");
      ++position;
    }
  }
}

}  // namespace

WindowScorer model_scorer(const Llama& model) {
  return [&model](const WindowBatch& batch) {
    const at::NoGradGuard no_grad;
    const int64_t rows = batch.tokens.size(0);
    const int64_t length = batch.tokens.size(1);
    const at::Tensor tokens = batch.tokens.to(model.device());
    SequenceLayout layout = SequenceLayout::whole_rows(rows, length);
    layout.first_token = batch.first_token;
    const at::Tensor hidden = model.forward(tokens, layout);                                      // [B, L, hidden]
    const at::Tensor before = hidden.slice(1, batch.first_scored - 1, length - 1).flatten(0, 1);  // [N, hidden]
    const at::Tensor labels = tokens.slice(1, batch.first_scored, length).flatten();              // [N]
    return token_log_probs(before, model.output_weight(), labels, kLogitChunkTokens)
        .view({rows, length - batch.first_scored})
        .cpu();
  };
}

EvalResult evaluate_perplexity(const WindowScorer& scorer, const EvalConfig& config, const EvalText& text,
                               const std::vector<int32_t>& token_bytes, const EvalRanks& ranks,
                               EvalProgress& progress) {
  DGA_CHECK(!config.context_lengths.empty(), "eval: no context lengths");
  EvalResult result;
  result.protocol = config.protocol;
  result.per_document = config.per_document;
  result.truncate_to_context = config.truncate_to_context;
  result.text_documents = text.documents;
  result.text_tokens = text.tokens;
  if (!token_bytes.empty()) {
    result.text_bytes = 0;
    for (const std::vector<int32_t>& sequence : text.sequences) {
      for (const int32_t token : sequence) *result.text_bytes += token_bytes.at(token);
    }
  }
  result.entropy = text_entropy(text.sequences);
  json done = earlier_sums(text, progress, ranks.ranks);  // of each length so far
  PassRounds rounds(ranks, "eval");
  for (size_t i = 0; i < config.context_lengths.size(); ++i) {
    const int64_t context_length = config.context_lengths[i];
    LengthSums sums = i < done.size() ? restored(done[i]) : empty_sums(config, text, context_length);
    const auto after_round = [&](const LengthSums& now) {
      progress.after_round(rounds.stop_signal(), [&]() -> json {
        done[i] = sums_state(now);
        return {{"documents", text.documents}, {"tokens", text.tokens}, {"lengths", done}};
      });
    };
    sums = sum_length(scorer, rounds, config, text, token_bytes, context_length, std::move(sums), after_round);
    done[i] = sums_state(sums);
    result.lengths.push_back(summarise(config, sums, context_length, !token_bytes.empty()));
  }
  return result;
}

EvalResult evaluate_perplexity(const Llama& model, const AttentionConfig& attention, const EvalConfig& config,
                               const EvalText& text, const std::vector<int32_t>& token_bytes, Communicator& ranks,
                               EvalProgress& progress) {
  check_vocabulary(text, model.config().vocab_size);
  EvalResult result =
      evaluate_perplexity(model_scorer(model), config, text, token_bytes, {ranks, model.device()}, progress);
  result.attention = attention_label(attention, model.config().num_hidden_layers);
  result.attention_settings = attention_json(attention);
  result.looks_ahead = model.looks_ahead();
  for (LengthResult& length : result.lengths) {
    length.visible_pairs_per_token =
        model.visible_pairs_per_token(length.context_length) / static_cast<double>(model.config().num_hidden_layers);
  }
  return result;
}

}  // namespace dga
