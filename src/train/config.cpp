#include "train/config.h"

namespace dga {

void OutlierConfig::fields(config::Fields& f) {
  f.field(
      "factor", factor,
      "skip the update when the gradient norm exceeds this many medians; 0 never skips. A GPU then waits at each step "
      "until the host has seen the norm",
      config::at_least(0));
  f.field("window", window, "norms that the median is taken over", config::at_least(1));
  f.field("min_steps", min_steps, "steps before the first one that may be skipped", config::at_least(1));
}

void OutlierConfig::check(config::Checker& c) const {
  c.require(factor == 0 || factor > 1, "factor", str("must be 0 (off) or above 1, is ", factor));
  c.require(min_steps <= window, "min_steps", str("must be at most window = ", window, ", is ", min_steps));
}

void PoseConfig::fields(config::Fields& f) {
  f.field("target_length", target_length, "positions lie below this length; 0: positions count up without skips",
          config::at_least(0));
  f.field("chunks", chunks, "stretches of a row whose positions go on without a skip", config::at_least(2));
}

void TrainConfig::fields(config::Fields& f) {
  f.field("steps", steps, "updates of the whole run", config::at_least(1));
  f.field("global_batch_size", global_batch_size, "rows of the context length in one update", config::at_least(1));
  f.field("micro_batch_size", micro_batch_size, "rows that go through the model at a time", config::at_least(1));
  f.field("dtype", dtype,
          "type of weights and activations; bf16 keeps exact fp32 master weights in 2 more bytes a weight");
  f.visit(memory);
  f.field("trainable", trainable, "patterns (*, ?, [..]) over parameter names; those that match none stay fixed");
  f.visit(loss);
  f.section("skip_outliers", skip_outliers, "leave the weights alone at a step whose gradient norm stands out");
  f.section("pose", pose, "train for a longer context on short rows by skipping positions (PoSE)");
  f.field(
      "deterministic", deterministic,
      "GPU: only operations that give the same bits every time, so that a resumed run repeats an uninterrupted one (a "
      "CPU always does)");
}

void TrainConfig::check(config::Checker& c) const {
  c.require(micro_batch_size <= global_batch_size, "micro_batch_size",
            str("must be at most global_batch_size = ", global_batch_size, ", is ", micro_batch_size));
  c.require(!trainable.empty(), "trainable", "lists no pattern, so nothing would train; [\"*\"] is everything");
}

void LogConfig::fields(config::Fields& f) {
  f.field("every_steps", every_steps, "steps between lines on the console; metrics.jsonl has every step",
          config::at_least(1));
  f.field("level", level, "least severity that is shown");
  f.field("tensorboard", tensorboard, "write TensorBoard event files too, in tensorboard/ of the run folder");
}

}  // namespace dga
