#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iomanip>
#include <iostream>
#include <random>

#include "kernels/common/device.h"
#include "kernels/device_buffer.h"
#include "kernels/grouping/grouping.h"

namespace dga::kernels::testing {
namespace {

constexpr double kCopyBytesPerMs = 2.99e9;  // device copy on an H100, read and written
constexpr int64_t kHeads = 32, kHeadDim = 128;

double median_ms(const std::function<void()>& work) {
  cudaEvent_t begin, end;
  DGA_CUDA_CHECK(cudaEventCreate(&begin));
  DGA_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    DGA_CUDA_CHECK(cudaEventRecord(begin));
    work();
    DGA_CUDA_CHECK(cudaEventRecord(end));
    DGA_CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    DGA_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  DGA_CUDA_CHECK(cudaEventDestroy(begin));
  DGA_CUDA_CHECK(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// A bf16 tensor [1, G, rows, D] (heads outside) or [1, rows, G, D] of random values of about 1.
struct Tensor {
  DeviceBuffer<uint16_t> buffer;
  TensorRef ref;

  Tensor(int64_t rows, bool heads_outside) : buffer(std::max<int64_t>(rows, 1) * kHeads * kHeadDim) {
    const int64_t width = kHeads * kHeadDim;
    ref = heads_outside ? TensorRef{buffer.get(), rows * width, kHeadDim, rows * kHeadDim}
                        : TensorRef{buffer.get(), rows * width, width, kHeadDim};
    std::mt19937 random(1);
    std::vector<uint16_t> block(1 << 20);
    for (uint16_t& bits : block) bits = static_cast<uint16_t>(0x3f00 + (random() & 0x80ff));  // +-0.5 .. 2
    for (size_t done = 0; done < buffer.count(); done += block.size()) {
      DGA_CUDA_CHECK(cudaMemcpy(buffer.get() + done, block.data(), std::min(block.size(), buffer.count() - done) * 2,
                                cudaMemcpyHostToDevice));
    }
  }
};

void report(const char* stage, double ms, double bytes) {
  std::cout << "    " << std::setw(17) << std::left << stage << std::right << std::fixed << std::setprecision(4)
            << std::setw(9) << ms << " ms";
  if (bytes > 0) {
    std::cout << std::setprecision(0) << std::setw(7) << bytes / 1e6 << " MB" << std::setprecision(2) << std::setw(7)
              << bytes / ms / 1e9 << " TB/s" << std::setprecision(0) << std::setw(5)
              << 100 * bytes / ms / kCopyBytesPerMs << " % of copy";
  }
  std::cout << std::endl;
}

void time_stages(const char* name, int64_t length, const GroupingSettings& settings) {
  const SegmentPlan plan = plan_segments({{0}}, length, settings);
  const bool block = settings.rule == GroupingRule::block;
  std::vector<uint8_t> bytes(table_bytes(plan));
  write_table(plan, bytes.data());
  const DeviceBuffer<uint8_t> table(bytes);
  const int64_t count = kHeads * length, words = kHeads * ((length + 31) / 32);
  std::vector<float> host(count);
  std::mt19937 random(2);
  for (float& value : host) value = std::exp(-std::ldexp(static_cast<float>(random()), -28));
  const DeviceBuffer<float> importance(host);
  const DeviceBuffer<uint32_t> bits(words);
  const DeviceBuffer<int32_t> ranks(words), token_order(count), a(count), b(count), c(count), d(count);
  const FocalSet focal = {table_at(plan, table.get()), 1, length, kHeads, bits.get(), ranks.get(), token_order.get()};
  const int64_t compact = plan.compact_length, second = block ? 0 : plan.second_length;
  const int64_t bias_stride = (compact + 3) / 4 * 4;
  const DeviceBuffer<float> bias(kHeads * bias_stride);
  const Tensor query(length, false), key(length, false), value(length, false), grad_query(length, false),
      grad_key(length, false), grad_value(length, false);
  const Tensor compact_key(compact, true), compact_value(compact, true), second_key(second, true),
      second_value(second, true);

  std::cout << "  " << name << ", L " << length << ", C " << compact << ", G " << kHeads << std::endl;
  report("select", median_ms([&] { select({focal, importance.get()}, nullptr); }), 0);
  report("order", median_ms([&] { order({focal, nullptr, b.get(), c.get(), d.get()}, nullptr); }), 0);
  CompressForwardParams forward;
  forward.common.shape = {1, length, kHeads, kHeads, kHeadDim, compact, second, 0};
  forward.common.focal = focal;
  forward.common.scale = 0.0884f;
  forward.common.query = query.ref;
  forward.common.key = key.ref;
  forward.common.value = value.ref;
  forward.common.bias_stride = bias_stride;
  forward.compact_key = compact_key.ref;
  forward.compact_value = compact_value.ref;
  forward.second_key = second_key.ref;
  forward.second_value = second_value.ref;
  forward.bias = bias.get();
  const double row = 2.0 * 2 * kHeads * kHeadDim;  // bytes of a row of keys and one of values, all heads
  double divided = 0, focal_count = 0, groups = 0;
  for (const Segment& segment : plan.segments) {
    if (segment.focal_count + segment.group_count == 0) continue;
    divided += segment.length;
    focal_count += segment.focal_count;
    groups += segment.group_count;
  }
  const double grouped = divided - focal_count;
  report("compress forward", median_ms([&] { compress_forward(forward, nullptr); }),
         row * (divided + static_cast<double>(compact + second) + groups / 2));
  // The lists' own memory serves as gradients: the values do not matter here.
  CompressBackwardParams backward;
  backward.common = forward.common;
  backward.grad_compact_key = compact_key.ref;
  backward.grad_compact_value = compact_value.ref;
  backward.grad_second_key = second_key.ref;
  backward.grad_second_value = second_value.ref;
  backward.grad_bias = bias.get();
  backward.grad_key = grad_key.ref;
  backward.grad_value = grad_value.ref;
  backward.grad_query = grad_query.ref;
  report("compress backward", median_ms([&] { compress_backward(backward, nullptr); }),
         row * (grouped + static_cast<double>(compact) + (block ? divided : static_cast<double>(second)) + divided +
                1.5 * groups));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST(GroupingTimingGpu, StagesAtTrainingLengths) {
  const DeviceList list = list_devices();
  if (list.devices.empty()) GTEST_SKIP() << list.why_none;
  std::cout << "  " << list.devices[0].name << ", H = G = 32, D 128, gamma 0.1" << std::endl;
  for (const int64_t length : {8192, 32768, 131072}) {
    GroupingSettings settings;
    time_stages("sequence rule, m 16", length, settings);
    settings.group_size = 64;
    if (length == 32768) time_stages("sequence rule, m 64", length, settings);
    settings.group_size = 4;
    if (length == 32768) time_stages("sequence rule, m 4", length, settings);
    settings.group_size = 16;
    settings.rule = GroupingRule::block;
    settings.local_blocks = 4;
    time_stages("block rule, B 256", length, settings);
  }
}

}  // namespace
}  // namespace dga::kernels::testing
