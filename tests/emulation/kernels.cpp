#include "cuda_emulation.h"
#include "spectral_norm.cuh"

EMULATED_KERNELS
EMULATED_KERNEL(power_iteration_float, fastgan::SpectralNorm)
EMULATED_KERNEL(power_iteration_double, fastgan::SpectralNorm)
EMULATED_KERNEL(spectral_scale_float, fastgan::SpectralNorm)
EMULATED_KERNEL(spectral_scale_double, fastgan::SpectralNorm)
EMULATED_KERNEL(spectral_scale_grad_float, fastgan::SpectralNorm)
EMULATED_KERNEL(spectral_scale_grad_double, fastgan::SpectralNorm)
END_OF_KERNELS

// Sizes and constants that fastgan/ops/spectral_norm/cuda.py repeats.
extern "C" int spectral_norm_size(int i) {
  using namespace fastgan;
  const size_t sizes[] = {sizeof(SpectralLayer), sizeof(SpectralNorm), MAX_LAYERS,    TILE_ROWS,      TILE_COLUMNS,
                          SLICE,                 THREADS,              SCALE_THREADS, sizeof(Factors)};
  return static_cast<int>(sizes[i]);
}
