#include "eval/text.h"

#include <algorithm>

#include "data/document_reader.h"
#include "util/error.h"

namespace dga {
namespace {

/// Appends one document to the text: BOS, tokens, EOS unless it was cut.
class TextBuilder {
 public:
  TextBuilder(const EvalConfig& config, const DocumentEnds& ends) : config_(config) {
    if (config.bos) bos_ = ends.bos;
    if (config.eos) eos_ = ends.eos;
  }

  bool full() const {
    return (config_.max_documents > 0 && text_.documents >= config_.max_documents) ||
           (config_.max_tokens > 0 && text_.tokens >= config_.max_tokens);
  }

  void add(const std::vector<int32_t>& tokens) {
    if (tokens.empty() || static_cast<int64_t>(tokens.size()) < config_.min_document_tokens) return;
    if (config_.per_document || text_.sequences.empty()) text_.sequences.emplace_back();
    std::vector<int32_t>& sequence = text_.sequences.back();
    const size_t before = sequence.size();
    if (bos_) sequence.push_back(*bos_);
    sequence.insert(sequence.end(), tokens.begin(), tokens.end());
    if (eos_) sequence.push_back(*eos_);
    const auto size = static_cast<int64_t>(sequence.size() - before);
    const int64_t kept = std::min(size, limit());
    sequence.resize(before + static_cast<size_t>(kept));
    ++text_.documents;
    text_.tokens += kept;
  }

  EvalText take() { return std::move(text_); }

 private:
  /// Tokens that the next document may have.
  int64_t limit() const {
    int64_t limit = INT64_MAX;
    if (config_.max_document_tokens > 0) limit = config_.max_document_tokens;
    if (config_.max_tokens > 0) limit = std::min(limit, config_.max_tokens - text_.tokens);
    return limit;
  }

  const EvalConfig& config_;
  std::optional<int32_t> bos_, eos_;
  EvalText text_;
};

/// Documents of several sources: the next one comes from the source with the fewest tokens so far (ties: the first), so
/// that a limit on documents or tokens does not leave out the later sources.
class SourcesInTurn {
 public:
  SourcesInTurn(const EvalConfig& eval, const DataConfig& data, const std::shared_ptr<const Tokenizer>& tokenizer) {
    for (const SourceConfig& source : eval.sources) {
      sources_.push_back(
          {std::make_unique<DocumentReader>(std::vector{source}, data, tokenizer, eval.min_document_tokens)});
    }
  }

  std::optional<std::vector<int32_t>> next() {
    while (!sources_.empty()) {
      const auto source = std::ranges::min_element(sources_, {}, &Source::tokens);
      if (std::optional<TokenizedDocument> document = source->reader->next()) {
        source->tokens += static_cast<int64_t>(document->tokens.size());
        return std::move(document->tokens);
      }
      sources_.erase(source);
    }
    return std::nullopt;
  }

 private:
  struct Source {
    std::unique_ptr<DocumentReader> reader;
    int64_t tokens = 0;
  };
  std::vector<Source> sources_;
};

std::optional<int32_t> special_id(const std::optional<int64_t>& configured, int32_t tokenizer_id) {
  if (configured) return static_cast<int32_t>(*configured);
  return tokenizer_id >= 0 ? std::optional(tokenizer_id) : std::nullopt;
}

}  // namespace

EvalText make_eval_text(const EvalConfig& config, const NextDocument& next_document, const DocumentEnds& ends) {
  TextBuilder builder(config, ends);
  while (!builder.full()) {
    const std::optional<std::vector<int32_t>> tokens = next_document();
    if (!tokens) break;
    builder.add(*tokens);
  }
  EvalText text = builder.take();
  DGA_CHECK_INPUT(text.documents > 0, "eval: the sources hold no document of at least ",
                  std::max<int64_t>(1, config.min_document_tokens), " tokens");
  return text;
}

EvalText read_eval_text(const EvalConfig& eval, const DataConfig& data, std::shared_ptr<const Tokenizer> tokenizer) {
  if (eval.sources.empty())
    fail(ExitCode::config, "eval.sources: no held-out text to evaluate; list at least one source");
  const DocumentEnds ends{special_id(data.bos_id, tokenizer ? tokenizer->bos_id() : -1),
                          special_id(data.eos_id, tokenizer ? tokenizer->eos_id() : -1)};
  SourcesInTurn sources(eval, data, std::move(tokenizer));
  return make_eval_text(
      eval, [&sources] { return sources.next(); }, ends);
}

std::vector<int32_t> token_byte_table(const Tokenizer& tokenizer) {
  std::vector<int32_t> table(tokenizer.vocab_size());
  for (size_t id = 0; id < table.size(); ++id) table[id] = tokenizer.token_bytes(static_cast<int32_t>(id));
  return table;
}

}  // namespace dga
