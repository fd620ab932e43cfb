// CPU kernels of channel_scale and scale_noise_bias_act: one pass over memory each, in both layouts.
//
// The work is split into blocks of pixels of one sample. Sums of a block are kept in partial results, which are added in
// order, so that they do not depend on the number of threads.
#include "fastgan/channel_scale.h"

#include <algorithm>
#include <vector>

#include "fastgan/check.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

constexpr int64_t kBlock = 256;    // pixels of a block where the pixel is the fast axis
constexpr int64_t kRowBlock = 64;  // where the channel is: a float sum is as long

bool channel_is_fast(const BiasActShape& s) { return s.channels_last || s.pixels == 1; }
int64_t block_of(const BiasActShape& s) { return channel_is_fast(s) ? kRowBlock : kBlock; }
int64_t blocks_of(const BiasActShape& s) { return (s.pixels + block_of(s) - 1) / block_of(s); }

template <class T>
struct Formula {
  T gain, below, clamp;
  bool unlimited;
  explicit FASTGAN_INLINE Formula(const ScaledOptions& o)
      : gain(T(o.gain)), below(T(o.alpha)), clamp(T(o.clamp)), unlimited(o.clamp > 1e308) {}
  FASTGAN_INLINE T value(T p) const {
    const T v = (p > T(0) ? p : p * below) * gain;
    return v > clamp ? clamp : (v < -clamp ? -clamp : v);
  }
  FASTGAN_INLINE T grad(T dy, T saved) const {
    const T slope = saved > T(0) ? gain : below * gain;
    const T size = saved < T(0) ? -saved : saved;
    return dy * ((unlimited | (size < clamp)) ? slope : T(0));
  }
};

template <class T>
FASTGAN_INLINE void forward(const ScaledForward& p, int64_t begin, int64_t end) {
  const Formula<T> f(p.options);
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  const std::vector<T> zeros(std::max(p.noise ? 0 : pixels, p.bias ? 0 : channels));
  const T* const bias = p.bias ? static_cast<const T*>(p.bias) : zeros.data();
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, from = unit % blocks * block_of(p.shape);
    const int64_t to = std::min(pixels, from + block_of(p.shape));
    const T* const noise = p.noise ? static_cast<const T*>(p.noise) + (p.one_noise ? 0 : n * pixels) : zeros.data();
    const T* const scale = static_cast<const T*>(p.scale) + n * channels;
    const T* const x = static_cast<const T*>(p.x) + n * channels * pixels;
    T* const y = static_cast<T*>(p.y) + n * channels * pixels;
    if (channel_is_fast(p.shape)) {
      for (int64_t i = from; i < to; ++i) {
        const T* const xr = x + i * channels;
        T* const yr = y + i * channels;
        const T shift = noise[i];
        FASTGAN_SIMD
        for (int64_t c = 0; c < channels; ++c) yr[c] = f.value(xr[c] * scale[c] + shift + bias[c]);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const T* const xr = x + c * pixels;
        T* const yr = y + c * pixels;
        const T s = scale[c], b = bias[c];
        FASTGAN_SIMD
        for (int64_t i = from; i < to; ++i) yr[i] = f.value(xr[i] * s + noise[i] + b);
      }
    }
  }
}

// dots and sums: [unit, C]. Both are always computed: they cost little beside memory traffic.
template <class T>
FASTGAN_INLINE void grad(const ScaledGrad& p, double* dots, double* sums, int64_t begin, int64_t end) {
  const Formula<T> f(p.options);
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels, blocks = blocks_of(p.shape);
  std::vector<T> row(2 * channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, from = unit % blocks * block_of(p.shape);
    const int64_t to = std::min(pixels, from + block_of(p.shape)), at = n * channels * pixels;
    const T* const scale = static_cast<const T*>(p.scale) + (p.dx ? n * channels : 0);
    double* const dot_of = dots + unit * channels;
    double* const sum_of = sums + unit * channels;
    if (channel_is_fast(p.shape)) {
      T* const dot = row.data();
      T* const sum = dot + channels;
      std::fill(row.begin(), row.end(), T(0));
      for (int64_t i = from; i < to; ++i) {
        const int64_t r = at + i * channels;
        const T* const dy = static_cast<const T*>(p.dy) + r;
        const T* const saved = static_cast<const T*>(p.saved) + r;
        const T* const x = static_cast<const T*>(p.x) + r;
        T* const dx = p.dx ? static_cast<T*>(p.dx) + r : nullptr;
        T total = 0;
        if (dx) {
          FASTGAN_SIMD_SUM(total)
          for (int64_t c = 0; c < channels; ++c) {
            const T d = f.grad(dy[c], saved[c]);
            dot[c] += d * x[c];
            sum[c] += d;
            total += d;
            dx[c] = d * scale[c];
          }
        } else {
          FASTGAN_SIMD
          for (int64_t c = 0; c < channels; ++c) dot[c] += f.grad(dy[c], saved[c]) * x[c];
        }
        if (p.dnoise) static_cast<T*>(p.dnoise)[n * pixels + i] = total;
      }
      for (int64_t c = 0; c < channels; ++c) {
        dot_of[c] = dot[c];
        sum_of[c] = sum[c];
      }
    } else {
      double noise[kBlock] = {};
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t r = at + c * pixels + from, count = to - from;
        const T* const dy = static_cast<const T*>(p.dy) + r;
        const T* const saved = static_cast<const T*>(p.saved) + r;
        const T* const x = static_cast<const T*>(p.x) + r;
        T* const dx = p.dx ? static_cast<T*>(p.dx) + r : nullptr;
        T dot = 0, sum = 0;
        if (dx) {
          const T s = scale[c];
          FASTGAN_SIMD_SUM(dot, sum)
          for (int64_t i = 0; i < count; ++i) {
            const T d = f.grad(dy[i], saved[i]);
            dot += d * x[i];
            sum += d;
            dx[i] = d * s;
          }
        } else {
          FASTGAN_SIMD_SUM(dot)
          for (int64_t i = 0; i < count; ++i) dot += f.grad(dy[i], saved[i]) * x[i];
        }
        if (p.dnoise) {
          FASTGAN_SIMD
          for (int64_t i = 0; i < count; ++i) noise[i] += f.grad(dy[i], saved[i]);
        }
        dot_of[c] = dot;
        sum_of[c] = sum;
      }
      if (p.dnoise) {
        for (int64_t i = from; i < to; ++i) static_cast<T*>(p.dnoise)[n * pixels + i] = T(noise[i - from]);
      }
    }
  }
}

// Cloned entry points must not be templates; the templates above are inlined into each clone.
#define FASTGAN_ENTRIES(T, suffix)                                                                            \
  FASTGAN_CLONES void forward_##suffix(const ScaledForward& p, int64_t begin, int64_t end) {                  \
    forward<T>(p, begin, end);                                                                                \
  }                                                                                                           \
  FASTGAN_CLONES void grad_##suffix(const ScaledGrad& p, double* dots, double* sums, int64_t begin,           \
                                    int64_t end) {                                                            \
    grad<T>(p, dots, sums, begin, end);                                                                       \
  }

FASTGAN_ENTRIES(float, f32)
FASTGAN_ENTRIES(double, f64)

void check(const BiasActShape& s, const ScaledOptions& o) {
  FASTGAN_CHECK(s.images >= 0 && s.channels >= 0 && s.pixels >= 0, "channel_scale: a size is negative");
  FASTGAN_CHECK(o.gain > 0 && o.clamp > 0 && o.alpha > 0, "channel_scale: gain, clamp or alpha out of range");
}

template <class T, class Entry>
void run_grad(const ScaledGrad& p, const Entry& entry) {
  const BiasActShape& s = p.shape;
  const int64_t blocks = blocks_of(s), units = s.images * blocks, channels = s.channels;
  std::vector<double> dots(units * channels), sums(units * channels);
  parallel_for(units, block_of(s) * channels, s.threads,
               [&](int64_t begin, int64_t end) { entry(p, dots.data(), sums.data(), begin, end); });
  for (int64_t n = 0; p.dscale && n < s.images; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t b = 0; b < blocks; ++b) total += dots[(n * blocks + b) * channels + c];
      static_cast<T*>(p.dscale)[n * channels + c] = T(total);
    }
  }
  for (int64_t c = 0; p.db && c < channels; ++c) {
    double total = 0;
    for (int64_t unit = 0; unit < units; ++unit) total += sums[unit * channels + c];
    static_cast<T*>(p.db)[c] = T(total);
  }
}

}  // namespace

void launch_scaled(const ScaledForward& p) {
  check(p.shape, p.options);
  const auto entry = p.shape.dtype == Dtype::float32 ? forward_f32 : forward_f64;
  parallel_for(p.shape.images * blocks_of(p.shape), block_of(p.shape) * p.shape.channels, p.shape.threads,
               [&](int64_t begin, int64_t end) { entry(p, begin, end); });
}

void launch_scaled_grad(const ScaledGrad& p) {
  check(p.shape, p.options);
  if (p.shape.dtype == Dtype::float32) {
    run_grad<float>(p, grad_f32);
  } else {
    run_grad<double>(p, grad_f64);
  }
}

}  // namespace fastgan
