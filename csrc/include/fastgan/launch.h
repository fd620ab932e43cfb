// The kernels of this binary by name, and their launch. A kernel takes one structure by value, whose bytes the caller
// prepares. A .cu file registers its kernels in a static RegisterKernels; nothing else has to list them.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>

namespace fastgan {

struct CudaKernel {
  const char* name;
  const void* function;
  std::size_t argument;  // bytes of its structure
};

struct RegisterKernels {
  RegisterKernels(std::initializer_list<CudaKernel> kernels);
};

struct CudaLaunch {
  std::string name;
  int device;
  int grid, block;  // blocks, and threads in each
  int shared;       // bytes of dynamic shared memory of a block
  bool cooperative;  // all blocks are resident at once
  void* stream;
};

// Allows the kernel `shared` bytes on the device. Throws std::runtime_error if this binary has no code for the device.
void prepare_cuda_kernel(const std::string& name, int device, int shared);

// Throws std::runtime_error for an unknown name, an argument of another size, and a failed launch.
void launch_cuda_kernel(const CudaLaunch& launch, const void* argument, std::size_t size);

}  // namespace fastgan
