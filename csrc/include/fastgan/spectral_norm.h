// Spectral normalization of a group of weights: power iteration, W / sigma, and the gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "fastgan/dtype.h"

namespace fastgan {

// A weight as a matrix W [rows, columns]. The matrix in memory is M, which is W or, if transposed, Wᵀ. A row of M consists
// of `segments` runs of `length` numbers: element (r, s, i) is at (s * rows of M + r) * length + i.
struct SpectralLayer {
  const void* weight;
  int64_t rows;      // of W
  int64_t columns;   // of W
  int64_t segments;  // in a row of M
  int64_t length;    // of a segment
  int64_t pixels;    // > 1: columns are ordered [pixels, channels], and v [channels, pixels]
  bool transposed;
  int64_t at;  // where u begins in uv; v follows it
};

// uv is read and written. If a weight is not finite, its entry of sigma is NaN and its u and v stay.
struct PowerIteration {
  std::vector<SpectralLayer> layers;
  Dtype dtype;
  int threads;
  int iterations;  // 0: sigma alone
  bool v_first;
  double eps;
  void* uv;     // [sum of rows + columns]
  void* sigma;  // [layers]
};

struct SpectralScale {
  std::vector<const void*> weights;
  std::vector<void*> scaled;
  std::vector<int64_t> sizes;
  Dtype dtype;
  int threads;
  const void* sigma;  // [layers]
};

// dy and dw have the memory layout of the weights.
struct SpectralScaleGrad {
  std::vector<SpectralLayer> layers;
  std::vector<const void*> dy;
  std::vector<void*> dw;
  Dtype dtype;
  int threads;
  const void* uv;
  const void* sigma;
};

void launch_power_iteration(const PowerIteration& p);
void launch_spectral_scale(const SpectralScale& p);
void launch_spectral_scale_grad(const SpectralScaleGrad& p);

}  // namespace fastgan
