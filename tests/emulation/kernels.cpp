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
