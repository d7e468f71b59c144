#pragma once

#include <cstdint>
#include <vector>

#include "train/config.h"

namespace dga {

/// Finds steps whose gradient norm stands out from those before; see OutlierConfig for the rule.
class OutlierFilter {
 public:
  /// What a restart needs.
  struct State {
    std::vector<double> norms;  // of the last `window` steps, oldest first
    int64_t skipped = 0;        // outliers so far
  };

  explicit OutlierFilter(const OutlierConfig& config) : config_(config) {}

  /// Whether steps are judged at all.
  bool is_active() const { return config_.factor > 0; }
  /// Judges a step's norm by the norms before it, then takes it into the window.
  bool is_outlier(double norm);
  /// Median of the window (the upper one of an even number); 0 while it is empty.
  double median() const;

  const State& state() const { return state_; }
  void restore(State state);

 private:
  OutlierConfig config_;
  State state_;
};

}  // namespace dga
