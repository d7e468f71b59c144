#include "ops/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "kernels/number_codes.h"
#include "ops/adamw_cuda.h"
#include "tensor/parallel.h"
#include "util/error.h"
#include "util/random.h"

namespace dga {
namespace {

static_assert(kMomentBlock == kernels::kMomentBlock);

/// Numbers that the CPU path holds in fp32 at a time where they are stored otherwise.
constexpr int64_t kChunk = 1 << 16;

/// LibTorch's fused AdamW over one tensor whose state is all of the weight's type.
void fused_adamw(const AdamWRange& range, const AdamWStep& step) {
  const float factor = step.factor.item<float>();
  std::optional<at::Tensor> divisor;
  if (factor != 1.0F) divisor = at::scalar_tensor(1.0 / static_cast<double>(factor), at::kFloat);
  const at::Tensor updates = at::scalar_tensor(static_cast<double>(step.updates), at::kFloat);
  at::_fused_adamw_({range.weight}, {range.gradient}, {range.exp_avg.numbers}, {range.exp_avg_sq.numbers},
                    /*max_exp_avg_sqs=*/{}, {updates}, step.learning_rate, step.beta1, step.beta2, step.weight_decay,
                    step.epsilon, /*amsgrad=*/false, /*maximize=*/false, divisor, /*found_inf=*/std::nullopt);
}

uint32_t sixteen_bits(uint64_t key, int64_t index, int moment) {
  const int64_t shift = 32 * moment + 16 * (index % 2);
  return static_cast<uint32_t>(kernels::rounding_bits(key, index / 2) >> shift) & 0xffffU;
}

at::Tensor decode(const StoredMoment& stored) {
  if (stored.numbers.scalar_type() == at::kFloat) return stored.numbers;
  if (stored.numbers.scalar_type() == at::kBFloat16) return stored.numbers.to(at::kFloat);
  const at::Tensor decoded = at::empty(stored.numbers.sizes(), at::kFloat);
  auto* to = decoded.data_ptr<float>();
  const auto* scales = stored.scales.const_data_ptr<float>();
  const bool first = stored.numbers.scalar_type() == at::kChar;
  const auto* codes = static_cast<const uint8_t*>(stored.numbers.const_data_ptr());
  for (int64_t i = 0; i < decoded.numel(); ++i) {
    const float scale = scales[i / kMomentBlock];
    to[i] = first ? kernels::first_moment_value(static_cast<int8_t>(codes[i]), scale)
                  : kernels::second_moment_value(codes[i], scale);
  }
  return decoded;
}

/// Which random bits round a moment.
struct Rounding {
  uint64_t key;
  int64_t first;  // place of number 0 in the flat space
  int moment;     // 0 or 1
};

void encode_bf16(const at::Tensor& values, const StoredMoment& stored, const Rounding& rounding) {
  const auto* from = values.const_data_ptr<float>();
  auto* to = static_cast<uint16_t*>(stored.numbers.data_ptr());
  for (int64_t i = 0; i < values.numel(); ++i) {
    to[i] = kernels::bf16_stochastic(from[i], sixteen_bits(rounding.key, rounding.first + i, rounding.moment));
  }
}

void encode_8_bits(const at::Tensor& values, const StoredMoment& stored, const Rounding& rounding) {
  const auto* from = values.const_data_ptr<float>();
  auto* codes = static_cast<uint8_t*>(stored.numbers.data_ptr());
  auto* scales = stored.scales.data_ptr<float>();
  for (int64_t begin = 0; begin < values.numel(); begin += kMomentBlock) {
    float scale = 0;
    for (int64_t i = begin; i < begin + kMomentBlock; ++i) scale = std::max(scale, std::abs(from[i]));
    scales[begin / kMomentBlock] = scale;
    const float log2_scale = std::log2(scale);
    for (int64_t i = begin; i < begin + kMomentBlock; ++i) {
      const uint32_t random = sixteen_bits(rounding.key, rounding.first + i, rounding.moment);
      codes[i] = rounding.moment == 0
                     ? static_cast<uint8_t>(kernels::first_moment_code(from[i], scale, log2_scale, random))
                     : kernels::second_moment_code(from[i], scale, log2_scale, random);
    }
  }
}

void encode(const at::Tensor& values, const StoredMoment& stored, const Rounding& rounding) {
  if (values.is_same(stored.numbers)) return;
  if (stored.numbers.scalar_type() == at::kBFloat16) {
    encode_bf16(values, stored, rounding);
  } else {
    encode_8_bits(values, stored, rounding);
  }
}

/// A chunk of the range through fp32 and back.
void update_chunk(const AdamWRange& range, const AdamWStep& step, uint64_t key) {
  AdamWRange wide;
  const bool split = range.weight_low.defined();
  wide.weight = split ? join_masters(range.weight, range.weight_low) : range.weight;
  wide.gradient = range.gradient.to(at::kFloat);
  wide.exp_avg.numbers = decode(range.exp_avg);
  wide.exp_avg_sq.numbers = decode(range.exp_avg_sq);
  fused_adamw(wide, step);
  if (split) split_masters(wide.weight, range.weight, range.weight_low);
  encode(wide.exp_avg.numbers, range.exp_avg, {key, range.first, 0});
  encode(wide.exp_avg_sq.numbers, range.exp_avg_sq, {key, range.first, 1});
}

void adamw_update_cpu(const AdamWRange& range, const AdamWStep& step, uint64_t key) {
  if (step.stop.item<int32_t>() != 0) return;
  const bool plain = !range.weight_low.defined() && range.weight.scalar_type() == range.exp_avg.numbers.scalar_type();
  if (plain) return fused_adamw(range, step);
  const int64_t count = range.weight.numel(), chunks = (count + kChunk - 1) / kChunk;
  for_each_in_parallel(chunks, [&](int64_t chunk) {
    const at::NoGradGuard no_grad;  // a mode of the thread
    update_chunk(range.slice(chunk * kChunk, std::min(count, (chunk + 1) * kChunk)), step, key);
  });
}

at::Tensor sum_of_squares_cpu(const at::Tensor& gradient) {
  const int64_t count = gradient.numel(), chunks = (count + kChunk - 1) / kChunk;
  const at::Tensor norms = at::zeros({chunks}, at::kDouble);
  auto* norm_of = norms.data_ptr<double>();
  for_each_in_parallel(chunks, [&](int64_t chunk) {
    const at::NoGradGuard no_grad;  // a mode of the thread
    const at::Tensor part = gradient.slice(0, chunk * kChunk, std::min(count, (chunk + 1) * kChunk));
    norm_of[chunk] = at::linalg_vector_norm(part.to(at::kDouble)).item<double>();
  });
  return at::linalg_vector_norm(norms).square();
}

GradientNorm gradient_norm_cpu(const at::Tensor& squares, const at::Tensor& losses, double clip_norm, at::Tensor stop) {
  const double norm = std::sqrt(squares.item<double>());
  if (!std::isfinite(norm) || !at::isfinite(losses).all().item<bool>()) stop.fill_(1);
  const double factor = clip_norm == 0 ? 1.0 : std::min(1.0, clip_norm / (norm + 1e-6));
  return {at::scalar_tensor(norm, at::kDouble), at::scalar_tensor(factor, at::kFloat)};
}

}  // namespace

StoredMoment StoredMoment::slice(int64_t begin, int64_t end) const {
  if (!scales.defined()) return {numbers.slice(0, begin, end), scales};
  return {numbers.slice(0, begin, end), scales.slice(0, begin / kMomentBlock, end / kMomentBlock)};
}

AdamWRange AdamWRange::slice(int64_t begin, int64_t end) const {
  const auto cut = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.slice(0, begin, end) : tensor; };
  return {first + begin,
          cut(weight),
          cut(weight_low),
          cut(gradient),
          exp_avg.slice(begin, end),
          exp_avg_sq.slice(begin, end)};
}

at::Tensor join_masters(const at::Tensor& weight, const at::Tensor& weight_low) {
  const at::Tensor master = at::empty(weight.sizes(), at::kFloat);
  const auto* high = static_cast<const uint16_t*>(weight.const_data_ptr());
  const auto* low = weight_low.const_data_ptr<int16_t>();
  auto* to = master.data_ptr<float>();
  for (int64_t i = 0; i < master.numel(); ++i) to[i] = kernels::join_master(high[i], low[i]);
  return master;
}

void split_masters(const at::Tensor& master, at::Tensor weight, at::Tensor weight_low) {
  const auto* from = master.const_data_ptr<float>();
  auto* high = static_cast<uint16_t*>(weight.data_ptr());
  auto* low = weight_low.data_ptr<int16_t>();
  for (int64_t i = 0; i < master.numel(); ++i) {
    const kernels::SplitMaster split = kernels::split_master(from[i]);
    high[i] = split.high;
    low[i] = split.low;
  }
}

void adamw_update(const AdamWRange& range, const AdamWStep& step) {
  DGA_CHECK(range.weight.numel() % kMomentBlock == 0 && range.first % kMomentBlock == 0, "a range of ",
            range.weight.numel(), " numbers at ", range.first, " is no whole number of blocks of ", kMomentBlock);
  const at::NoGradGuard no_grad;
  const uint64_t key = CounterRng({step.seed, static_cast<uint64_t>(step.updates)}).bits(0);
  if (range.weight.is_cuda()) return adamw_update_cuda(range, step, key);
  adamw_update_cpu(range, step, key);
}

at::Tensor sum_of_squares(const at::Tensor& gradient) {
  const at::NoGradGuard no_grad;
  return gradient.is_cuda() ? sum_of_squares_cuda(gradient) : sum_of_squares_cpu(gradient);
}

GradientNorm gradient_norm(const at::Tensor& squares, const at::Tensor& losses, double clip_norm, at::Tensor stop) {
  const at::NoGradGuard no_grad;
  return squares.is_cuda() ? gradient_norm_cuda(squares, losses, clip_norm, stop)
                           : gradient_norm_cpu(squares, losses, clip_norm, stop);
}

}  // namespace dga
