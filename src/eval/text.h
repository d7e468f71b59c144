#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/config.h"
#include "data/tokenizer.h"
#include "eval/config.h"

namespace dga {

/// Tokenised text that is evaluated: one sequence per document, or all documents as one.
struct EvalText {
  std::vector<std::vector<int32_t>> sequences;  // with BOS and EOS as configured
  int64_t documents = 0;
  int64_t tokens = 0;  // over all sequences
};

/// Token ids put around a document, where there are such.
struct DocumentEnds {
  std::optional<int32_t> bos, eos;
};

/// The next document's tokens without BOS and EOS; nothing at the end.
using NextDocument = std::function<std::optional<std::vector<int32_t>>()>;

/// Takes documents as `config` says (lengths, limits, cuts) until there are enough; `ends` are used only as far as
/// eval.bos and eval.eos ask for them. Throws an input error where no document is left.
EvalText make_eval_text(const EvalConfig& config, const NextDocument& next_document, const DocumentEnds& ends);

/// The same for the documents of eval.sources, the next from the source with the fewest tokens so far. BOS and EOS are
/// data.bos_id and data.eos_id, else the tokenizer's; `tokenizer` may be null for token bins. Throws a config error
/// without sources.
EvalText read_eval_text(const EvalConfig& eval, const DataConfig& data, std::shared_ptr<const Tokenizer> tokenizer);

/// Bytes of text that each token id stands for (0 for BOS, EOS and other control pieces), to turn a loss a token into
/// bits a byte.
std::vector<int32_t> token_byte_table(const Tokenizer& tokenizer);

/// Entropies in nats of the empirical distributions of the text's own tokens: -sum p(a) ln p(a), and
/// -sum p(a, b) ln p(b | a) over the adjacent pairs of each sequence. Nothing is held out or smoothed, so they are what
/// a table of frequencies fitted to this very text would reach: a low bar for unigrams, and for bigrams a bar that the
/// many pairs seen once make lower (harder) the shorter the text is.
struct TextEntropy {
  double unigram = 0.0;
  double bigram = 0.0;
};
TextEntropy text_entropy(const std::vector<std::vector<int32_t>>& sequences);

}  // namespace dga
