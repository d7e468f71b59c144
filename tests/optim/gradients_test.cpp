#include "optim/gradients.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace dga {
namespace {

TEST(GlobalNorm, IsTheNormOfAllElementsTogether) {
  EXPECT_DOUBLE_EQ(global_norm({at::full({2, 2}, 2.0, at::kDouble), at::full({9}, 1.0, at::kDouble)}), 5.0);
  EXPECT_EQ(global_norm({}), 0.0);
}

TEST(GlobalNorm, MixesTypes) {
  const double norm = global_norm({at::full({4}, 1.5, at::kBFloat16).to(at::kFloat), at::full({1}, 4.0, at::kFloat)});
  EXPECT_DOUBLE_EQ(norm, 5.0);
}

TEST(GlobalNorm, ShowsNonFiniteGradients) {
  const at::Tensor good = at::ones({3});
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor gradient = at::ones({5});
    gradient[3] = bad;
    EXPECT_FALSE(std::isfinite(global_norm({good, gradient})));
  }
}

TEST(ClipFactor, ScalesDownOnly) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_EQ(clip_factor(4.0, 0.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
}

}  // namespace
}  // namespace dga
