#include "kernels/common/check.h"
#include "kernels/grouping/grouping.h"

// Radix select, one block per segment and KV head. Importances are not negative, so their bit patterns order as they
// do: three counting passes over 11, 10 and 10 bits find the smallest chosen value, a last pass writes the bits.
// Reads 4 x 4 L bytes a head, all but the first time from L2, and writes L / 8.
namespace dga::kernels {
namespace {

constexpr int kBins = 2048;

struct SelectArgs {
  SegmentTable table;
  const float* importance;
  uint32_t* bits;
  int64_t length;
  int kv_heads;
  int shortest, longest;  // lengths of the segments that this launch takes
};

struct Digit {
  int bin;     // of the value sought
  int wanted;  // how many of this bin's values are chosen
  int held;    // how many values it has
};

template <int kThreads>
struct SelectShared {
  int histogram[kBins];
  int warp_sums[2][kThreads / 32];
  Digit digit;
};

__device__ __forceinline__ uint32_t order_key(float value) { return __float_as_uint(value) & 0x7fffffffu; }

/// Counts the keys whose bits under `mask` are `prefix` by the digit at `shift`.
template <int kThreads>
__device__ __forceinline__ void count_digits(const float* values, int length, uint32_t mask, uint32_t prefix, int shift,
                                             int bins, int* histogram) {
  constexpr int kUnroll = 8;  // loads in flight
  for (int i = threadIdx.x; i < bins; i += kThreads) histogram[i] = 0;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int base = threadIdx.x - lane; base < length; base += kThreads * kUnroll) {
    uint32_t keys[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int i = base + j * kThreads + lane;
      keys[j] = i < length ? order_key(values[i]) : 0xffffffffu;
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const bool counted = keys[j] != 0xffffffffu && (keys[j] & mask) == prefix;
      if (__ballot_sync(0xffffffffu, counted) == 0) continue;
      const int bin = counted ? static_cast<int>(keys[j] >> shift) & (bins - 1) : -1;
      // Equal values would queue at one counter.
      int same = 0;
      __match_all_sync(0xffffffffu, bin, &same);
      if (same) {
        if (lane == 0) atomicAdd(&histogram[bin], 32);
      } else if (counted) {
        atomicAdd(&histogram[bin], 1);
      }
    }
  }
  __syncthreads();
}

/// Sum of `value` over the threads before this one.
template <int kThreads>
__device__ __forceinline__ int exclusive_sum(int value, int* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  const int before = __reduce_add_sync(0xffffffffu, lane < warp ? warp_sums[lane] : 0);
  return before + sum - value;
}

/// The bin that holds the `wanted`-th largest of the counted values.
template <int kThreads>
__device__ __forceinline__ Digit find_digit(SelectShared<kThreads>& shared, int bins, int wanted) {
  const int per_thread = bins / kThreads;
  const int top = bins - 1 - static_cast<int>(threadIdx.x) * per_thread;
  int sum = 0;
  for (int j = 0; j < per_thread; ++j) sum += shared.histogram[top - j];
  int above = exclusive_sum<kThreads>(sum, shared.warp_sums[0]);
  if (above < wanted && wanted <= above + sum) {
    int bin = top;
    while (above + shared.histogram[bin] < wanted) above += shared.histogram[bin--];
    shared.digit = {bin, wanted - above, shared.histogram[bin]};
  }
  __syncthreads();
  const Digit digit = shared.digit;
  __syncthreads();
  return digit;
}

/// Writes a word of bits; words that reach beyond the segment are shared with its neighbours and were zeroed before.
__device__ __forceinline__ void write_word(uint32_t* words, int word, uint32_t bits, int begin, int end) {
  if (word * 32 >= begin && word * 32 + 32 <= end) {
    words[word] = bits;
  } else if (bits != 0) {
    atomicOr(&words[word], bits);
  }
}

/// Marks all values above `threshold` and the first `wanted` equal to it, in tokens [begin, end) of the row.
template <int kThreads>
__device__ __forceinline__ void mark_with_ties(const float* row, int begin, int end, uint32_t threshold, int wanted,
                                               SelectShared<kThreads>& shared, uint32_t* words) {
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int taken = 0;
  int buffer = 0;
  for (int base = begin / 32; base * 32 < end; base += kWarps, buffer ^= 1) {
    const int token = (base + warp) * 32 + lane;
    const bool inside = token >= begin && token < end;
    const uint32_t key = inside ? order_key(row[token]) : 0;
    const uint32_t above = __ballot_sync(0xffffffffu, inside && key > threshold);
    const uint32_t equal = __ballot_sync(0xffffffffu, inside && key == threshold);
    if (lane == 0) shared.warp_sums[buffer][warp] = __popc(equal);
    __syncthreads();
    const int count = lane < kWarps ? shared.warp_sums[buffer][lane] : 0;
    const int before = taken + __reduce_add_sync(0xffffffffu, lane < warp ? count : 0);
    taken += __reduce_add_sync(0xffffffffu, count);
    const bool chosen = (equal >> lane & 1) && before + __popc(equal & ((1u << lane) - 1)) < wanted;
    const uint32_t bits = above | __ballot_sync(0xffffffffu, chosen);
    if (lane == 0 && (base + warp) * 32 < end) write_word(words, base + warp, bits, begin, end);
  }
}

/// Marks all values of at least `threshold` in tokens [begin, end) of the row.
template <int kThreads>
__device__ __forceinline__ void mark(const float* row, int begin, int end, uint32_t threshold, uint32_t* words) {
  constexpr int kWarps = kThreads / 32, kUnroll = 4;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int base = begin / 32 + warp; base * 32 < end; base += kWarps * kUnroll) {
    bool chosen[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int token = (base + j * kWarps) * 32 + lane;
      chosen[j] = token >= begin && token < end && order_key(row[token]) >= threshold;
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int word = base + j * kWarps;
      const uint32_t bits = __ballot_sync(0xffffffffu, chosen[j]);
      if (lane == 0 && word * 32 < end) write_word(words, word, bits, begin, end);
    }
  }
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) select_kernel(const __grid_constant__ SelectArgs args) {
  __shared__ SelectShared<kThreads> shared;
  const int head = blockIdx.x % args.kv_heads;
  const Segment segment = args.table.segments[blockIdx.x / args.kv_heads];
  if (segment.length < args.shortest || segment.length > args.longest || segment.focal_count == 0) return;
  const int64_t row_head = static_cast<int64_t>(segment.row) * args.kv_heads + head;
  const float* row = args.importance + row_head * args.length;
  uint32_t* words = args.bits + row_head * ((args.length + 31) / 32);
  const int begin = segment.token_begin, end = begin + segment.length;
  if (segment.focal_count == segment.length) {
    mark<kThreads>(row, begin, end, 0, words);
    return;
  }
  constexpr int kShifts[3] = {20, 10, 0}, kDigits[3] = {2048, 1024, 1024};
  uint32_t mask = 0, prefix = 0;
  Digit digit = {0, segment.focal_count, 0};
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    count_digits<kThreads>(row + begin, segment.length, mask, prefix, kShifts[pass], kDigits[pass], shared.histogram);
    digit = find_digit<kThreads>(shared, kDigits[pass], digit.wanted);
    mask |= static_cast<uint32_t>(kDigits[pass] - 1) << kShifts[pass];
    prefix |= static_cast<uint32_t>(digit.bin) << kShifts[pass];
  }
  if (digit.wanted == digit.held) {
    mark<kThreads>(row, begin, end, prefix, words);
  } else {
    mark_with_ties<kThreads>(row, begin, end, prefix, digit.wanted, shared, words);
  }
}

}  // namespace

void select(const SelectParams& params, cudaStream_t stream) {
  const FocalSet& focal = params.focal;
  const SegmentTable& table = focal.table;
  const int64_t words = (focal.length + 31) / 32;
  DGA_CUDA_CHECK(cudaMemsetAsync(focal.bits, 0, focal.batch * focal.kv_heads * words * sizeof(uint32_t), stream));
  // A short segment leaves most of 1024 threads idle, and many short ones want more blocks on each multiprocessor.
  constexpr int kShort = 4096;
  SelectArgs args = {table, params.importance, focal.bits, focal.length, static_cast<int>(focal.kv_heads), 0, kShort};
  const unsigned blocks = static_cast<unsigned>(table.segment_count) * static_cast<unsigned>(focal.kv_heads);
  if (blocks == 0) return;
  select_kernel<256><<<blocks, 256, 0, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
  if (table.longest_segment <= kShort) return;
  args.shortest = kShort + 1;
  args.longest = table.longest_segment;
  select_kernel<1024><<<blocks, 1024, 0, stream>>>(args);
  DGA_CUDA_CHECK(cudaGetLastError());
}

}  // namespace dga::kernels
