#include "ops/importance.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "ops/compute_type.h"
#include "util/error.h"

namespace dga {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// On a CPU logits that stay in the cache are fastest; on a GPU the launches count.
int64_t chunk_rows(int64_t chunk_bytes, int64_t row_bytes, const at::Tensor& x) {
  const int64_t standard = x.is_cpu() ? int64_t{2} << 20 : int64_t{256} << 20;
  return std::max<int64_t>(1, (chunk_bytes > 0 ? chunk_bytes : standard) / row_bytes);
}

// x [T, H, D] as rows per KV head [G, T * r, D], query outermost, in the compute type.
at::Tensor head_rows(const at::Tensor& x, int64_t kv_heads) {
  const int64_t queries = x.size(0), repeat = x.size(1) / kv_heads, width = x.size(2);
  return x.reshape({queries, kv_heads, repeat, width})
      .permute({1, 0, 2, 3})
      .reshape({kv_heads, queries * repeat, width})
      .to(compute_type(x.scalar_type()));
}

void check_heads(const at::Tensor& q, const at::Tensor& k) {
  DGA_CHECK(q.dim() == 3 && k.dim() == 3 && q.size(2) == k.size(2) && k.size(1) > 0 && q.size(1) % k.size(1) == 0 &&
                q.scalar_type() == k.scalar_type(),
            "importance: q ", q.sizes(), " does not fit k ", k.sizes());
}

}  // namespace

at::Tensor sampled_importance(const at::Tensor& q, const std::vector<int64_t>& positions, const at::Tensor& k,
                              double scale, int64_t chunk_bytes) {
  check_heads(q, k);
  const int64_t samples = static_cast<int64_t>(positions.size());
  DGA_CHECK(samples == q.size(0) && (samples == 0 || positions.back() < k.size(0)), "importance: ", samples,
            " positions for q ", q.sizes(), " and k ", k.sizes());
  const at::NoGradGuard no_grad;
  const int64_t length = k.size(0), kv_heads = k.size(1), repeat = q.size(1) / kv_heads;
  const at::Tensor keys = head_rows(k, kv_heads).transpose(1, 2);  // [G, D, L]
  const at::Tensor last = at::tensor(positions, at::kLong).to(k.device());
  const at::Tensor column = at::arange(length, last.options());
  at::Tensor importance = at::zeros({kv_heads, length}, keys.options());
  const int64_t row_bytes = q.size(1) * length * static_cast<int64_t>(keys.element_size());
  const int64_t step = chunk_rows(chunk_bytes, row_bytes, k);
  for (int64_t begin = 0; begin < samples; begin += step) {
    const int64_t end = std::min(samples, begin + step);
    // All queries of the chunk see the columns before `whole`, none sees those from `seen` on.
    const int64_t whole = positions[static_cast<size_t>(begin)] + 1, seen = positions[static_cast<size_t>(end - 1)] + 1;
    at::Tensor logits = at::bmm(head_rows(q.slice(0, begin, end), kv_heads).mul(scale), keys.slice(2, 0, seen));
    const at::Tensor later = column.slice(0, whole, seen) > last.slice(0, begin, end).unsqueeze(1);
    logits.view({kv_heads, end - begin, repeat, seen}).slice(3, whole).masked_fill_(later.unsqueeze(1), -kInfinity);
    importance.slice(1, 0, seen).add_(at::softmax(logits, 2).sum(1));
  }
  return importance;
}

at::Tensor block_importance(const at::Tensor& q, const at::Tensor& k, const BlockRule& rule, double scale,
                            int64_t chunk_bytes) {
  check_heads(q, k);
  const int64_t block = rule.block_size, kv_heads = k.size(1), repeat = q.size(1) / kv_heads, width = k.size(2);
  const int64_t blocks = k.size(0) / block;
  DGA_CHECK(blocks * block == k.size(0) && q.size(0) == (blocks + rule.local_blocks) * block, "importance: q ",
            q.sizes(), " and k ", k.sizes(), " are not whole blocks of ", block, " with ", rule.local_blocks,
            " local blocks");
  const at::NoGradGuard no_grad;
  const at::Tensor keys = head_rows(k, kv_heads).view({kv_heads, blocks, block, width});
  const at::Tensor rows = head_rows(q, kv_heads).mul(scale).view({kv_heads, -1, block, repeat, width});
  const at::Tensor position = at::arange(block, k.options().dtype(at::kLong));
  at::Tensor importance = at::zeros({kv_heads, blocks, block}, keys.options());
  // Logits of a chunk: many blocks, or a part of the queries of one block.
  const int64_t row_bytes = q.size(1) * block * static_cast<int64_t>(keys.element_size());
  const int64_t most_rows = chunk_rows(chunk_bytes, row_bytes, k);
  const int64_t block_step = std::max<int64_t>(1, most_rows / block), query_step = std::min(block, most_rows);
  for (int64_t b = 0; b < blocks; b += block_step) {
    const int64_t count = std::min(block_step, blocks - b);
    const at::Tensor chunk_keys = keys.slice(1, b, b + count).reshape({kv_heads * count, block, width}).transpose(1, 2);
    at::Tensor sum = importance.slice(1, b, b + count);
    for (int64_t distance = 0; distance <= rule.local_blocks; ++distance) {
      for (int64_t s = 0; s < block; s += query_step) {
        const int64_t end = std::min(block, s + query_step);
        const at::Tensor queries =
            rows.slice(1, b + distance, b + distance + count).slice(2, s, end).reshape({kv_heads * count, -1, width});
        at::Tensor logits = at::bmm(queries, chunk_keys);  // [G * count, queries * r, B]
        if (distance == 0) {
          const at::Tensor later = position > position.slice(0, s, end).unsqueeze(1);  // [queries, B]
          logits.view({kv_heads * count, end - s, repeat, block}).masked_fill_(later.unsqueeze(1), -kInfinity);
        }
        sum.add_(at::softmax(logits, 2).sum(1).view({kv_heads, count, block}));
      }
    }
  }
  return importance;
}

}  // namespace dga
