// Under every memory plan a model's gradients are known to be complete while backward is still going on.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "loss/linear_cross_entropy.h"
#include "model/llama.h"
#include "optim/adamw.h"
#include "support/thread_communicator.h"
#include "train/trainable.h"

namespace dga {
namespace {

using testing::run_ranks;

LlamaConfig tiny(bool tied) {
  LlamaConfig config;
  config.vocab_size = 40;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.initializer_range = 0.2;
  config.tie_word_embeddings = tied;
  return config;
}

struct Plan {
  MemoryConfig memory;
  bool tied = false;
  ShardLevel level = ShardLevel::optimizer;
  int64_t bucket_bytes = 1;
};

/// Numbers of reductions that have begun, by the time.
struct Begun {
  int64_t at_first_layer = 0;  // when the gradient of the first layer's norm was made
  int64_t after_backward = 0;
  int64_t in_all = 0;
};

at::Tensor tokens_of(int64_t rank) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(7 + rank));
  return at::randint(0, 40, {2, 20}, generator, at::TensorOptions(at::kLong));
}

Begun backpropagate(const Plan& plan, Communicator& ranks) {
  const Llama model(tiny(plan.tied), AttentionConfig(), 3, at::kFloat, at::kCPU);
  AdamW optimizer(OptimizerConfig(), 1, select_trainable(model.parameters(), {"*"}), GradientSum::as_weights,
                  {&ranks, plan.level, ReduceType::fp32, plan.bucket_bytes});
  Begun begun;
  model.parameters()[1].value.register_hook([&](const at::Tensor& gradient) {
    begun.at_first_layer = optimizer.reduced_bytes();
    return gradient;
  });
  const at::Tensor tokens = tokens_of(ranks.rank());
  optimizer.begin_backward(BackwardPass::last);
  const at::Tensor hidden = model.forward(tokens, SequenceLayout::whole_rows(2, 20), plan.memory);
  const LossSum sum = linear_cross_entropy(hidden.flatten(0, 1), model.output_weight(), tokens.flatten(), {7, 0});
  sum.loss_sum.backward();
  begun.after_backward = optimizer.reduced_bytes();
  optimizer.reduce_gradients();
  begun.in_all = optimizer.reduced_bytes();
  DGA_CHECK(begun.in_all == 4 * optimizer.layout().size, begun.in_all, " bytes of ", optimizer.layout().size);
  return begun;
}

TEST(GradientOverlap, AllIsReducedWithinBackwardUnderEveryPlan) {
  for (const ShardLevel level : {ShardLevel::none, ShardLevel::optimizer, ShardLevel::optimizer_gradients}) {
    for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
      for (const bool tied : {false, true}) {
        for (const int64_t tile : {0, 16}) {
          Plan plan{{}, tied, level};
          plan.memory.recompute = recompute;
          plan.memory.mlp_tile_tokens = tile;
          run_ranks(2, [&](Communicator& ranks) {
            const Begun begun = backpropagate(plan, ranks);
            EXPECT_EQ(begun.after_backward, begun.in_all) << static_cast<int>(recompute) << " " << tied << " " << tile;
            EXPECT_GT(begun.at_first_layer, begun.in_all / 2) << static_cast<int>(recompute) << " " << tied;
          });
        }
      }
    }
  }
}

TEST(GradientOverlap, TheEmbeddingIsTheLastOfMany) {
  // With one bucket for the decayed weights and one for the others nothing is complete before the last layer to come.
  run_ranks(2, [](Communicator& ranks) {
    const Begun begun = backpropagate({{}, false, ShardLevel::optimizer, 1 << 20}, ranks);
    EXPECT_EQ(begun.at_first_layer, 0);
    EXPECT_EQ(begun.after_backward, begun.in_all);
  });
}

}  // namespace
}  // namespace dga
