#include "model/rope.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/tensor_compare.h"

namespace dga {
namespace {

using testing::compare;

struct Reference {
  const char* name;
  double theta;
  RopeScaling scaling;
  std::vector<float> inverse;
  float attention_factor;
};

RopeScaling scaled(RopeType type, double factor, int64_t original = 0) {
  RopeScaling scaling;
  scaling.type = type;
  scaling.factor = factor;
  scaling.original_max_position_embeddings = original;
  return scaling;
}

RopeScaling yarn_with_everything() {
  RopeScaling scaling = scaled(RopeType::yarn, 8.0, 512);
  scaling.beta_fast = 16.0;
  scaling.beta_slow = 2.0;
  scaling.mscale = 0.7;
  scaling.mscale_all_dim = 1.3;
  scaling.truncate = false;
  return scaling;
}

RopeScaling yarn_with_attention_factor() {
  RopeScaling scaling = scaled(RopeType::yarn, 2.0, 2048);
  scaling.attention_factor = 0.75;
  return scaling;
}

LlamaConfig config_with(double theta, const RopeScaling& scaling) {
  LlamaConfig config;
  config.head_dim = 16;
  config.rope_theta = theta;
  config.rope_scaling = scaling;
  return config;
}

/// inv_freq and attention_scaling of LlamaRotaryEmbedding of transformers 5.24.0 at head_dim 16.
std::vector<Reference> references() {
  return {
      {"none",
       1e4,
       {},
       {1.0F, 0.3162277638912201F, 0.10000000149011612F, 0.03162277862429619F, 0.009999999776482582F,
        0.003162277862429619F, 0.0010000000474974513F, 0.0003162277862429619F},
       1.0F},
      {"linear",
       1e4,
       scaled(RopeType::linear, 4.0),
       {0.25F, 0.07905694097280502F, 0.02500000037252903F, 0.007905694656074047F, 0.0024999999441206455F,
        0.0007905694656074047F, 0.0002500000118743628F, 7.905694656074047e-05F},
       1.0F},
      {"ntk",
       1e4,
       scaled(RopeType::ntk, 4.0),
       {1.0F, 0.25941282510757446F, 0.06729500740766525F, 0.01745718903839588F, 0.0045286184176802635F,
        0.0011747815879061818F, 0.0003047533973585814F, 7.905694656074047e-05F},
       1.0F},
      {"yarn",
       1e4,
       scaled(RopeType::yarn, 4.0, 64),
       {1.0F, 0.23717081546783447F, 0.04999999701976776F, 0.007905694656074047F, 0.0024999999441206455F,
        0.0007905694656074047F, 0.0002500000118743628F, 7.905694656074047e-05F},
       1.138629436111989F},
      {"yarn with betas, mscale, no truncation",
       5e4,
       yarn_with_everything(),
       {1.0F, 0.2586001455783844F, 0.036565206944942474F, 0.0021617042366415262F, 0.0005590170039795339F,
        0.00014456186909228563F, 3.738372106454335e-05F, 9.667434824223164e-06F},
       0.9017839869787123F},
      {"yarn with attention_factor",
       1e4,
       yarn_with_attention_factor(),
       {1.0F, 0.3162277638912201F, 0.10000000149011612F, 0.027669930830597878F, 0.007499999832361937F,
        0.0019764236640185118F, 0.0005000000237487257F, 0.00015811389312148094F},
       0.75F},
      {"llama3",
       5e5,
       scaled(RopeType::llama3, 8.0, 2048),
       {1.0F, 0.193922758102417F, 0.03760603070259094F, 0.00384058291092515F, 0.00017677668074611574F,
        3.428102354519069e-05F, 6.647869668086059e-06F, 1.289173155782919e-06F},
       1.0F},
  };
}

TEST(Rope, FrequenciesOfEveryScalingAreTransformers) {
  for (const Reference& reference : references()) {
    const RopeFrequencies actual = rope_frequencies(config_with(reference.theta, reference.scaling));
    const at::Tensor expected = at::tensor(reference.inverse, at::kFloat);
    ASSERT_EQ(actual.inverse.sizes(), expected.sizes()) << reference.name;
    // Two units in the last place of each.
    EXPECT_TRUE(compare(actual.inverse / expected, at::ones({8}), 2.4e-7)) << reference.name;
    EXPECT_FLOAT_EQ(actual.attention_factor, reference.attention_factor) << reference.name;
  }
}

TEST(Rope, AnglesAreCosAndSinOfPositionTimesFrequency) {
  const LlamaConfig config = config_with(1e4, yarn_with_attention_factor());
  RopeTable table(config, at::kCPU);
  const RopeAngles angles = table.range(5, 3);
  ASSERT_EQ(angles.cos.sizes(), (std::vector<int64_t>{1, 3, 16}));
  const at::Tensor inverse = rope_frequencies(config).inverse;
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t d = 0; d < 16; ++d) {
      const float angle = static_cast<float>(5 + t) * inverse[d % 8].item<float>();
      EXPECT_NEAR(angles.cos[0][t][d].item<float>(), 0.75F * std::cos(angle), 1e-6) << t << " " << d;
      EXPECT_NEAR(angles.sin[0][t][d].item<float>(), 0.75F * std::sin(angle), 1e-6) << t << " " << d;
    }
  }
}

TEST(Rope, GrowingChangesNoAngle) {
  const LlamaConfig config = config_with(1e4, {});
  RopeTable grown(config, at::kCPU), whole(config, at::kCPU);
  for (const int64_t length : {1, 2, 3, 7, 500}) grown.range(0, length);
  EXPECT_TRUE(grown.range(0, 500).cos.equal(whole.range(0, 500).cos));
  EXPECT_TRUE(grown.range(100, 50).sin.equal(whole.range(0, 500).sin.narrow(1, 100, 50)));
}

TEST(Rope, PositionsRestartAtEachStart) {
  RopeTable table(config_with(1e4, {}), at::kCPU);
  const RopeAngles plain = table.range(0, 6);
  EXPECT_TRUE(table.rows({{{0}, {0}}, {0, 6}}, 6).cos.equal(plain.cos));
  const RopeAngles packed = table.rows({{{0}, {0, 1, 4}}, {0, 6}}, 6);
  ASSERT_EQ(packed.sin.sizes(), (std::vector<int64_t>{2, 6, 16}));
  EXPECT_TRUE(packed.sin[0].equal(plain.sin[0]));
  const at::Tensor positions = at::tensor({0, 0, 1, 2, 0, 1}, at::kLong);
  EXPECT_TRUE(packed.sin[1].equal(plain.sin[0].index_select(0, positions)));
  EXPECT_TRUE(packed.cos[1].equal(plain.cos[0].index_select(0, positions)));
}

}  // namespace
}  // namespace dga
