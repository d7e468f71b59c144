#pragma once

#include <cuda.h>

#include <cstdint>

// Hopper primitives as thin functions over PTX: mbarriers, bulk tensor copies, register reallocation, named barriers.
namespace dga::kernels::sm90 {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// The block's dynamic shared memory. Declared with the alignment of the swizzle rather than rounded up at run time, so
/// that the compiler still knows what kind of memory it is: otherwise every access is a generic one.
template <class Storage>
__device__ __forceinline__ Storage& dynamic_shared() {
  static_assert(alignof(Storage) <= 1024);
  extern __shared__ __align__(1024) uint8_t dynamic_shared_bytes[];
  return *reinterpret_cast<Storage*>(dynamic_shared_bytes);
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/// Arrivals that a barrier expects of kThreads threads that let go of something together, after a barrier among
/// themselves: one, of the first of them. compute-sanitizer's racecheck follows barriers thread by thread, so that for
/// it (the preset racecheck) each arrives; it is slower.
#ifdef DGA_RACECHECK
template <int kThreads>
constexpr int kGroupArrivals = kThreads;
#else
template <int kThreads>
constexpr int kGroupArrivals = 1;
#endif
/// Called by each of them; `thread` is its number, modulo kThreads.
template <int kThreads>
__device__ __forceinline__ void barrier_arrive_together(uint64_t* barrier, int thread) {
  if ((kGroupArrivals<kThreads>) != 1 || thread % kThreads == 0) barrier_arrive(barrier);
}
__device__ __forceinline__ void barrier_arrive_expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
/// Blocks until the phase with this parity has completed.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Barrier `id` (1..15) of the block among `threads` threads.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int kRegisters>
__device__ __forceinline__ void register_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void register_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Programmatic dependent launch: the next grid on the stream, if it was launched so, may start once every block of
/// this one has called launch_dependents(); wait_for_prerequisites() returns when the grid before is complete.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_prerequisites() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// Ordinary writes to shared memory before this are seen by the copy engine and the tensor cores after it.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Copies one box of a 4-dimensional tensor (x fastest) to shared memory; completes on `barrier`.
__device__ __forceinline__ void tensor_load(void* destination, const CUtensorMap* map, uint64_t* barrier, int x, int y,
                                            int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(destination)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
/// Copies a box from shared memory to the tensor; elements outside the tensor are not written.
__device__ __forceinline__ void tensor_store(const CUtensorMap* map, const void* source, int x, int y, int z, int w) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(shared_address(source)), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}
/// Copies `bytes` (a multiple of 16) to shared memory; completes on `barrier`.
__device__ __forceinline__ void bulk_load(void* destination, const void* source, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(destination)),
               "l"(source), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
/// Adds `bytes` of floats in shared memory to global memory.
__device__ __forceinline__ void bulk_add(float* destination, const float* source, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(destination),
               "r"(shared_address(source)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void tensor_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most kPending of the committed stores still read their sources.
template <int kPending>
__device__ __forceinline__ void tensor_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
/// Waits until all committed stores are visible in global memory.
__device__ __forceinline__ void tensor_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// 2^x with the special-function unit: relative error 2^-22, denormal results become zero, 2^-infinity is zero.
__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Stores four 8 x 8 matrices of 16-bit elements: lanes 8i..8i+7 give the addresses of the rows, 16 bytes each, of
/// matrix i, whose fragment is values[i] (two neighbouring elements of row lane / 4).
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t* values) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(values[0]),
               "r"(values[1]), "r"(values[2]), "r"(values[3])
               : "memory");
}

/// A descriptor's upper half: 8-row groups 1024 bytes apart, 128-byte swizzle. A constant of its own, so that only the
/// lower half, which holds the address, is computed.
__device__ __forceinline__ uint64_t swizzled_descriptor(uint32_t low) {
  return uint64_t{1024 >> 4 | 1 << 30} << 32 | low;
}
/// wgmma operand in shared memory, rows of 128 bytes with the 128-byte swizzle that the tensor map wrote.
/// K contiguous: step along K by adding 32 bytes per 16 elements.
__device__ __forceinline__ uint64_t descriptor_k_major(const void* tile) {
  return swizzled_descriptor(shared_address(tile) >> 4 | 1 << 16);
}
/// N (or M) contiguous: 64-element columns blocks `block_bytes` apart; step along K by adding 2048 bytes per 16 rows.
__device__ __forceinline__ uint64_t descriptor_mn_major(const void* tile, uint32_t block_bytes) {
  return swizzled_descriptor(shared_address(tile) >> 4 | block_bytes >> 4 << 16);
}
/// The descriptor of the same tile `bytes` further on.
__device__ __forceinline__ uint64_t descriptor_advance(uint64_t descriptor, uint32_t bytes) {
  return swizzled_descriptor(static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

}  // namespace dga::kernels::sm90
