#include "spectral_norm.cuh"

#include "fastgan/launch.h"

namespace fastgan {
namespace {

template <class Kernel>
CudaKernel kernel(const char* name, Kernel* function) {
  return {name, reinterpret_cast<const void*>(function), sizeof(SpectralNorm)};
}

const RegisterKernels registered({
    kernel("power_iteration_float", power_iteration_float),
    kernel("power_iteration_double", power_iteration_double),
    kernel("spectral_scale_float", spectral_scale_float),
    kernel("spectral_scale_double", spectral_scale_double),
    kernel("spectral_scale_grad_float", spectral_scale_grad_float),
    kernel("spectral_scale_grad_double", spectral_scale_grad_double),
});

}  // namespace
}  // namespace fastgan
