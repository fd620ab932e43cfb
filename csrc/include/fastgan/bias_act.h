// y = clamp(activation(x + bias) * gain), its gradient with the bias gradient, and its second gradient.
// The specification is fastgan/ops/bias_act/reference.py.
#pragma once

#include <cstdint>

#include "fastgan/dtype.h"

namespace fastgan {

enum class Act : int { linear = 0, relu = 1, leaky_relu = 2, tanh = 3, sigmoid = 4, silu = 5, softplus = 6, elu = 7 };

struct BiasActShape {
  int64_t images;      // N
  int64_t channels;    // C
  int64_t pixels;      // S, all dimensions after the channel
  bool channels_last;  // memory is [N, S, C] instead of [N, C, S]
  Dtype dtype;         // of every tensor below
  int threads;
};

struct BiasActOptions {
  Act act;
  double alpha;  // slope of leaky_relu, or -elu(-infinity), >= 0
  double gain;   // > 0
  double clamp;  // > 0, infinity for none
};

struct BiasActForward {
  BiasActShape shape;
  BiasActOptions options;
  const void* x;     // [N, C, S]
  const void* bias;  // [C] or null
  void* y;           // [N, C, S]
};

struct BiasActGrad {
  BiasActShape shape;
  BiasActOptions options;
  const void* dy;     // [N, C, S]
  const void* saved;  // [N, C, S], x for silu, else y
  const void* bias;   // [C] or null, read where x is saved
  void* dx;           // [N, C, S]
  void* db;           // [C], or null if it is not wanted
};

struct BiasActGradGrad {
  BiasActShape shape;
  BiasActOptions options;
  const void* ddx;    // [N, C, S], cotangent of dx
  const void* dy;     // [N, C, S]
  const void* saved;  // [N, C, S]
  const void* bias;   // [C] or null
  void* ddy;          // [N, C, S], cotangent of dy
  void* dsaved;       // [N, C, S], cotangent of saved
};

void launch_bias_act(const BiasActForward& p);
void launch_bias_act_grad(const BiasActGrad& p);
void launch_bias_act_grad_grad(const BiasActGradGrad& p);

}  // namespace fastgan
