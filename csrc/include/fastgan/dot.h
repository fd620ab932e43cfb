// ⟨a, b⟩ in vector code. Float sums are short and flushed into double, so that long vectors lose no precision.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fastgan/parallel.h"

namespace fastgan {

constexpr int64_t kDotFlush = 1024;  // additions between flushes into double

template <class T>
FASTGAN_INLINE double dot(const T* a, const T* b, int64_t n) {
  double total = 0;
  for (int64_t from = 0; from < n; from += kDotFlush) {
    const int64_t to = std::min(n, from + kDotFlush);
    T sum = 0;
    FASTGAN_SIMD_SUM(sum)
    for (int64_t i = from; i < to; ++i) sum += a[i] * b[i];
    total += sum;
  }
  return total;
}

template <class T>
FASTGAN_INLINE void multiply(const T* x, T factor, T* y, int64_t n) {
  FASTGAN_SIMD
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

}  // namespace fastgan
