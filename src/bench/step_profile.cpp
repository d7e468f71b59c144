#include "bench/step_profile.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

namespace dga {
namespace {

struct WorkClass {
  const char* name;
  std::vector<const char*> parts;  // of a kernel's name
};

/// The class of a kernel by its name; the first that fits.
const char* class_of(const std::string& name) {
  static const std::array<WorkClass, 8> kClasses = {{
      {"exchange among ranks", {"nccl"}},
      {"copies and fills", {"Memcpy", "Memset", "FillFunctor", "direct_copy"}},
      {"grouping", {"score_", "select", "order_kernel", "rank_words", "compress", "importance"}},
      {"optimizer", {"adamw_kernel", "partial_sums_kernel", "total_kernel", "clip_kernel"}},
      {"norms, RoPE, SwiGLU, loss", {"RmsNorm", "norm_kernel", "rope_kernel", "Swiglu", "cross_entropy"}},
      {"attention", {"forward_kernel", "backward_kernel", "prepare", "finish", "convert_grad", "fmha", "flash"}},
      {"products", {"gemm", "nvjet", "cutlass", "xmma", "splitK"}},
      {"embedding", {"embedding", "indexSelect", "radix", "DeviceSort"}},
  }};
  for (const WorkClass& c : kClasses) {
    for (const char* part : c.parts) {
      if (name.find(part) != std::string::npos) return c.name;
    }
  }
  return "other";
}

using RowsByName = std::map<std::string, StepProfile::Row>;

std::vector<StepProfile::Row> rows_by_time(const RowsByName& by_name) {
  std::vector<StepProfile::Row> rows;
  for (const auto& [name, row] : by_name) rows.push_back(row);
  std::ranges::stable_sort(rows, std::ranges::greater(), &StepProfile::Row::ms);
  return rows;
}

double milliseconds(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

void count(RowsByName& rows, const std::string& name, uint64_t ns) {
  StepProfile::Row& row = rows[name];
  row.name = name;
  ++row.calls;
  row.ms += milliseconds(ns);
}

int64_t busiest_stream(const std::vector<DeviceWork>& work) {
  std::map<int64_t, uint64_t> busy_ns;
  for (const DeviceWork& item : work) busy_ns[item.stream] += item.end_ns - item.begin_ns;
  return std::ranges::max_element(busy_ns, {}, [](const auto& entry) { return entry.second; })->first;
}

}  // namespace

StepProfile summarize(std::vector<DeviceWork> work) {
  StepProfile profile;
  if (work.empty()) return profile;
  std::ranges::sort(work, {}, &DeviceWork::begin_ns);
  RowsByName classes, kernels, waits;
  const int64_t main_stream = busiest_stream(work);
  uint64_t busy_until = work.front().begin_ns, main_until = busy_until, idle_ns = 0, idle_before_ns = 0;
  for (const DeviceWork& item : work) {
    if (item.begin_ns > busy_until) idle_ns += item.begin_ns - busy_until;
    busy_until = std::max(busy_until, item.end_ns);
    count(classes, class_of(item.name), item.end_ns - item.begin_ns);
    count(kernels, item.name, item.end_ns - item.begin_ns);
    if (item.stream != main_stream) continue;
    const uint64_t idle_between = idle_ns - std::exchange(idle_before_ns, idle_ns);
    if (item.begin_ns > main_until + idle_between) count(waits, item.name, item.begin_ns - main_until - idle_between);
    main_until = std::max(main_until, item.end_ns);
  }
  profile.span_ms = milliseconds(busy_until - work.front().begin_ns);
  profile.idle_ms = milliseconds(idle_ns);
  profile.classes = rows_by_time(classes);
  profile.kernels = rows_by_time(kernels);
  profile.waits = rows_by_time(waits);
  return profile;
}

StepProfile profile_step(const std::function<void()>& step) {
  if (!at::hasCUDA()) {
    step();
    return {};
  }
  namespace impl = torch::profiler::impl;
  const impl::ProfilerConfig config(impl::ProfilerState::KINETO);
  const std::set<impl::ActivityType> activities = {impl::ActivityType::CUDA};
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
  step();
  const auto result = torch::autograd::profiler::disableProfiler();
  std::vector<DeviceWork> work;
  for (const auto& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    work.push_back({event.name(), event.startNs(), event.endNs(), event.deviceResourceId()});
  }
  return summarize(std::move(work));
}

}  // namespace dga
