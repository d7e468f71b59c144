#include "model/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/hf_config.h"
#include "tensor/device.h"
#include "util/error.h"

namespace dga {
namespace {

/// base^(2i/D) for i = 0..D/2-1, rounded to fp32 at the places where transformers rounds.
at::Tensor position_frequencies(double base, int64_t dim) {
  return at::pow(base, at::arange(0, dim, 2, at::kFloat) / static_cast<double>(dim));
}

/// Peng et al. 2023, arXiv 2309.00071: frequencies of more than beta_fast rotations over the trained length are kept,
/// those of fewer than beta_slow are divided by the factor, between them a linear ramp.
at::Tensor yarn_frequencies(const LlamaConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  const auto dim = static_cast<double>(config.head_dim);
  const auto dimension_of = [&](double rotations) {
    const double wavelengths =
        static_cast<double>(rope.original_max_position_embeddings) / (rotations * 2.0 * std::numbers::pi);
    return dim * std::log(wavelengths) / (2.0 * std::log(config.rope_theta));
  };
  double low = dimension_of(rope.beta_fast);
  double high = dimension_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(config.head_dim / 2, at::kFloat) - low) / (high - low)).clamp(0.0, 1.0);
  const at::Tensor kept = 1.0 - ramp;
  const at::Tensor frequencies = position_frequencies(config.rope_theta, config.head_dim);
  return (rope.factor * frequencies).reciprocal() * (1.0 - kept) + frequencies.reciprocal() * kept;
}

float yarn_attention_factor(const RopeScaling& rope) {
  if (rope.attention_factor) return static_cast<float>(*rope.attention_factor);
  const auto scale = [&](double weight) {
    return rope.factor <= 1.0 ? 1.0 : 0.1 * weight * std::log(rope.factor) + 1.0;
  };
  if (rope.mscale.value_or(0) != 0 && rope.mscale_all_dim.value_or(0) != 0) {
    return static_cast<float>(scale(*rope.mscale) / scale(*rope.mscale_all_dim));
  }
  return static_cast<float>(scale(1.0));
}

/// Llama 3.1: wavelengths above original / low_freq_factor are stretched by the factor, those below
/// original / high_freq_factor are kept, between them both are mixed.
at::Tensor llama3_frequencies(const LlamaConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  const at::Tensor inverse = position_frequencies(config.rope_theta, config.head_dim).reciprocal();
  const at::Tensor wavelength = 2.0 * std::numbers::pi / inverse;
  const at::Tensor is_long = wavelength > original / rope.low_freq_factor;
  const at::Tensor is_short = wavelength < original / rope.high_freq_factor;
  const at::Tensor smooth =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor scaled = at::where(is_long, inverse / rope.factor, inverse);
  const at::Tensor mixed = (1.0 - smooth) * scaled / rope.factor + smooth * scaled;
  return at::where(at::logical_or(is_long, is_short), scaled, mixed);
}

at::Tensor inverse_frequencies(const LlamaConfig& config) {
  switch (config.rope_scaling.type) {
    case RopeType::none:
      break;
    case RopeType::linear:
      return position_frequencies(config.rope_theta, config.head_dim).reciprocal() / config.rope_scaling.factor;
    case RopeType::ntk:
      return position_frequencies(ntk_theta(config), config.head_dim).reciprocal();
    case RopeType::yarn:
      return yarn_frequencies(config);
    case RopeType::llama3:
      return llama3_frequencies(config);
  }
  return position_frequencies(config.rope_theta, config.head_dim).reciprocal();
}

std::vector<int64_t> joined(const std::vector<std::vector<int64_t>>& rows) {
  std::vector<int64_t> all;
  for (const std::vector<int64_t>& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

/// The position of every token, counted from the start of its sequence.
std::vector<int64_t> counted(const SequenceLayout& layout, int64_t length) {
  std::vector<int64_t> positions;
  for (const SequenceSpan& span : sequences(layout, length)) {
    for (int64_t i = 0; i < span.length; ++i) positions.push_back(i);
  }
  return positions;
}

}  // namespace

RopeFrequencies rope_frequencies(const LlamaConfig& config) {
  const bool yarn = config.rope_scaling.type == RopeType::yarn;
  return {inverse_frequencies(config), yarn ? yarn_attention_factor(config.rope_scaling) : 1.0F};
}

RopeTable::RopeTable(const LlamaConfig& config, at::Device device)
    : frequencies_(rope_frequencies(config)), device_(device) {}

void RopeTable::grow(int64_t length) {
  const int64_t present = cos_.defined() ? cos_.size(0) : 0;
  if (length <= present) return;
  const int64_t rounded = std::max(length, std::min<int64_t>(2 * present, present + (1 << 16)));
  const at::Tensor angles = at::arange(rounded, at::kFloat).unsqueeze(1) * frequencies_.inverse;  // [positions, D/2]
  const at::Tensor both = at::cat({angles, angles}, 1);
  cos_ = (both.cos() * frequencies_.attention_factor).to(device_);
  sin_ = (both.sin() * frequencies_.attention_factor).to(device_);
}

RopeAngles RopeTable::range(int64_t first, int64_t length) {
  grow(first + length);
  return {cos_.narrow(0, first, length).unsqueeze(0), sin_.narrow(0, first, length).unsqueeze(0)};
}

RopeAngles RopeTable::rows(const SequenceLayout& layout, int64_t length) {
  const bool given = !layout.positions.empty();
  const bool whole =
      std::all_of(layout.starts.begin(), layout.starts.end(), [](const auto& row) { return row.size() == 1; });
  if (whole && !given) return range(0, length);
  const std::vector<int64_t> positions = given ? joined(layout.positions) : counted(layout, length);
  const auto rows = static_cast<int64_t>(layout.starts.size());
  DGA_CHECK(static_cast<int64_t>(positions.size()) == rows * length, "sequence layout: ", positions.size(),
            " positions for ", rows, " rows of ", length, " tokens");
  grow(1 + *std::max_element(positions.begin(), positions.end()));
  const at::Tensor staged = staging_tensor({rows * length}, device_);
  std::copy(positions.begin(), positions.end(), staged.mutable_data_ptr<int64_t>());
  const at::Tensor index = send(staged, device_);
  const std::vector<int64_t> shape = {rows, length, cos_.size(1)};
  return {cos_.index_select(0, index).view(shape), sin_.index_select(0, index).view(shape)};
}

}  // namespace dga
