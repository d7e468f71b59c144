// The kernels that work on rows of tokens (norm, RoPE, SwiGLU, cross-entropy) against their formulas in double. Each
// may err at most twice as much as the same formula in plain bf16 operations, which round every tensor that they make.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/cross_entropy.h"
#include "kernels/device_buffer.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace dga::kernels::testing {
namespace {

using Values = std::vector<double>;
using Bf16Values = std::vector<uint16_t>;
using Bf16Buffer = DeviceBuffer<uint16_t>;
/// What happens to every tensor that an operation makes: nothing, or a rounding to bf16.
using Round = std::function<double(double)>;

double exact(double value) { return value; }
double plain(double value) { return from_bf16(to_bf16(value)); }

Values widened(const Bf16Values& values) {
  Values wide;
  for (const uint16_t value : values) wide.push_back(from_bf16(value));
  return wide;
}
Values widened(const std::vector<float>& values) { return {values.begin(), values.end()}; }

/// Passes if the largest and the mean square error of `actual` are at most twice those of the plain operations.
void expect_within_twice(const char* name, const Values& actual, const Values& plain_values, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest[2] = {}, squares[2] = {};
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << name << " is " << actual[i] << " at " << i;
    const double errors[2] = {std::abs(actual[i] - expected[i]), std::abs(plain_values[i] - expected[i])};
    for (int k = 0; k < 2; ++k) {
      largest[k] = std::max(largest[k], errors[k]);
      squares[k] += errors[k] * errors[k];
    }
  }
  EXPECT_LE(largest[0], 2 * largest[1]) << name;
  EXPECT_LE(squares[0], 4 * squares[1]) << name;
}

class RowKernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU in this machine";
  }
  Bf16Values normal(int64_t count, double deviation = 1) {
    std::normal_distribution<double> distribution(0, deviation);
    Bf16Values values(static_cast<size_t>(count));
    for (uint16_t& value : values) value = to_bf16(distribution(random_));
    return values;
  }
  std::mt19937 random_{17};
};

// ---- RMSNorm

struct NormCase {
  int64_t rows, width;
  bool residual;
};

struct NormInputs {
  Values x, residual, weight, grad_normed, grad_sum;
};

struct NormResult {
  Values sum, normed, grad_sum, grad_weight;
};

NormResult norm_formula(const NormCase& c, const NormInputs& in, double eps, const Round& round) {
  NormResult out;
  out.grad_weight.assign(static_cast<size_t>(c.width), 0);
  for (int64_t row = 0; row < c.rows; ++row) {
    const int64_t begin = row * c.width;
    double squares = 0, along = 0;
    Values n, a;
    for (int64_t i = 0; i < c.width; ++i) {
      const double sum = in.x[begin + i] + (c.residual ? in.residual[begin + i] : 0);
      out.sum.push_back(plain(sum));  // part of the definition: what follows sees the rounded sum
      squares += out.sum.back() * out.sum.back();
    }
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(c.width) + eps);
    for (int64_t i = 0; i < c.width; ++i) {
      n.push_back(round(out.sum[begin + i] * inverse));
      out.normed.push_back(round(n[i] * in.weight[i]));
      a.push_back(round(in.grad_normed[begin + i] * in.weight[i]));
      out.grad_weight[i] += round(in.grad_normed[begin + i] * n[i]);
      along += round(a[i] * n[i]);
    }
    along = round(along / static_cast<double>(c.width));
    for (int64_t i = 0; i < c.width; ++i) {
      const double own = round(round(a[i] - round(n[i] * along)) * inverse);
      out.grad_sum.push_back(round(own + (c.residual ? in.grad_sum[begin + i] : 0)));
    }
  }
  for (double& value : out.grad_weight) value = round(value);
  return out;
}

class RmsNormGpu : public RowKernelTest {
 protected:
  void check(const NormCase& c) {
    SCOPED_TRACE(::testing::Message() << "R " << c.rows << " N " << c.width << (c.residual ? " with residual" : ""));
    const int64_t count = c.rows * c.width;
    const Bf16Values x = normal(count), residual = normal(count), weight = normal(c.width), dy = normal(count),
                     passed = normal(count);
    const NormInputs in{widened(x), widened(residual), widened(weight), widened(dy), widened(passed)};
    const Bf16Buffer x_in(x), residual_in(residual), weight_in(weight), dy_in(dy), passed_in(passed), sum(count),
        normed(count), grad_sum(count);
    const DeviceBuffer<float> inverse(c.rows), grad_weight(c.width);
    const DeviceBuffer<uint8_t> workspace(rms_norm_backward_workspace_bytes(c.rows, c.width));
    RmsNormForwardParams forward{c.rows, c.width, x_in.get(), nullptr, weight_in.get()};
    forward.residual = c.residual ? residual_in.get() : nullptr;
    forward.sum = c.residual ? sum.get() : nullptr;
    forward.normed = normed.get();
    forward.inverse_rms = inverse.get();
    forward.eps = 1e-5f;
    rms_norm_forward(forward, nullptr);
    RmsNormBackwardParams backward{c.rows, c.width, dy_in.get()};
    backward.grad_residual = c.residual ? passed_in.get() : nullptr;
    backward.sum = c.residual ? sum.get() : x_in.get();
    backward.weight = weight_in.get();
    backward.inverse_rms = inverse.get();
    backward.grad_sum = grad_sum.get();
    backward.grad_weight = grad_weight.get();
    backward.workspace = workspace.get();
    rms_norm_backward(backward, nullptr);
    DGA_CUDA_CHECK(cudaDeviceSynchronize());
    const NormResult expected = norm_formula(c, in, 1e-5, exact), rounded = norm_formula(c, in, 1e-5, plain);
    if (c.residual) {
      EXPECT_EQ(widened(sum.download()), expected.sum);
    }
    expect_within_twice("normed", widened(normed.download()), rounded.normed, expected.normed);
    expect_within_twice("grad_sum", widened(grad_sum.download()), rounded.grad_sum, expected.grad_sum);
    expect_within_twice("grad_weight", widened(grad_weight.download()), rounded.grad_weight, expected.grad_weight);
    for (const Bf16Buffer* buffer : {&sum, &normed, &grad_sum}) EXPECT_TRUE(buffer->guards_intact());
    EXPECT_TRUE(inverse.guards_intact() && grad_weight.guards_intact() && workspace.guards_intact());
    const std::vector<float> first = grad_weight.download();
    rms_norm_backward(backward, nullptr);
    EXPECT_EQ(first, grad_weight.download());  // bit for bit

    // In place, and without the weight's gradient.
    backward.grad_sum = dy_in.get();
    backward.grad_weight = nullptr;
    backward.workspace = nullptr;
    rms_norm_backward(backward, nullptr);
    EXPECT_EQ(dy_in.download(), grad_sum.download());
  }
};

TEST_F(RmsNormGpu, SumNormAndGradients) {
  for (const int64_t width : {8, 64, 2040, 2048, 2056, 4096, 4104, 8192}) {
    for (const int64_t rows : {1, 3, 300}) {
      if (rows * width > 1300000) continue;
      check({rows, width, false});
      check({rows, width, true});
    }
  }
}

TEST(RmsNorm, KernelNamesTheWidthsItTakes) {
  EXPECT_TRUE(rms_norm_supports(4096) && rms_norm_supports(8192));
  EXPECT_FALSE(rms_norm_supports(4100) || rms_norm_supports(8200) || rms_norm_supports(0));
}

// ---- RoPE

struct RopeCase {
  int64_t batch, length, heads, kv_heads, dim;
  bool own_tables;  // one a row
};

/// x [B L, heads, D] turned by the angles of its token.
Values rope_formula(const RopeCase& c, int64_t heads, const Values& x, const std::vector<float>& cos,
                    const std::vector<float>& sin, RopeDirection direction, const Round& round) {
  Values y(x.size());
  const int64_t half = c.dim / 2;
  for (int64_t token = 0; token < c.batch * c.length; ++token) {
    const int64_t angle = (c.own_tables ? token : token % c.length) * c.dim;
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < c.dim; ++i) {
        const int64_t begin = (token * heads + head) * c.dim, other = i < half ? i + half : i - half;
        // Forward each output takes the sine at its own place, backward at the place that it came from.
        const double sine = sin[angle + (direction == RopeDirection::forward ? i : other)];
        const double sign = (i < half) == (direction == RopeDirection::forward) ? -1 : 1;
        y[begin + i] =
            round(round(x[begin + i] * round(cos[angle + i])) + round(sign * x[begin + other] * round(sine)));
      }
    }
  }
  return y;
}

class RopeGpu : public RowKernelTest {
 protected:
  void check(const RopeCase& c) {
    SCOPED_TRACE(::testing::Message() << "B " << c.batch << " L " << c.length << " H " << c.heads << " G " << c.kv_heads
                                      << " D " << c.dim << (c.own_tables ? " own tables" : ""));
    const int64_t tokens = c.batch * c.length;
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> cos(static_cast<size_t>((c.own_tables ? tokens : c.length) * c.dim)), sin(cos.size());
    for (float& value : cos) value = uniform(random_);
    for (float& value : sin) value = uniform(random_);
    const DeviceBuffer<float> cosines(cos), sines(sin);
    const Bf16Values query = normal(tokens * c.heads * c.dim), key = normal(tokens * c.kv_heads * c.dim);
    for (const RopeDirection direction : {RopeDirection::forward, RopeDirection::backward}) {
      const Bf16Buffer query_in(query), key_in(key), key_out(key.size());
      RopeParams params;
      params.query = {query_in.get(), query_in.get(), c.heads, c.heads * c.dim, c.dim};  // in place
      params.key = {key_in.get(), key_out.get(), c.kv_heads, c.kv_heads * c.dim, c.dim};
      params.batch = c.batch;
      params.length = c.length;
      params.head_dim = c.dim;
      params.cos = cosines.get();
      params.sin = sines.get();
      params.table_batch_stride = c.own_tables ? c.length * c.dim : 0;
      params.direction = direction;
      rope(params, nullptr);
      DGA_CUDA_CHECK(cudaDeviceSynchronize());
      const auto formula = [&](int64_t heads, const Bf16Values& x, const Round& round) {
        return rope_formula(c, heads, widened(x), cos, sin, direction, round);
      };
      expect_within_twice("query", widened(query_in.download()), formula(c.heads, query, plain),
                          formula(c.heads, query, exact));
      expect_within_twice("key", widened(key_out.download()), formula(c.kv_heads, key, plain),
                          formula(c.kv_heads, key, exact));
      EXPECT_TRUE(query_in.guards_intact() && key_in.guards_intact() && key_out.guards_intact());
      EXPECT_EQ(key_in.download(), key);
    }
  }
};

TEST_F(RopeGpu, BothDirections) {
  check({1, 1, 1, 1, 16, false});
  check({2, 17, 4, 2, 64, false});
  check({2, 17, 4, 2, 64, true});
  check({1, 33, 32, 32, 128, false});
  check({3, 5, 6, 1, 80, true});
  check({1, 3, 2, 1, 512, false});
}

TEST_F(RopeGpu, ReadsStridedHeads) {
  // Queries and keys as parts of one tensor [T, H + G, D].
  const int64_t tokens = 9, heads = 3, kv_heads = 2, dim = 32, all = heads + kv_heads;
  const Bf16Values joint = normal(tokens * all * dim);
  std::vector<float> cos(tokens * dim, 1), sin(tokens * dim, 0);  // no rotation
  const DeviceBuffer<float> cosines(cos), sines(sin);
  const Bf16Buffer in(joint), query(tokens * heads * dim), key(tokens * kv_heads * dim);
  RopeParams params;
  params.query = {in.get(), query.get(), heads, all * dim, dim};
  params.key = {in.get() + heads * dim, key.get(), kv_heads, all * dim, dim};
  params.batch = 1;
  params.length = tokens;
  params.head_dim = dim;
  params.cos = cosines.get();
  params.sin = sines.get();
  rope(params, nullptr);
  DGA_CUDA_CHECK(cudaDeviceSynchronize());
  const Bf16Values q = query.download(), k = key.download();
  for (int64_t i = 0; i < tokens * all * dim; ++i) {
    const int64_t token = i / (all * dim), rest = i % (all * dim);
    const uint16_t found =
        rest < heads * dim ? q[token * heads * dim + rest] : k[token * kv_heads * dim + rest - heads * dim];
    ASSERT_EQ(found, joint[i]) << i;
  }
}

// ---- SwiGLU

struct SwigluResult {
  Values product, grad_gate, grad_up;
};

SwigluResult swiglu_formula(const Values& gate, const Values& up, const Values& grad, const Round& round) {
  SwigluResult out;
  for (size_t i = 0; i < gate.size(); ++i) {
    const double s = round(1 / (1 + std::exp(-gate[i]))), silu = round(gate[i] * s);
    out.product.push_back(round(silu * up[i]));
    out.grad_up.push_back(round(grad[i] * silu));
    out.grad_gate.push_back(round(round(grad[i] * up[i]) * round(s * round(1 + round(gate[i] * round(1 - s))))));
  }
  return out;
}

class SwigluGpu : public RowKernelTest {};

TEST_F(SwigluGpu, ProductAndGradients) {
  for (const int64_t count : {8, 2040, 2048, 100000}) {
    SCOPED_TRACE(count);
    Bf16Values gate = normal(count, 3);
    const Bf16Values up = normal(count), grad = normal(count);
    gate[0] = to_bf16(-100);  // exp overflows
    gate[1] = to_bf16(100);
    const Bf16Buffer gate_in(gate), up_in(up), grad_in(grad), product(count);
    swiglu_forward({count, gate_in.get(), up_in.get(), product.get()}, nullptr);
    // In place: the gradients in their values' memory, the product in the gradient's.
    SwigluBackwardParams params{count, grad_in.get(), gate_in.get(), up_in.get()};
    params.grad_gate = gate_in.get();
    params.grad_up = up_in.get();
    params.product = grad_in.get();
    swiglu_backward(params, nullptr);
    DGA_CUDA_CHECK(cudaDeviceSynchronize());
    const SwigluResult expected = swiglu_formula(widened(gate), widened(up), widened(grad), exact);
    const SwigluResult rounded = swiglu_formula(widened(gate), widened(up), widened(grad), plain);
    expect_within_twice("product", widened(product.download()), rounded.product, expected.product);
    expect_within_twice("grad_gate", widened(gate_in.download()), rounded.grad_gate, expected.grad_gate);
    expect_within_twice("grad_up", widened(up_in.download()), rounded.grad_up, expected.grad_up);
    EXPECT_EQ(grad_in.download(), product.download());
    for (const Bf16Buffer* buffer : {&gate_in, &up_in, &grad_in, &product}) EXPECT_TRUE(buffer->guards_intact());
  }
}

// ---- Cross-entropy

class CrossEntropyGpu : public RowKernelTest {
 protected:
  /// Logits as fp32, rows padded with NaN; label -100 is none.
  void check(int64_t tokens, int64_t vocabulary, float z_loss, double deviation) {
    SCOPED_TRACE(::testing::Message() << "C " << tokens << " V " << vocabulary << " z " << z_loss);
    const int64_t stride = (vocabulary + 7) / 8 * 8;
    std::normal_distribution<float> distribution(0, static_cast<float>(deviation));
    std::vector<float> logits(static_cast<size_t>(tokens * stride), std::nanf(""));
    std::vector<int64_t> labels;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t v = 0; v < vocabulary; ++v) logits[t * stride + v] = distribution(random_);
      labels.push_back(t % 3 == 1 ? -100 : static_cast<int64_t>(random_() % static_cast<uint32_t>(vocabulary)));
    }
    const DeviceBuffer<float> logits_in(logits), nll(tokens), lse(tokens);
    const DeviceBuffer<int64_t> labels_in(labels);
    const Bf16Buffer gradient(tokens * stride);
    CrossEntropyParams params{tokens, vocabulary, logits_in.get(), stride, labels_in.get(), -100, z_loss};
    params.nll = nll.get();
    params.log_sum_exp = lse.get();
    params.gradient = gradient.get();
    cross_entropy(params, nullptr);
    DGA_CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<float> found_nll = nll.download(), found_lse = lse.download();
    const Bf16Values found = gradient.download();
    for (int64_t t = 0; t < tokens; ++t) {
      const bool labelled = labels[t] >= 0;
      double sum = 0;
      for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(logits[t * stride + v]));
      const double expected_lse = std::log(sum);
      const double expected_nll = labelled ? expected_lse - logits[t * stride + labels[t]] : 0;
      // fp32 throughout: a few units in the last of its 24 bits.
      const double tolerance = 8 * 0x1p-24 * std::max(1.0, std::abs(expected_lse) + std::abs(expected_nll));
      EXPECT_LE(std::abs(found_lse[t] - (labelled ? expected_lse : 0)), tolerance) << t;
      EXPECT_LE(std::abs(found_nll[t] - expected_nll), tolerance) << t;
      for (int64_t v = 0; v < vocabulary; ++v) {
        const double probability = std::exp(logits[t * stride + v] - expected_lse);
        const double one = v == labels[t] ? 1 : 0;
        const double value = labelled ? probability * (1 + 2 * z_loss * expected_lse) - one : 0;
        // One rounding to bf16, and fp32's errors (of lse among them) before the difference; fp32 ends at 2^-126.
        const double before = (2e-6 + 0x1p-22 * std::abs(expected_lse)) * probability + 0x1p-126;
        ASSERT_LE(std::abs(from_bf16(found[t * stride + v]) - value), bf16_half_ulp(value) * 1.01 + before)
            << "token " << t << " entry " << v;
      }
    }
    EXPECT_TRUE(nll.guards_intact() && lse.guards_intact() && gradient.guards_intact());

    const Bf16Buffer untouched(8);
    params.gradient = nullptr;
    cross_entropy(params, nullptr);
    EXPECT_EQ(nll.download(), found_nll);
  }
};

TEST_F(CrossEntropyGpu, LossAndGradient) {
  check(1, 1, 0, 1);
  check(4, 7, 0, 1);
  check(5, 37, 1e-2f, 3);
  check(3, 4096, 0, 3);
  check(3, 32000, 1e-4f, 2);
  check(2, 32001, 0, 30);  // most probabilities underflow
}

TEST_F(CrossEntropyGpu, LabelsOutsideTheVocabularyGiveNan) {
  const DeviceBuffer<float> logits(std::vector<float>(32, 1.0f)), nll(2), lse(2);
  const DeviceBuffer<int64_t> labels(std::vector<int64_t>{16, -1});
  const Bf16Buffer gradient(32);
  CrossEntropyParams params{2, 16, logits.get(), 16, labels.get(), -100, 0};
  params.nll = nll.get();
  params.log_sum_exp = lse.get();
  params.gradient = gradient.get();
  cross_entropy(params, nullptr);
  for (const float value : nll.download()) EXPECT_TRUE(std::isnan(value));
  for (const uint16_t value : gradient.download()) EXPECT_TRUE(std::isnan(from_bf16(value)));
}

}  // namespace
}  // namespace dga::kernels::testing
