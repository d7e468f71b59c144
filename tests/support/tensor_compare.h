#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace dga::testing {

/// The index of element `flat` of a contiguous tensor of these sizes, as "[1, 0, 7]".
inline std::string index_text(int64_t flat, at::IntArrayRef sizes) {
  std::string text = "]";
  for (size_t i = sizes.size(); i-- > 0;) {
    text = (i > 0 ? ", " : "[") + std::to_string(flat % sizes[i]) + text;
    flat /= sizes[i];
  }
  return sizes.empty() ? "[]" : text;
}

/// Largest absolute difference, computed in double. Infinity where either holds NaN or where infinities differ.
inline double max_error(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.numel() == 0) return 0;
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble), e = expected.detach().to(at::kCPU, at::kDouble);
  const at::Tensor difference = at::where(a.eq(e), at::zeros_like(a), (a - e).abs());
  return at::nan_to_num(difference, std::numeric_limits<double>::infinity()).max().item<double>();
}

/// Passes if shape and type agree, no element is NaN or infinite, and max |actual - expected| <= tolerance; otherwise
/// says which of these fails, with the worst index. Use as EXPECT_TRUE(compare(a, b, 1e-12)).
inline ::testing::AssertionResult compare(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  const auto failure = [] { return ::testing::AssertionFailure(); };
  if (!actual.defined() || !expected.defined()) return failure() << "undefined tensor";
  if (actual.sizes() != expected.sizes()) return failure() << "shape " << actual.sizes() << " != " << expected.sizes();
  if (actual.scalar_type() != expected.scalar_type()) {
    return failure() << "type " << actual.scalar_type() << " != " << expected.scalar_type();
  }
  if (actual.numel() == 0) return ::testing::AssertionSuccess();
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor e = expected.detach().to(at::kCPU, at::kDouble).contiguous();
  const auto first_bad = [](const at::Tensor& x) { return at::isfinite(x).to(at::kByte).argmin().item<int64_t>(); };
  for (const auto& [name, x] : {std::pair<const char*, at::Tensor>{"actual", a}, {"expected", e}}) {
    const int64_t at_index = first_bad(x);
    const double value = x.flatten()[at_index].item<double>();
    if (!std::isfinite(value)) return failure() << name << " is " << value << " at " << index_text(at_index, x.sizes());
  }
  const at::Tensor difference = (a - e).abs();
  const int64_t worst = difference.argmax().item<int64_t>();
  const double error = difference.flatten()[worst].item<double>();
  if (error <= tolerance) return ::testing::AssertionSuccess();
  return failure() << "error " << error << " > " << tolerance << " at " << index_text(worst, a.sizes()) << ": actual "
                   << a.flatten()[worst].item<double>() << ", expected " << e.flatten()[worst].item<double>() << " ("
                   << (difference > tolerance).sum().item<int64_t>() << " of " << a.numel() << " elements above)";
}

}  // namespace dga::testing
