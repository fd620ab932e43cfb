// y = clamp(leaky_relu(x · scale + noise + bias) · gain), of which channel_scale is a part, and its gradient, of which
// channel_dot is a part. The specification is fastgan/ops/channel_scale/reference.py.
#pragma once

#include "fastgan/bias_act.h"

namespace fastgan {

struct ScaledOptions {
  double alpha;  // slope below zero, > 0; 1 for no activation
  double gain;   // > 0
  double clamp;  // > 0, infinity for none
};

struct ScaledForward {
  BiasActShape shape;
  ScaledOptions options;
  bool one_noise;     // noise is [1, 1, S]
  const void* x;      // [N, C, S]
  const void* scale;  // [N, C]
  const void* noise;  // [N or 1, 1, S] or null
  const void* bias;   // [C] or null
  void* y;            // [N, C, S]
};

struct ScaledGrad {
  BiasActShape shape;
  ScaledOptions options;
  const void* dy;     // [N, C, S]
  const void* saved;  // [N, C, S], y
  const void* x;      // [N, C, S]
  const void* scale;  // [N, C]
  void* dx;           // [N, C, S], or null: only the sums are wanted
  void* dscale;       // [N, C] or null
  void* dnoise;       // [N, 1, S] or null
  void* db;           // [C] or null
};

void launch_scaled(const ScaledForward& p);
void launch_scaled_grad(const ScaledGrad& p);

}  // namespace fastgan
