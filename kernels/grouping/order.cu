#include "kernels/common/check.h"
#include "kernels/grouping/grouping.h"
#include "kernels/grouping/segments.cuh"

// The merge order by avail needs no sort: the position of every entry and the bounds of every query follow from prefix
// counts of the focal bits. With F(t) the focal and NF(t) the non-focal tokens of a sequence up to t and closed(t) =
// floor(NF(t - w) / m): n(t) = F(t) + closed(t), lo(t) = m closed(t), hi(t) = NF(t).
// Writes up to 5 x 4 L bytes a head; reads 2 L / 8.
namespace dga::kernels {
namespace {

constexpr int kRankThreads = 512;

/// One block per row and head: exclusive prefix sums of the words' bit counts.
__global__ void __launch_bounds__(kRankThreads)
    rank_words_kernel(const uint32_t* __restrict__ bits, int32_t* __restrict__ ranks, int words) {
  __shared__ int warp_sums[2][kRankThreads / 32];
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * words;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before_tile = 0, buffer = 0;
  for (int base = 0; base < words; base += kRankThreads, buffer ^= 1) {
    const int word = base + threadIdx.x;
    const int count = word < words ? __popc(bits[offset + word]) : 0;
    int sum = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) warp_sums[buffer][warp] = sum;
    __syncthreads();
    const int warp_sum = lane < kRankThreads / 32 ? warp_sums[buffer][lane] : 0;
    const int before_warp = __reduce_add_sync(0xffffffffu, lane < warp ? warp_sum : 0);
    if (word < words) ranks[offset + word] = before_tile + before_warp + sum - count;
    before_tile += __reduce_add_sync(0xffffffffu, warp_sum);
  }
}

struct QueryBounds {
  int first_begin, first_end, second_begin, second_end;
};

__device__ __forceinline__ QueryBounds sequence_bounds(const Segment& segment, const SegmentRanks& ranks, int t,
                                                       int focal_until, bool complementary) {
  const int closed = ranks.closed_until(t);
  const int others_until = t + 1 - focal_until;
  // Without complementary tokens a query sees itself, unless it is focal and so in the first range.
  const int begin = complementary ? closed * ranks.group_size : others_until - (ranks.focal(t) ? 0 : 1);
  return {segment.first_begin, segment.compact_begin + focal_until + closed, segment.second_begin + begin,
          segment.second_begin + others_until};
}

/// One thread per token.
__global__ void __launch_bounds__(256) order_kernel(const __grid_constant__ OrderParams params) {
  const FocalSet& set = params.focal;
  const int token = blockIdx.x * 256 + threadIdx.x;
  if (token >= set.length) return;
  const int head = blockIdx.y, row = blockIdx.z;
  const int64_t offset = (row * set.kv_heads + head) * set.length;
  const Segment segment = segment_of_token(set.table, row, token);
  const SegmentRanks ranks(set, segment, head);
  const int t = token - segment.token_begin;
  const int focal_until = ranks.focal_until(t);
  const int place = ranks.focal(t) ? segment.length - segment.focal_count + focal_until - 1 : t - focal_until;
  set.token_order[offset + segment.token_begin + place] = token;
  const QueryBounds bounds = set.table.rule == GroupingRule::sequence
                                 ? sequence_bounds(segment, ranks, t, focal_until, set.table.complementary != 0)
                                 : QueryBounds{segment.first_begin, segment.first_end, segment.second_begin, token + 1};
  if (params.first_begin != nullptr) params.first_begin[offset + token] = bounds.first_begin;
  params.first_end[offset + token] = bounds.first_end;
  params.second_begin[offset + token] = bounds.second_begin;
  params.second_end[offset + token] = bounds.second_end;
}

}  // namespace

void order(const OrderParams& params, cudaStream_t stream) {
  const FocalSet& focal = params.focal;
  const unsigned row_heads = static_cast<unsigned>(focal.batch * focal.kv_heads);
  if (row_heads == 0) return;
  const int words = static_cast<int>((focal.length + 31) / 32);
  rank_words_kernel<<<row_heads, kRankThreads, 0, stream>>>(focal.bits, focal.word_ranks, words);
  DGA_CUDA_CHECK(cudaGetLastError());
  const dim3 blocks(static_cast<unsigned>((focal.length + 255) / 256), static_cast<unsigned>(focal.kv_heads),
                    static_cast<unsigned>(focal.batch));
  order_kernel<<<blocks, 256, 0, stream>>>(params);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels
