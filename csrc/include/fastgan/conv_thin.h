// The input gradient of a convolution with few input channels, such as a discriminator's first layer in a penalty.
#pragma once

#include <cstdint>

namespace fastgan {

constexpr int64_t kThin = 4;    // input channels at most
constexpr int64_t kLanes = 16;  // the output channels are a multiple of these

struct ConvThinGrad {
  int64_t images, channels, height, width;  // of dx, float [N, H, W, C]
  int64_t outputs, out_height, out_width;   // of dy, float [N, P, Q, K]
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int threads;
  const float* dy;
  const float* weight;  // [R, S, C, K]
  float* dx;
};

void launch_conv_thin_grad(const ConvThinGrad& p);

}  // namespace fastgan
