#include "train/outlier_filter.h"

#include <algorithm>
#include <utility>

namespace dga {

double OutlierFilter::median() const {
  if (state_.norms.empty()) return 0;
  std::vector<double> norms = state_.norms;
  const auto middle = norms.begin() + static_cast<int64_t>(norms.size() / 2);
  std::nth_element(norms.begin(), middle, norms.end());
  return *middle;
}

bool OutlierFilter::is_outlier(double norm) {
  if (!is_active()) return false;
  const bool judged = static_cast<int64_t>(state_.norms.size()) >= config_.min_steps;
  const bool outlier = judged && norm > config_.factor * median();
  state_.norms.push_back(norm);
  if (static_cast<int64_t>(state_.norms.size()) > config_.window) state_.norms.erase(state_.norms.begin());
  if (outlier) ++state_.skipped;
  return outlier;
}

void OutlierFilter::restore(State state) {
  state_ = std::move(state);
  // The window may have become shorter in the config.
  const int64_t surplus = static_cast<int64_t>(state_.norms.size()) - config_.window;
  if (surplus > 0) state_.norms.erase(state_.norms.begin(), state_.norms.begin() + surplus);
}

}  // namespace dga
