// For `fastgan doctor`: the GPUs of the host, and whether this binary contains code that they can run.
#include "fastgan/device.h"

#include <cuda_runtime_api.h>

namespace fastgan {
namespace {

__global__ void write_mark(int* mark) { *mark = 42; }

}  // namespace

int cuda_runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

int cuda_driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

std::vector<CudaDevice> cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // clears the error state: a missing driver is a valid answer
    return {};
  }
  std::vector<CudaDevice> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.push_back({index, properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                       static_cast<std::int64_t>(properties.totalGlobalMem), properties.l2CacheSize});
  }
  return devices;
}

std::string cuda_why_not(int device) {
  int before = 0, result = 0;
  int* mark = nullptr;
  cudaGetDevice(&before);
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaMalloc(&mark, sizeof(int));
  if (error == cudaSuccess) {
    write_mark<<<1, 1>>>(mark);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) error = cudaMemcpy(&result, mark, sizeof(int), cudaMemcpyDeviceToHost);
  cudaFree(mark);
  cudaSetDevice(before);
  cudaGetLastError();
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return result == 42 ? "" : "a test kernel ran but wrote the wrong value";
}

}  // namespace fastgan
