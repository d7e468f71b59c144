#include "optim/flat_layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "optim/adamw.h"

namespace dga {
namespace {

std::vector<TrainedParameter> some_parameters(at::ScalarType type = at::kFloat) {
  std::vector<TrainedParameter> parameters = {{"model.embed_tokens.weight", at::randn({10, 8})},
                                              {"model.layers.0.input_layernorm.weight", at::randn({8})},
                                              {"model.layers.0.mlp.up_proj.weight", at::randn({40, 8})},
                                              {"lm_head.weight", at::randn({10, 8})}};
  for (TrainedParameter& parameter : parameters) parameter.value = parameter.value.to(type).requires_grad_();
  return parameters;
}

TEST(FlatLayout, DecayedParametersComeFirstAndSlotsAreAligned) {
  const FlatLayout layout(OptimizerConfig(), some_parameters());
  ASSERT_EQ(layout.slots.size(), 4U);
  EXPECT_EQ(layout.slots[2].begin, 0);  // 320 numbers take 512 places
  EXPECT_EQ(layout.slots[3].begin, 512);
  EXPECT_EQ(layout.decayed_end, 768);
  EXPECT_EQ(layout.slots[0].begin, 768);
  EXPECT_EQ(layout.slots[1].begin, 1024);
  EXPECT_EQ(layout.size, 1280);
  EXPECT_EQ(layout.slots[2].shape, (std::vector<int64_t>{40, 8}));
  const at::Tensor flat = at::arange(layout.size);
  EXPECT_EQ(layout.slots[0].view_in(flat)[1][0].item<int64_t>(), 776);
}

TEST(FlatLayout, ParametersKeepTheirValuesAndShareOneStorage) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const std::vector<TrainedParameter> parameters = some_parameters(type);
    std::vector<at::Tensor> before;
    for (const TrainedParameter& parameter : parameters) before.push_back(parameter.value.detach().clone());
    const AdamW optimizer(OptimizerConfig(), 1, parameters, GradientSum::as_weights);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor& value = parameters[i].value;
      EXPECT_TRUE(at::equal(value.detach(), before[i]));
      EXPECT_TRUE(value.is_leaf() && value.requires_grad());
      EXPECT_TRUE(value.storage().is_alias_of(parameters[0].value.storage()));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(value.data_ptr()) % 64, 0U);  // as far as the CPU's allocator aligns
    }
  }
}

TEST(FlatLayout, GradientsGoToTheirSlotsAsSoonAsTheyAreMade) {
  const std::vector<TrainedParameter> parameters = some_parameters();
  AdamW optimizer(OptimizerConfig(), 1, parameters, GradientSum::as_weights);
  at::Tensor sum = at::zeros({});
  for (size_t i = 0; i < parameters.size(); ++i) sum = sum + (parameters[i].value * static_cast<double>(i + 1)).sum();
  sum.backward();
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_FALSE(parameters[i].value.grad().defined());
    EXPECT_TRUE(at::equal(optimizer.gradient(i), at::full_like(parameters[i].value.detach(), i + 1.0)));
  }
}

TEST(FlatLayout, WithoutTheOptimizerGradientsStayWithTheParameters) {
  const std::vector<TrainedParameter> parameters = some_parameters();
  { const AdamW optimizer(OptimizerConfig(), 1, parameters, GradientSum::as_weights); }
  parameters[0].value.sum().backward();
  EXPECT_TRUE(parameters[0].value.grad().defined());
}

}  // namespace
}  // namespace dga
