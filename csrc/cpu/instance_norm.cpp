// CPU kernels of instance_norm_act, in both layouts.
//
// Where the pixel is the fast axis, a sample's channel is one row, which stays in the cache for all passes. Where the
// channel is, blocks of pixels give partial sums, which are added in order, so that results do not depend on the number
// of threads. Variances are sums of squared distances from the mean of a block: no digits cancel.
#include "fastgan/instance_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "fastgan/check.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

constexpr int64_t kSum = 512;     // numbers that a sum of the element type has at most
constexpr int64_t kRowBlock = 64;  // pixels of a block where the channel is the fast axis

int64_t blocks_of(const BiasActShape& s) { return (s.pixels + kRowBlock - 1) / kRowBlock; }

// --- the pixel is the fast axis: rows [begin, end) of N * C ------------------------------------------------------------

template <class T>
FASTGAN_INLINE void forward_rows(const InstanceNormForward& p, int64_t begin, int64_t end) {
  const int64_t pixels = p.shape.pixels;
  const T below = T(p.alpha);
  for (int64_t row = begin; row < end; ++row) {
    const T* const x = static_cast<const T*>(p.x) + row * pixels;
    T* const y = static_cast<T*>(p.y) + row * pixels;
    double total = 0, squares = 0;
    for (int64_t from = 0; from < pixels; from += kSum) {
      const int64_t to = std::min(pixels, from + kSum);
      T sum = 0;
      FASTGAN_SIMD_SUM(sum)
      for (int64_t i = from; i < to; ++i) sum += x[i];
      total += sum;
    }
    const T mean = T(total / pixels);
    for (int64_t from = 0; from < pixels; from += kSum) {
      const int64_t to = std::min(pixels, from + kSum);
      T sum = 0;
      FASTGAN_SIMD_SUM(sum)
      for (int64_t i = from; i < to; ++i) sum += (x[i] - mean) * (x[i] - mean);
      squares += sum;
    }
    const T scale = T(1 / std::sqrt(squares / pixels + p.epsilon));
    static_cast<T*>(p.mean)[row] = mean;
    static_cast<T*>(p.scale)[row] = scale;
    FASTGAN_SIMD
    for (int64_t i = 0; i < pixels; ++i) {
      const T v = (x[i] - mean) * scale;
      y[i] = v > T(0) ? v : v * below;
    }
  }
}

template <class T>
FASTGAN_INLINE void grad_rows(const InstanceNormGrad& p, int64_t begin, int64_t end) {
  const int64_t pixels = p.shape.pixels;
  const T below = T(p.alpha);
  for (int64_t row = begin; row < end; ++row) {
    const T* const x = static_cast<const T*>(p.x) + row * pixels;
    const T* const dy = static_cast<const T*>(p.dy) + row * pixels;
    T* const dx = static_cast<T*>(p.dx) + row * pixels;
    const T mean = static_cast<const T*>(p.mean)[row], scale = static_cast<const T*>(p.scale)[row];
    double total = 0, products = 0;
    for (int64_t from = 0; from < pixels; from += kSum) {
      const int64_t to = std::min(pixels, from + kSum);
      T sum = 0, dot = 0;
      FASTGAN_SIMD_SUM(sum, dot)
      for (int64_t i = from; i < to; ++i) {
        const T v = (x[i] - mean) * scale, g = v > T(0) ? dy[i] : dy[i] * below;
        sum += g;
        dot += g * v;
      }
      total += sum;
      products += dot;
    }
    const T shift = T(total / pixels), slope = T(products / pixels);
    FASTGAN_SIMD
    for (int64_t i = 0; i < pixels; ++i) {
      const T v = (x[i] - mean) * scale, g = v > T(0) ? dy[i] : dy[i] * below;
      dx[i] = scale * (g - shift - v * slope);
    }
  }
}

// --- the channel is the fast axis: units [begin, end) of N * blocks ----------------------------------------------------

// first, second: [unit, C]. Means and sums of squared distances of a block.
template <class T>
FASTGAN_INLINE void moments(const InstanceNormForward& p, double* first, double* second, int64_t begin, int64_t end) {
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  std::vector<T> row(2 * channels);
  T* const mean = row.data();
  T* const squares = mean + channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t from = unit % blocks * kRowBlock, count = std::min(pixels - from, kRowBlock);
    const T* const x = static_cast<const T*>(p.x) + (unit / blocks * pixels + from) * channels;
    std::fill(row.begin(), row.end(), T(0));
    for (int64_t i = 0; i < count; ++i) {
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) mean[c] += x[i * channels + c];
    }
    const T part = T(1) / T(count);
    for (int64_t c = 0; c < channels; ++c) mean[c] *= part;
    for (int64_t i = 0; i < count; ++i) {
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        const T d = x[i * channels + c] - mean[c];
        squares[c] += d * d;
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      first[unit * channels + c] = mean[c];
      second[unit * channels + c] = squares[c];
    }
  }
}

template <class T>
FASTGAN_INLINE void normalize(const InstanceNormForward& p, int64_t begin, int64_t end) {
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  const T below = T(p.alpha);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, from = unit % blocks * kRowBlock, count = std::min(pixels - from, kRowBlock);
    const int64_t at = (n * pixels + from) * channels;
    const T* const mean = static_cast<const T*>(p.mean) + n * channels;
    const T* const scale = static_cast<const T*>(p.scale) + n * channels;
    for (int64_t i = 0; i < count; ++i) {
      const T* const x = static_cast<const T*>(p.x) + at + i * channels;
      T* const y = static_cast<T*>(p.y) + at + i * channels;
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        const T v = (x[c] - mean[c]) * scale[c];
        y[c] = v > T(0) ? v : v * below;
      }
    }
  }
}

// sums, dots: [unit, C].
template <class T>
FASTGAN_INLINE void grad_sums(const InstanceNormGrad& p, double* sums, double* dots, int64_t begin, int64_t end) {
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  const T below = T(p.alpha);
  std::vector<T> row(2 * channels);
  T* const sum = row.data();
  T* const dot = sum + channels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, from = unit % blocks * kRowBlock, count = std::min(pixels - from, kRowBlock);
    const int64_t at = (n * pixels + from) * channels;
    const T* const mean = static_cast<const T*>(p.mean) + n * channels;
    const T* const scale = static_cast<const T*>(p.scale) + n * channels;
    std::fill(row.begin(), row.end(), T(0));
    for (int64_t i = 0; i < count; ++i) {
      const T* const x = static_cast<const T*>(p.x) + at + i * channels;
      const T* const dy = static_cast<const T*>(p.dy) + at + i * channels;
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        const T v = (x[c] - mean[c]) * scale[c], g = v > T(0) ? dy[c] : dy[c] * below;
        sum[c] += g;
        dot[c] += g * v;
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      sums[unit * channels + c] = sum[c];
      dots[unit * channels + c] = dot[c];
    }
  }
}

// shifts, slopes: [N, C], the means of g and g * v over the pixels.
template <class T>
FASTGAN_INLINE void grad_apply(const InstanceNormGrad& p, const T* shifts, const T* slopes, int64_t begin, int64_t end) {
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  const T below = T(p.alpha);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, from = unit % blocks * kRowBlock, count = std::min(pixels - from, kRowBlock);
    const int64_t at = (n * pixels + from) * channels;
    const T* const mean = static_cast<const T*>(p.mean) + n * channels;
    const T* const scale = static_cast<const T*>(p.scale) + n * channels;
    const T* const shift = shifts + n * channels;
    const T* const slope = slopes + n * channels;
    for (int64_t i = 0; i < count; ++i) {
      const T* const x = static_cast<const T*>(p.x) + at + i * channels;
      const T* const dy = static_cast<const T*>(p.dy) + at + i * channels;
      T* const dx = static_cast<T*>(p.dx) + at + i * channels;
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        const T v = (x[c] - mean[c]) * scale[c], g = v > T(0) ? dy[c] : dy[c] * below;
        dx[c] = scale[c] * (g - shift[c] - v * slope[c]);
      }
    }
  }
}

// Cloned entry points must not be templates; the templates above are inlined into each clone.
#define FASTGAN_ENTRIES(T, suffix)                                                                            \
  FASTGAN_CLONES void forward_rows_##suffix(const InstanceNormForward& p, int64_t begin, int64_t end) {       \
    forward_rows<T>(p, begin, end);                                                                           \
  }                                                                                                           \
  FASTGAN_CLONES void grad_rows_##suffix(const InstanceNormGrad& p, int64_t begin, int64_t end) {             \
    grad_rows<T>(p, begin, end);                                                                              \
  }                                                                                                           \
  FASTGAN_CLONES void moments_##suffix(const InstanceNormForward& p, double* first, double* second,           \
                                       int64_t begin, int64_t end) {                                          \
    moments<T>(p, first, second, begin, end);                                                                 \
  }                                                                                                           \
  FASTGAN_CLONES void normalize_##suffix(const InstanceNormForward& p, int64_t begin, int64_t end) {          \
    normalize<T>(p, begin, end);                                                                              \
  }                                                                                                           \
  FASTGAN_CLONES void grad_sums_##suffix(const InstanceNormGrad& p, double* sums, double* dots,               \
                                         int64_t begin, int64_t end) {                                        \
    grad_sums<T>(p, sums, dots, begin, end);                                                                  \
  }                                                                                                           \
  FASTGAN_CLONES void grad_apply_##suffix(const InstanceNormGrad& p, const T* shifts, const T* slopes,        \
                                          int64_t begin, int64_t end) {                                       \
    grad_apply<T>(p, shifts, slopes, begin, end);                                                             \
  }

FASTGAN_ENTRIES(float, f32)
FASTGAN_ENTRIES(double, f64)

template <class T, class Moments, class Apply>
void run_forward(const InstanceNormForward& p, const Moments& sums_of, const Apply& apply) {
  const BiasActShape& s = p.shape;
  const int64_t blocks = blocks_of(s), units = s.images * blocks, channels = s.channels;
  std::vector<double> first(units * channels), second(units * channels);
  parallel_for(units, kRowBlock * channels, s.threads,
               [&](int64_t begin, int64_t end) { sums_of(p, first.data(), second.data(), begin, end); });
  std::vector<double> total(channels), squares(channels);
  for (int64_t n = 0; n < s.images; ++n) {
    std::fill(total.begin(), total.end(), 0.0);
    std::fill(squares.begin(), squares.end(), 0.0);
    for (int64_t b = 0; b < blocks; ++b) {
      const double count = double(std::min(s.pixels - b * kRowBlock, kRowBlock));
      for (int64_t c = 0; c < channels; ++c) total[c] += count * first[(n * blocks + b) * channels + c];
    }
    for (int64_t c = 0; c < channels; ++c) total[c] /= double(s.pixels);
    for (int64_t b = 0; b < blocks; ++b) {
      const double count = double(std::min(s.pixels - b * kRowBlock, kRowBlock));
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = (n * blocks + b) * channels + c;
        squares[c] += second[at] + count * (first[at] - total[c]) * (first[at] - total[c]);
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      static_cast<T*>(p.mean)[n * channels + c] = T(total[c]);
      static_cast<T*>(p.scale)[n * channels + c] = T(1 / std::sqrt(squares[c] / double(s.pixels) + p.epsilon));
    }
  }
  parallel_for(units, kRowBlock * channels, s.threads, [&](int64_t begin, int64_t end) { apply(p, begin, end); });
}

template <class T, class Sums, class Apply>
void run_grad(const InstanceNormGrad& p, const Sums& sums_of, const Apply& apply) {
  const BiasActShape& s = p.shape;
  const int64_t blocks = blocks_of(s), units = s.images * blocks, channels = s.channels;
  std::vector<double> sums(units * channels), dots(units * channels);
  parallel_for(units, kRowBlock * channels, s.threads,
               [&](int64_t begin, int64_t end) { sums_of(p, sums.data(), dots.data(), begin, end); });
  std::vector<T> shifts(s.images * channels), slopes(s.images * channels);
  std::vector<double> shift(channels), slope(channels);
  for (int64_t n = 0; n < s.images; ++n) {
    std::fill(shift.begin(), shift.end(), 0.0);
    std::fill(slope.begin(), slope.end(), 0.0);
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t c = 0; c < channels; ++c) {
        shift[c] += sums[(n * blocks + b) * channels + c];
        slope[c] += dots[(n * blocks + b) * channels + c];
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      shifts[n * channels + c] = T(shift[c] / double(s.pixels));
      slopes[n * channels + c] = T(slope[c] / double(s.pixels));
    }
  }
  parallel_for(units, kRowBlock * channels, s.threads,
               [&](int64_t begin, int64_t end) { apply(p, shifts.data(), slopes.data(), begin, end); });
}

void check(const BiasActShape& s) {
  FASTGAN_CHECK(s.images >= 0 && s.channels >= 0 && s.pixels >= 1, "instance_norm_act: a size is too small");
}

}  // namespace

void launch_instance_norm(const InstanceNormForward& p) {
  check(p.shape);
  FASTGAN_CHECK(p.epsilon > 0, "instance_norm_act: epsilon is not positive");
  const bool single = p.shape.dtype == Dtype::float32;
  if (!p.shape.channels_last) {
    parallel_for(p.shape.images * p.shape.channels, p.shape.pixels, p.shape.threads,
                 [&](int64_t begin, int64_t end) { (single ? forward_rows_f32 : forward_rows_f64)(p, begin, end); });
  } else if (single) {
    run_forward<float>(p, moments_f32, normalize_f32);
  } else {
    run_forward<double>(p, moments_f64, normalize_f64);
  }
}

void launch_instance_norm_grad(const InstanceNormGrad& p) {
  check(p.shape);
  const bool single = p.shape.dtype == Dtype::float32;
  if (!p.shape.channels_last) {
    parallel_for(p.shape.images * p.shape.channels, p.shape.pixels, p.shape.threads,
                 [&](int64_t begin, int64_t end) { (single ? grad_rows_f32 : grad_rows_f64)(p, begin, end); });
  } else if (single) {
    run_grad<float>(p, grad_sums_f32, grad_apply_f32);
  } else {
    run_grad<double>(p, grad_sums_f64, grad_apply_f64);
  }
}

}  // namespace fastgan
