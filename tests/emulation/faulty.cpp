// Kernels with an error each, which the emulation has to find.
#include "cuda_emulation.h"

struct Numbers {
  float* data;
  unsigned* barrier;
};

void some_threads_wait(const Numbers) {
  if (threadIdx.x < 32) __syncthreads();
}

void no_barrier(const Numbers p) {
  float* shared = reinterpret_cast<float*>(fastgan::shared_memory());
  shared[threadIdx.x] = 1;
  p.data[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

void no_grid_barrier(const Numbers p) {
  p.data[blockIdx.x] = 1;
  __syncthreads();
  p.data[gridDim.x + blockIdx.x] = p.data[gridDim.x - 1 - blockIdx.x];
}

void beyond_shared_memory(const Numbers) { fastgan::shared_memory()[64 * sizeof(float)] = 1; }

void unaligned_copy(const Numbers p) { fastgan::copy_async<16>(fastgan::shared_memory(), p.data + 1); }

void correct(const Numbers p) {
  float* shared = reinterpret_cast<float*>(fastgan::shared_memory());
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  const float other = fastgan::warp_sum(shared[blockDim.x - 1 - threadIdx.x]);
  if (threadIdx.x == 0) p.data[blockIdx.x] = other;
  fastgan::grid_barrier(p.barrier);
  if (threadIdx.x == 0) p.data[gridDim.x + blockIdx.x] = p.data[gridDim.x - 1 - blockIdx.x];
}

EMULATED_KERNELS
EMULATED_KERNEL(some_threads_wait, Numbers)
EMULATED_KERNEL(no_barrier, Numbers)
EMULATED_KERNEL(no_grid_barrier, Numbers)
EMULATED_KERNEL(beyond_shared_memory, Numbers)
EMULATED_KERNEL(unaligned_copy, Numbers)
EMULATED_KERNEL(correct, Numbers)
END_OF_KERNELS
