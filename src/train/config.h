#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/fields.h"
#include "loss/config.h"
#include "model/memory_config.h"
#include "util/log.h"

namespace dga {

enum class Precision { fp32, bf16 };
inline auto enum_names(Precision) {
  return config::names<Precision>({{Precision::fp32, "fp32"}, {Precision::bf16, "bf16"}});
}

/// Which steps leave the weights alone because their gradient stands out: norm > factor * median of the last `window`
/// norms, once `min_steps` are known. Every finite norm enters the window, skipped or not, so that a lasting change of
/// scale is accepted after half a window.
struct OutlierConfig {
  double factor = 0;
  int64_t window = 128;
  int64_t min_steps = 32;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

/// Positional skip-wise training (PoSE, arXiv 2309.10400): rows of the context length whose positions skip ahead, so
/// that the model meets distances up to a longer context.
struct PoseConfig {
  int64_t target_length = 0;  // 0: off
  int64_t chunks = 2;

  void fields(config::Fields& f);
};

/// Section `train`.
struct TrainConfig {
  int64_t steps = 1000;
  int64_t global_batch_size = 8;
  int64_t micro_batch_size = 1;
  Precision dtype = Precision::fp32;
  MemoryConfig memory;
  std::vector<std::string> trainable = {"*"};
  LossConfig loss;
  OutlierConfig skip_outliers;
  PoseConfig pose;
  bool deterministic = true;

  void fields(config::Fields& f);
  void check(config::Checker& c) const;
};

namespace log {
inline auto enum_names(Level) {
  return config::names<Level>(
      {{Level::debug, "debug"}, {Level::info, "info"}, {Level::warning, "warning"}, {Level::error, "error"}});
}
}  // namespace log

/// Section `log`.
struct LogConfig {
  int64_t every_steps = 10;
  log::Level level = log::Level::info;
  bool tensorboard = true;

  void fields(config::Fields& f);
};

}  // namespace dga
