// y = leaky_relu((x - mean) / sqrt(variance + epsilon)) with mean and variance over the pixels of each sample and
// channel, and its gradient. The specification is fastgan/ops/instance_norm/reference.py.
#pragma once

#include "fastgan/bias_act.h"

namespace fastgan {

struct InstanceNormForward {
  BiasActShape shape;
  double alpha;    // slope below zero; 1 for no activation, 0 for a ReLU
  double epsilon;  // > 0
  const void* x;   // [N, C, S]
  void* y;         // [N, C, S]
  void* mean;      // [N, C]
  void* scale;     // [N, C], 1 / sqrt(variance + epsilon)
};

struct InstanceNormGrad {
  BiasActShape shape;
  double alpha;
  const void* dy;     // [N, C, S]
  const void* x;      // [N, C, S]
  const void* mean;   // [N, C]
  const void* scale;  // [N, C]
  void* dx;           // [N, C, S]
};

void launch_instance_norm(const InstanceNormForward& p);
void launch_instance_norm_grad(const InstanceNormGrad& p);

}  // namespace fastgan
