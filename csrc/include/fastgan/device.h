// The GPUs of this machine as the CUDA runtime sees them. No call here needs a driver to be present.
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

int cuda_runtime_version();                // 13000 for 13.0, 0 when it cannot be asked
int cuda_driver_version();                 // 0 when no driver is there
std::vector<CudaDevice> cuda_devices();    // empty without a driver
std::string cuda_why_not(int device);      // empty when a kernel of this binary runs there, else the reason

}  // namespace fastgan
