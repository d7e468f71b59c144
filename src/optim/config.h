#pragma once

#include <cstdint>
#include <vector>

#include "config/fields.h"

namespace dga {

/// How the two moments of a weight are stored.
enum class MomentsKind { fp32, bf16, int8 };
inline auto enum_names(MomentsKind) {
  return config::names<MomentsKind>(
      {{MomentsKind::fp32, "fp32"}, {MomentsKind::bf16, "bf16"}, {MomentsKind::int8, "int8"}});
}

/// Where the optimizer's state lies while the model runs on a GPU.
enum class OptimizerOffload { none, host };
inline auto enum_names(OptimizerOffload) {
  return config::names<OptimizerOffload>({{OptimizerOffload::none, "none"}, {OptimizerOffload::host, "host"}});
}

/// Section `optimizer`: AdamW with decoupled weight decay.
struct OptimizerConfig {
  double learning_rate = 3e-4;
  std::vector<double> betas = {0.9, 0.95};
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  bool decay_norms_and_embeddings = false;
  double clip_norm = 1.0;
  MomentsKind moments = MomentsKind::fp32;
  OptimizerOffload offload = OptimizerOffload::none;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

enum class ScheduleKind { constant, linear, cosine, wsd };
inline auto enum_names(ScheduleKind) {
  return config::names<ScheduleKind>({{ScheduleKind::constant, "constant"},
                                      {ScheduleKind::linear, "linear"},
                                      {ScheduleKind::cosine, "cosine"},
                                      {ScheduleKind::wsd, "wsd"}});
}

/// Section `schedule`: the learning rate as a function of the step.
struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t warmup_steps = 0;
  double final_ratio = 0.1;
  int64_t decay_steps = 0;

  void fields(config::Fields& f);
};

}  // namespace dga
