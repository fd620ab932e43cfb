#include "adam_ema.cuh"

#include "fastgan/launch.h"

namespace fastgan {
namespace {

template <class Arguments>
CudaKernel kernel(const char* name, void (*function)(Arguments)) {
  return {name, reinterpret_cast<const void*>(function), sizeof(Arguments)};
}

const RegisterKernels registered({
    kernel("check_gradients_float", check_gradients_float),
    kernel("check_gradients_double", check_gradients_double),
    kernel("adam_ema_float", adam_ema_float),
    kernel("adam_ema_double", adam_ema_double),
});

}  // namespace
}  // namespace fastgan
