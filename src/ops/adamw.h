#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dga {

/// Numbers that share one fp32 scale in 8-bit moments. Ranges of the optimizer's flat space begin and end at multiples
/// of it.
constexpr int64_t kMomentBlock = 256;

/// A moment of n numbers as it is stored: fp32 (or the weight's double), bf16, or 8-bit codes with their scales
/// (kernels/number_codes.h).
struct StoredMoment {
  at::Tensor numbers;  // [n] float, double, bfloat16; int8 (first moment) or uint8 (second)
  at::Tensor scales;   // [n / 256] float; undefined but for 8 bits

  StoredMoment slice(int64_t begin, int64_t end) const;
};

/// A contiguous range of n numbers of the optimizer's flat space, n a multiple of kMomentBlock, all on one device.
struct AdamWRange {
  int64_t first = 0;      // place of its first number in the flat space
  at::Tensor weight;      // [n] float, double (CPU alone), or bfloat16 with weight_low
  at::Tensor weight_low;  // [n] int16: the fp32 master's bits that the bf16 weight lacks; undefined for wider weights
  at::Tensor gradient;    // [n] of the weight's type or float
  StoredMoment exp_avg, exp_avg_sq;

  /// Numbers [begin, end) of the range, both multiples of kMomentBlock.
  AdamWRange slice(int64_t begin, int64_t end) const;
};

/// One update.
struct AdamWStep {
  double learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  int64_t updates = 0;  // this one included
  uint64_t seed = 0;    // of stochastic rounding, with `updates` and the place of a number
  at::Tensor factor;    // float32 scalar that gradients are multiplied with, on the range's device
  at::Tensor stop;      // int32 scalar on the device; where it is not 0 nothing changes
};

/// AdamW (Loshchilov and Hutter 2019) in PyTorch's form over a range; moments below fp32 are rounded stochastically.
/// On a GPU one kernel that does not wait for the host; on a CPU the same by LibTorch's fused AdamW. Throws where a
/// type is none of the above.
void adamw_update(const AdamWRange& range, const AdamWStep& step);

/// The fp32 masters of bf16 weights, and the other way round (CPU tensors of one shape).
at::Tensor join_masters(const at::Tensor& weight, const at::Tensor& weight_low);
void split_masters(const at::Tensor& master, at::Tensor weight, at::Tensor weight_low);

/// Sum of the squares of the numbers of `gradient` [n], n a multiple of 8: a float64 scalar on its device. The same
/// bits every time; the host does not wait.
at::Tensor sum_of_squares(const at::Tensor& gradient);

/// Norm of a step's gradient with what follows from it; scalars on the gradient's device.
struct GradientNorm {
  at::Tensor norm;    // float64, before clipping
  at::Tensor factor;  // float32, brings the norm down to clip_norm: min(1, clip_norm / (norm + 1e-6))
};

/// The norm from the sum of the squares of all numbers (float64 scalar). `stop` (int32 scalar) becomes 1 where the norm
/// or one of `losses` [k] float64 is not finite. Does not wait for the host. clip_norm 0 clips nothing.
GradientNorm gradient_norm(const at::Tensor& squares, const at::Tensor& losses, double clip_norm, at::Tensor stop);

}  // namespace dga
