#include "cuda_emulation.h"
#include "adam_ema.cuh"

EMULATED_KERNELS
EMULATED_KERNEL(check_gradients_float, fastgan::CheckGradients)
EMULATED_KERNEL(check_gradients_double, fastgan::CheckGradients)
EMULATED_KERNEL(adam_ema_float, fastgan::AdamStep)
EMULATED_KERNEL(adam_ema_double, fastgan::AdamStep)
END_OF_KERNELS

// Sizes and constants that fastgan/ops/adam_ema/cuda.py repeats.
extern "C" int adam_ema_size(int i) {
  using namespace fastgan;
  const size_t sizes[] = {sizeof(CheckGradients), sizeof(AdamStep), MAX_GRADIENTS,
                          MAX_WEIGHTS,            ADAM_CHUNK,       ADAM_THREADS};
  return static_cast<int>(sizes[i]);
}
