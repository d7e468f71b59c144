#include "ops/kernel_attention.h"
#include "util/error.h"

namespace dga {
namespace {

constexpr const char* kObstacle = "this program was built without CUDA";

}  // namespace

std::string kernel_attention_obstacle(const at::Tensor&, const at::Tensor&) { return kObstacle; }

std::string kernel_grouped_obstacle(const at::Tensor&, const at::Tensor&, const kernels::GroupingSettings&) {
  return kObstacle;
}

at::Tensor kernel_token_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                  const std::vector<std::vector<int64_t>>&, const TokenRanges&, AttentionMemory*) {
  fail(ExitCode::failure, kObstacle);
}

at::Tensor kernel_grouped_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const GroupedAttention&,
                                    AttentionMemory*) {
  fail(ExitCode::failure, kObstacle);
}

double kernel_visible_pairs(const at::Tensor&, const at::Tensor&, const at::Tensor&, const GroupedAttention&) {
  fail(ExitCode::failure, kObstacle);
}

}  // namespace dga
