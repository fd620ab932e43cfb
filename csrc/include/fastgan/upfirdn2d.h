// Insert zeros, pad, filter and keep every down-th pixel, in one pass.
#pragma once

#include <cstdint>

#include "fastgan/dtype.h"

namespace fastgan {

struct UpfirdnShape {
  int64_t images, channels, height, width;  // of x
  int64_t out[2];                           // height and width of y
  int64_t taps[2];                          // rows and columns of the filter
  int64_t up[2], down[2];
  int64_t before[2];  // padding at the top and at the left; negative crops
  bool separable;     // the filter is [taps], and the outer product with itself is applied
  bool flip;          // correlate; else the filter is flipped first
  double gain;
  bool channels_last;
  Dtype dtype;
  int threads;
};

struct Upfirdn {
  UpfirdnShape shape;
  const void* x;
  const void* filter;  // [taps] or [kh, kw] in x's dtype; null is one tap of 1
  void* y;
};

void launch_upfirdn2d(const Upfirdn& p);

}  // namespace fastgan
