#pragma once

#include <c10/core/ScalarType.h>

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "attention/config.h"
#include "model/llama.h"
#include "util/share.h"

namespace dga {

/// Copies the weights of a Hugging Face folder (model.safetensors, or shards named by model.safetensors.index.json)
/// into the parameters, casting to their dtype. Files are memory-mapped, one tensor is copied at a time. Throws an
/// input error that names missing, unexpected and wrongly shaped tensors; rotary_emb.inv_freq is ignored, and so is
/// lm_head.weight where the embeddings are tied and it equals the embedding.
void load_weights(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                  bool tie_word_embeddings);

/// The type in which a Hugging Face folder stores model.embed_tokens.weight. Throws as load_weights does.
at::ScalarType stored_dtype(const std::filesystem::path& folder);

/// What save_hf writes besides the weights.
struct HfExport {
  LlamaConfig config;
  std::optional<AttentionConfig> attention;  // recorded in config.json if given
  at::ScalarType dtype = at::kFloat;         // of the written weights
  int64_t max_shard_bytes = 5'000'000'000;
  std::filesystem::path tokenizer_source;  // a Hugging Face folder or a sentencepiece model; empty for none
};

/// Writes a Hugging Face folder that transformers 4 and 5 load: config.json, weights in one file or shards with their
/// index, tokenizer and generation files. Written under a temporary name beside `folder`, synced and renamed; throws
/// an input error if `folder` exists and is not empty. The parameters may be copies on any device.
void save_hf(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
             const HfExport& description);

/// The same files, each synced, into a folder that exists: for callers that rename or complete it themselves. Of
/// several processes that write them together each writes its share of the weight files, which are of about equal size
/// and as many as there are processes, or a multiple; the first writes the other files too.
void write_hf_files(const std::filesystem::path& folder, const std::vector<NamedParameter>& parameters,
                    const HfExport& description, const Share& share = {});

/// Names of the parameters that a call with this share writes; of the others it needs the sizes alone.
std::set<std::string> parameters_written(const std::vector<NamedParameter>& parameters, const HfExport& description,
                                         const Share& share);

/// The largest difference between the logits of two models over one sequence of random tokens (fixed by `length` and
/// the vocabulary). Computed in fp32, or the models' type if that is wider.
double largest_logit_difference(const Llama& a, const Llama& b, int64_t length);

}  // namespace dga
