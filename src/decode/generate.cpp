#include "decode/generate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "util/error.h"

namespace dga {
namespace {

at::Tensor check_prompt(const std::vector<int32_t>& prompt, const Llama& model) {
  DGA_CHECK_INPUT(!prompt.empty(), "generate: the prompt is empty; it needs at least one token");
  for (size_t i = 0; i < prompt.size(); ++i) {
    DGA_CHECK_INPUT(prompt[i] >= 0 && prompt[i] < model.config().vocab_size, "generate: token ", i,
                    " of the prompt has id ", prompt[i], ", but the model's vocabulary has ", model.config().vocab_size,
                    " entries: another tokenizer?");
  }
  return at::tensor(at::ArrayRef<int32_t>(prompt), at::kLong).unsqueeze(0).to(model.device());
}

}  // namespace

std::vector<int32_t> generate(const Llama& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                              const std::function<void(int32_t)>& on_token) {
  check_sampling(options.sampling);
  const at::NoGradGuard no_grad;
  ModelCache cache = model.make_cache();
  at::Tensor input = check_prompt(prompt, model);  // [1, T]
  std::vector<int32_t> generated;
  while (static_cast<int64_t>(generated.size()) < options.max_new_tokens) {
    const at::Tensor last = model.decode(input, cache).select(1, -1);                  // [1, hidden]
    const at::Tensor logits = at::matmul(last, model.output_weight().t()).squeeze(0);  // [V]
    const int64_t token = sample_token(logits, options.sampling, static_cast<int64_t>(generated.size()));
    if (std::ranges::find(options.stop_tokens, token) != options.stop_tokens.end()) break;
    generated.push_back(static_cast<int32_t>(token));
    if (on_token) on_token(generated.back());
    input = at::full({1, 1}, token, at::TensorOptions(at::kLong).device(model.device()));
  }
  return generated;
}

}  // namespace dga
