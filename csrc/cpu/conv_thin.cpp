// oneDNN is slow for input gradients with three channels, because its tiles are made for many. This kernel vectorizes over
// the output channels, and keeps the few sums of a pixel in registers over all taps.
// Measured by benchmarks/run.py --case to_image.
#include "fastgan/conv_thin.h"

#include <cstring>

#include "fastgan/check.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

#if defined(__GNUC__)
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
#else
struct Lanes {
  float v[kLanes];
};
#endif

FASTGAN_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof to); }

FASTGAN_INLINE void multiply_add(const Lanes& a, const Lanes& b, Lanes& sum) {
#if defined(__GNUC__)
  sum += a * b;
#else
  for (int64_t i = 0; i < kLanes; ++i) sum.v[i] += a.v[i] * b.v[i];
#endif
}

FASTGAN_INLINE float total(const Lanes& x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof lanes);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// The output position that input position `at` reaches through kernel position k, if there is one.
FASTGAN_INLINE bool tap(const ConvThinGrad& p, int axis, int64_t at, int64_t k, int64_t size, int64_t& out) {
  const int64_t moved = at + p.padding[axis] - k * p.dilation[axis];
  out = moved / p.stride[axis];
  return moved >= 0 && moved % p.stride[axis] == 0 && out < size;
}

// J pixels of a row, `stride` apart, so that the same taps reach them and a weight is loaded once for all. Unless J is 1,
// all taps of all pixels must be inside the image.
template <int C, int J>
FASTGAN_INLINE void pixels(const ConvThinGrad& p, const float* dy, int64_t h, int64_t w, float* dx) {
  Lanes sums[J][C];
  std::memset(sums, 0, sizeof sums);
  for (int64_t r = 0; r < p.kernel[0]; ++r) {
    int64_t out_h, out_w;
    if (!tap(p, 0, h, r, p.out_height, out_h)) continue;
    for (int64_t s = 0; s < p.kernel[1]; ++s) {
      if (!tap(p, 1, w, s, p.out_width, out_w)) continue;
      const float* const row = dy + (out_h * p.out_width + out_w) * p.outputs;
      const float* const weight = p.weight + (r * p.kernel[1] + s) * C * p.outputs;
      for (int64_t k = 0; k < p.outputs; k += kLanes) {
        Lanes x[C], y;
        for (int c = 0; c < C; ++c) load(weight + c * p.outputs + k, x[c]);
        for (int j = 0; j < J; ++j) {
          load(row + j * p.outputs + k, y);
          for (int c = 0; c < C; ++c) multiply_add(y, x[c], sums[j][c]);
        }
      }
    }
  }
  for (int j = 0; j < J; ++j)
    for (int c = 0; c < C; ++c) dx[j * p.stride[1] * C + c] = total(sums[j][c]);
}

// The range of j in which all taps of the pixels w = phase + stride * j are inside the image.
FASTGAN_INLINE void interior(const ConvThinGrad& p, int64_t phase, int64_t count, int64_t& first, int64_t& end) {
  first = 0;
  end = count;
  for (int64_t s = 0; s < p.kernel[1]; ++s) {
    const int64_t moved = phase + p.padding[1] - s * p.dilation[1];
    if (moved % p.stride[1] != 0) continue;
    first = std::max(first, -moved / p.stride[1]);
    end = std::min(end, p.out_width - moved / p.stride[1]);
  }
  end = std::max(first, end);
}

template <int C>
FASTGAN_INLINE void rows(const ConvThinGrad& p, int64_t begin, int64_t end) {
  constexpr int kTogether = 4;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / p.height, h = row % p.height;
    const float* const dy = p.dy + n * p.out_height * p.out_width * p.outputs;
    float* const dx = p.dx + row * p.width * C;
    for (int64_t phase = 0; phase < std::min(p.stride[1], p.width); ++phase) {
      const int64_t count = (p.width - phase + p.stride[1] - 1) / p.stride[1];
      int64_t first, last, j = 0;
      interior(p, phase, count, first, last);
      while (j < count) {
        const int64_t w = phase + p.stride[1] * j;
        if (j >= first && j + kTogether <= last) {
          pixels<C, kTogether>(p, dy, h, w, dx + w * C);
          j += kTogether;
        } else {
          pixels<C, 1>(p, dy, h, w, dx + w * C);
          ++j;
        }
      }
    }
  }
}

// Cloned entry points must not be templates; the templates above are inlined into each clone.
FASTGAN_CLONES void rows_1(const ConvThinGrad& p, int64_t begin, int64_t end) { rows<1>(p, begin, end); }
FASTGAN_CLONES void rows_2(const ConvThinGrad& p, int64_t begin, int64_t end) { rows<2>(p, begin, end); }
FASTGAN_CLONES void rows_3(const ConvThinGrad& p, int64_t begin, int64_t end) { rows<3>(p, begin, end); }
FASTGAN_CLONES void rows_4(const ConvThinGrad& p, int64_t begin, int64_t end) { rows<4>(p, begin, end); }

}  // namespace

void launch_conv_thin_grad(const ConvThinGrad& p) {
  FASTGAN_CHECK(p.channels >= 1 && p.channels <= kThin, "conv_thin_grad: one to four input channels");
  FASTGAN_CHECK(p.outputs % kLanes == 0, "conv_thin_grad: the output channels are not a multiple of 16");
  const auto entry = p.channels == 1 ? rows_1 : p.channels == 2 ? rows_2 : p.channels == 3 ? rows_3 : rows_4;
  const int64_t work = p.width * p.channels * p.outputs * p.kernel[0] * p.kernel[1] / (p.stride[0] * p.stride[1]);
  parallel_for(p.images * p.height, work / 8, p.threads, [&](int64_t begin, int64_t end) { entry(p, begin, end); });
}

}  // namespace fastgan
