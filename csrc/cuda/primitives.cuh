// Device functions that several kernels use. Everything below csrc/cuda/*.cuh is compiled by nvcc at build time, by NVRTC
// at run time (hence no include of the standard library), and by a C++ compiler in the tests, where
// tests/cuda_emulation.h defines CUDA's built-in names and the functions that are assembly here.
#pragma once

namespace fastgan {

// 16 bytes of numbers, which one instruction loads or stores.
template <class T>
struct alignas(16) Pack {
  static constexpr int WIDTH = 16 / sizeof(T);
  T values[WIDTH];
};

template <int N>
struct Width {
  static constexpr int value = N;
};

__host__ __device__ inline int divide_up(int a, int b) { return (a + b - 1) / b; }

// Half-precision numbers as bits: NVRTC does not come with CUDA's headers for them.
struct BFloat16 {
  unsigned short bits;
};
struct Float16 {
  unsigned short bits;
};

template <class T>
__device__ inline T warp_sum(T x) {
  // Every lane adds in the same order, so that all get the same bits.
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

#ifdef __CUDACC__

// Dynamic shared memory, of which every kernel has one allocation.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char fastgan_shared[];
  return fastgan_shared;
}

// Starts a copy of 4, 8 or 16 aligned bytes from global to shared memory, without registers between them.
template <int BYTES>
__device__ inline void copy_async(void* shared, const void* global) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
  }
}

// Waits for the copies that this thread has started.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Rounded to nearest, ties to even.
__device__ inline void convert(float x, BFloat16& result) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x)); }
__device__ inline void convert(float x, Float16& result) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x)); }

__device__ inline unsigned poll(const unsigned* address) { return *static_cast<const volatile unsigned*>(address); }

#endif

// Waits until all blocks of a cooperative launch have arrived; what they wrote before is then visible to all.
//
// counter: 0 before its first launch, and used by one launch at a time. The arrivals of a round add up to 2^31, which
// flips the highest bit and leaves the others as they were: nothing has to be reset between rounds or launches,
// whatever their number of blocks.
__device__ inline void grid_barrier(unsigned* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned arrival = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
    const unsigned before = atomicAdd(counter, arrival);
    while (((before ^ poll(counter)) & 0x80000000u) == 0) {
    }
    __threadfence();
  }
  __syncthreads();
}

}  // namespace fastgan
