// The GPUs of the host, from the CUDA runtime. No call here needs a driver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastgan {

struct CudaDevice {
  int index;
  std::string name;
  int major, minor;        // compute capability
  int multiprocessors;
  std::int64_t memory;     // bytes
  int l2_cache;            // bytes
};

int cuda_runtime_version();                // 13000 for 13.0, 0 if unknown
int cuda_driver_version();                 // 0 without a driver
std::vector<CudaDevice> cuda_devices();    // empty without a driver
std::string cuda_why_not(int device);      // empty if a kernel of this binary runs there, else the reason

}  // namespace fastgan
