#include "optim/config.h"

namespace dga {

void OptimizerConfig::fields(config::Fields& f) {
  f.field("learning_rate", learning_rate, "highest rate of the schedule", config::at_least(0));
  f.field("betas", betas, "decay of the first and second moment, two numbers in [0, 1)", config::between(0, 1));
  f.field("epsilon", epsilon, "added to the root of the second moment", config::above(0));
  f.field("weight_decay", weight_decay, "decoupled: weights shrink by rate * weight_decay a step", config::at_least(0));
  f.field("decay_norms_and_embeddings", decay_norms_and_embeddings, "decay norm weights and token embeddings as well");
  f.field("clip_norm", clip_norm, "gradients are scaled down to this global norm; 0 leaves them alone",
          config::at_least(0));
  f.field("moments", moments,
          "storage of the two moments, 8, 4 or 2 bytes a weight; bf16 and int8 round stochastically, int8 in blocks of "
          "256 with a logarithmic code of 6 % steps, for betas up to 0.99");
  f.field("offload", offload,
          "GPU: host keeps moments and the masters' missing bits in pinned host memory; they come and go in pieces at "
          "each update, which takes longer by their bytes over the link");
}

void OptimizerConfig::check(config::Checker& c) const {
  const bool pair = betas.size() == 2;
  c.require(pair, "betas", str("needs two numbers, has ", betas.size()));
  if (pair) c.require(betas[0] < 1 && betas[1] < 1, "betas", "must be below 1");
  const bool steps_are_felt = !pair || moments != MomentsKind::int8 || betas[1] <= 0.99;
  c.require(steps_are_felt, "moments",
            str("int8 needs betas[1] of at most 0.99, since its rounding adds up over 1 / (1 - betas[1]) steps; it is ",
                pair ? betas[1] : 0, "; take bf16"));
}

void ScheduleConfig::fields(config::Fields& f) {
  f.field("kind", kind,
          "after warm-up: constant, or a fall to final_ratio that is linear, a half cosine, or linear in "
          "the last decay_steps (wsd)");
  f.field("warmup_steps", warmup_steps, "steps over which the rate rises linearly; step s has s / warmup_steps of it",
          config::at_least(0));
  f.field("final_ratio", final_ratio, "rate at the end of the fall as a share of the highest", config::between(0, 1));
  f.field("decay_steps", decay_steps,
          "length of the fall; 0: linear and cosine fall from warm-up to the last step, wsd in the last tenth",
          config::at_least(0));
}

}  // namespace dga
