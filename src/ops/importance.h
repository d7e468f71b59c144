#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// How much attention tokens receive from chosen queries; decides which stay focal. L length, S sampled queries,
/// H query heads, G key-value heads, D head dim, B block size. No gradients; fp32 (double for double); the same inputs
/// give the same bits.
namespace dga {

/// I_j [G, L] = sum over the sampled queries at positions s >= j and over the H / G query heads of a KV head of
/// softmax over j <= s of scale * q_s.k_j. q [S, H, D] the queries at `positions` (S of them, increasing, below L);
/// k [L, G, D]. At most `chunk_bytes` of logits at once (0: a default).
at::Tensor sampled_importance(const at::Tensor& q, const std::vector<int64_t>& positions, const at::Tensor& k,
                              double scale, int64_t chunk_bytes = 0);

struct BlockRule {
  int64_t block_size = 1;
  int64_t local_blocks = 0;
};

/// Importance inside blocks, [G, N, B]: for each of the N blocks of k [N * B, G, D], the sum over all queries s of the
/// block and of the next `local_blocks` blocks, and over the query heads of a KV head, of the softmax over the block's
/// own tokens (those i <= s for queries inside it) of scale * q_s.k_i. q [(N + local_blocks) * B, H, D].
at::Tensor block_importance(const at::Tensor& q, const at::Tensor& k, const BlockRule& rule, double scale,
                            int64_t chunk_bytes = 0);

}  // namespace dga
