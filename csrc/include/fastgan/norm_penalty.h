// The penalty on the norm of each sample, and the two bilinear functions that make its gradients.
#pragma once

#include <cstdint>

#include "fastgan/dtype.h"

namespace fastgan {

// Tensors of this shape are dense: a sample is `size` contiguous numbers.
struct SampleShape {
  int64_t samples;  // N
  int64_t size;     // numbers in a sample
  Dtype dtype;
  int threads;
};

struct NormPenalty {
  SampleShape shape;
  bool has_target;
  double target;
  const void* g;  // [N, size]
  void* value;    // [N] (‖g‖ − target)², or ‖g‖²
  void* slope;    // [N] the gradient of value is slope · g
  void* norm;     // [N] ‖g‖
};

struct SampleScale {
  SampleShape shape;
  const void* a;  // [N, size]
  const void* c;  // [N]
  void* y;        // [N, size] a · c
};

struct SampleDot {
  SampleShape shape;
  const void* a;  // [N, size]
  const void* b;  // [N, size]
  void* dot;      // [N]
};

void launch_norm_penalty(const NormPenalty& p);
void launch_sample_scale(const SampleScale& p);
void launch_sample_dot(const SampleDot& p);

}  // namespace fastgan
