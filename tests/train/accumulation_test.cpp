// Loss and gradients of a step must not depend on how its rows are split, however unevenly labels are spread.
#include <gtest/gtest.h>

#include <cmath>

#include "loss/linear_cross_entropy.h"
#include "model/llama.h"
#include "optim/adamw.h"

namespace dga {
namespace {

LlamaConfig tiny() {
  LlamaConfig config;
  config.vocab_size = 40;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.initializer_range = 0.2;
  return config;
}

struct Step {
  double loss = 0;
  double norm = 0;
  std::vector<at::Tensor> gradients;
};

/// A step over 6 rows of 20 tokens, with 0 to 20 labels a row.
Step run_step(const Llama& model, const at::Tensor& tokens, const at::Tensor& labels, const std::vector<int64_t>& split,
              int64_t chunk_tokens) {
  const int64_t count = (labels != kNoLabel).sum().item<int64_t>();
  Step step;
  int64_t row = 0;
  for (const int64_t rows : split) {
    SequenceLayout layout = SequenceLayout::whole_rows(rows, 20);
    for (int64_t i = 0; i < rows; ++i) layout.first_token[i] = (row + i) * 20;
    const at::Tensor hidden = model.forward(tokens.narrow(0, row, rows), layout);
    const LossSum sum = linear_cross_entropy(hidden.flatten(0, 1), model.output_weight(),
                                             labels.narrow(0, row, rows).flatten(), {chunk_tokens, 1e-3});
    (sum.loss_sum / count).backward();
    step.loss += sum.loss_sum.item<double>() / static_cast<double>(count);
    row += rows;
  }
  double squares = 0;
  for (const NamedParameter& parameter : model.parameters()) {
    at::Tensor value = parameter.value;
    step.gradients.push_back(value.grad().to(at::kDouble));
    squares += step.gradients.back().square().sum().item<double>();
    value.mutable_grad().reset();
  }
  step.norm = std::sqrt(squares);
  return step;
}

TEST(Accumulation, SplitAndChunksDoNotMatter) {
  for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-13), std::pair(at::kFloat, 2e-6)}) {
    const Llama model(tiny(), AttentionConfig(), 3, type, at::kCPU);
    at::Generator generator = at::detail::createCPUGenerator(9);
    const at::Tensor tokens = at::randint(0, 40, {6, 20}, generator, at::TensorOptions(at::kLong));
    const at::Tensor labels = at::randint(0, 40, {6, 20}, generator, at::TensorOptions(at::kLong));
    for (int64_t row = 0; row < 6; ++row) labels[row].narrow(0, 0, row == 5 ? 20 : row * 3).fill_(kNoLabel);

    const Step whole = run_step(model, tokens, labels, {6}, 1000);
    for (const std::vector<int64_t>& split : {std::vector<int64_t>{3, 3}, {2, 2, 2}, {4, 2}, {1, 1, 1, 1, 1, 1}}) {
      for (const int64_t chunk_tokens : {7, 1000}) {
        const Step parts = run_step(model, tokens, labels, split, chunk_tokens);
        EXPECT_LE(std::abs(parts.loss - whole.loss), tolerance * whole.loss);
        for (size_t i = 0; i < whole.gradients.size(); ++i) {
          const double worst = (parts.gradients[i] - whole.gradients[i]).abs().max().item<double>();
          EXPECT_LE(worst, tolerance * whole.norm) << i << " split into " << split.size();
        }
      }
    }
  }
}

TEST(Accumulation, PaddingDoesNotMatter) {
  const Llama model(tiny(), AttentionConfig(), 3, at::kDouble, at::kCPU);
  at::Generator generator = at::detail::createCPUGenerator(9);
  const at::Tensor tokens = at::randint(0, 40, {2, 20}, generator, at::TensorOptions(at::kLong));
  const at::Tensor labels = at::randint(0, 40, {2, 20}, generator, at::TensorOptions(at::kLong));
  const Step bare = run_step(model, tokens, labels, {2}, 8);
  // Two more rows without a label, as a short last batch would be filled up.
  const at::Tensor more_tokens =
      at::cat({tokens, at::randint(0, 40, {2, 20}, generator, at::TensorOptions(at::kLong))});
  const at::Tensor more_labels = at::cat({labels, at::full({2, 20}, kNoLabel, at::kLong)});
  const Step padded = run_step(model, more_tokens, more_labels, {4}, 8);
  EXPECT_NEAR(padded.loss, bare.loss, 1e-13);
  for (size_t i = 0; i < bare.gradients.size(); ++i) {
    EXPECT_LE((padded.gradients[i] - bare.gradients[i]).abs().max().item<double>(), 1e-13 * bare.norm) << i;
  }
}

}  // namespace
}  // namespace dga
