// Bias, FIR upsampling, leaky ReLU and FIR downsampling, and the derivative of that, with separable filters.
#pragma once

#include <cstdint>

namespace fastgan {

struct FilteredShape {
  int64_t images, channels, height, width;  // of x
  int64_t high[2];                          // height and width after the first filter
  int64_t out[2];                           // height and width of y
  int64_t taps[2];                          // of the first and of the second filter
  int64_t up[2], down[2];
  int64_t first_before[2], second_before[2];  // padding at the top and at the left; negative crops
  bool flip;                                  // correlate; else the filters are flipped first
  bool linear;                                // multiply by the slopes in the masks, not leaky ReLU
  double first_gain, gain, slope, clamp;      // clamp: NaN if there is none
  bool channels_last;
  int threads;
};

struct Filtered {
  FilteredShape shape;
  const float* x;
  const float* bias;           // [channels] or null
  const float* first_filter;   // [taps[0]]; null is one tap of 1
  const float* second_filter;  // [taps[1]]; null is one tap of 1
  uint8_t* masks;              // [images, channels, high[0], ceil(high[1] / 4)]: read if linear, else written unless null
  float* y;
};

void launch_filtered_lrelu(const Filtered& p);

}  // namespace fastgan
