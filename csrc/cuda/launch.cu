#include "fastgan/launch.h"

#include <cuda_runtime_api.h>

#include <unordered_map>

#include "fastgan/check.h"

namespace fastgan {
namespace {

std::unordered_map<std::string, CudaKernel>& kernels() {
  static std::unordered_map<std::string, CudaKernel> all;  // in a function: files register in an unknown order
  return all;
}

const CudaKernel& find(const std::string& name) {
  const auto found = kernels().find(name);
  FASTGAN_CHECK(found != kernels().end(), "no CUDA kernel is named " << name);
  return found->second;
}

void check(cudaError_t error, const std::string& name) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error state, so that later calls do not report it again
  FASTGAN_CHECK(false, name << ": " << cudaGetErrorString(error));
}

// Makes a device current until the end of the scope.
class OnDevice {
 public:
  OnDevice(int device, const std::string& name) {
    check(cudaGetDevice(&before_), name);
    if (before_ == device) return;
    check(cudaSetDevice(device), name);
    changed_ = true;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace

RegisterKernels::RegisterKernels(std::initializer_list<CudaKernel> list) {
  for (const CudaKernel& kernel : list) kernels().emplace(kernel.name, kernel);
}

void prepare_cuda_kernel(const std::string& name, int device, int shared) {
  const CudaKernel& kernel = find(name);
  const OnDevice on(device, name);
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel.function), name);
  check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), name);
}

void launch_cuda_kernel(const CudaLaunch& launch, const void* argument, std::size_t size) {
  const CudaKernel& kernel = find(launch.name);
  FASTGAN_CHECK(size == kernel.argument,
                launch.name << " takes a structure of " << kernel.argument << " bytes, got " << size);
  const OnDevice on(launch.device, launch.name);
  void* arguments[] = {const_cast<void*>(argument)};
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const dim3 grid(launch.grid), block(launch.block);
  check(launch.cooperative
            ? cudaLaunchCooperativeKernel(kernel.function, grid, block, arguments, launch.shared, stream)
            : cudaLaunchKernel(kernel.function, grid, block, arguments, launch.shared, stream),
        launch.name);
}

}  // namespace fastgan
