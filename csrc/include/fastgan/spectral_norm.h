// Spectral normalization of a group of weights: power iteration, W / sigma, and the gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "fastgan/dtype.h"

namespace fastgan {

// A weight as a matrix W [rows, columns]. In memory lies M, which is W or, if transposed, Wᵀ. A row of M is `segments`
// runs of `length` numbers; the runs of one segment stand together: element (r, s, i) at (s * rows of M + r) * length + i.
struct SpectralLayer {
  const void* weight;
  int64_t rows;      // of W
  int64_t columns;   // of W
  int64_t segments;  // in a row of M
  int64_t length;    // of a segment
  int64_t pixels;    // > 1: columns lie as [pixels, channels], and v as [channels, pixels]
  bool transposed;
  int64_t at;  // where u begins in uv; v follows it
};

// uv is read and written. An entry of sigma is NaN where the weight is not finite; its u and v then stay.
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

// dy and dw lie in memory as the weights do.
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
