// One step of Adam over many tensors: the check of the gradients, and the update of weights and their moving average.
#pragma once

#include <cstdint>
#include <vector>

#include "fastgan/dtype.h"

namespace fastgan {

// A weight and what moves with it: dense, of one dtype, and of the same strides.
struct AdamTensor {
  void* weight;
  const void* gradient;
  void* mean;     // of the gradients
  void* square;   // mean of their squares
  void* average;  // of the weights, or nullptr
  float* step;    // updates so far
  int64_t size;
};

struct AdamEma {
  std::vector<AdamTensor> tensors;
  Dtype dtype;
  int threads;
  double lr, beta1, beta2, eps;
  double ema_weight;     // how far the averages move toward the new weights
  const float* divisor;  // of the gradients
  const float* bad;      // 1: only the averages move
};

struct CheckGradients {
  std::vector<const void*> gradients;
  std::vector<int64_t> sizes;
  Dtype dtype;
  int threads;
  const float* loss;
  const float* divisor;  // of the gradients
  float* found;          // the norm of the whole divided gradient, whether it or the loss is not finite, then each norm
};

void launch_check_gradients(const CheckGradients& p);
void launch_adam_ema(const AdamEma& p);

}  // namespace fastgan
