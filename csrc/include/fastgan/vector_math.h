// exp, tanh and log1p as branch-free arithmetic that the compiler turns into vector code; about 1-2 ulp in float.
// Double uses the standard library: it is for checking gradients, not for speed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fastgan/parallel.h"

namespace fastgan {

FASTGAN_INLINE double vexp(double x) { return std::exp(x); }
FASTGAN_INLINE double vexpm1(double x) { return std::expm1(x); }
FASTGAN_INLINE double vtanh(double x) { return std::tanh(x); }
FASTGAN_INLINE double vlog1p_unit(double t) { return std::log1p(t); }

// e^x = 2^k e^r with |r| <= ln(2)/2. Results below 1.2e-38 are flushed to about that; NaN stays NaN.
FASTGAN_INLINE float vexp(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float large = x > 88.5f ? INFINITY : 0.0f;
  x = x > 88.5f ? 88.5f : x;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float k = shifted - magic;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale + large;
}

// e^x - 1 for x <= 0: a series near zero, where the subtraction cancels.
FASTGAN_INLINE float vexpm1(float x) {
  float p = 1.0f / 40320.0f;
  p = p * x + 1.0f / 5040.0f;
  p = p * x + 1.0f / 720.0f;
  p = p * x + 1.0f / 120.0f;
  p = p * x + 1.0f / 24.0f;
  p = p * x + 1.0f / 6.0f;
  p = p * x + 0.5f;
  const float series = p * x * x + x;
  const float direct = vexp(x) - 1.0f;
  return x > -0.5f ? series : direct;
}

FASTGAN_INLINE float vtanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float series = p * z * x + x;
  const float magnitude = x < 0.0f ? -x : x;
  const float large = 1.0f - 2.0f / (vexp(2.0f * magnitude) + 1.0f);
  const float direct = x < 0.0f ? -large : large;
  return magnitude < 0.625f ? series : direct;
}

// log(1 + t) for 0 <= t <= 1, as 2 atanh(t / (2 + t)).
FASTGAN_INLINE float vlog1p_unit(float t) {
  const float s = t / (2.0f + t);
  const float z = s * s;
  float p = 1.0f / 15.0f;
  p = p * z + 1.0f / 13.0f;
  p = p * z + 1.0f / 11.0f;
  p = p * z + 1.0f / 9.0f;
  p = p * z + 1.0f / 7.0f;
  p = p * z + 1.0f / 5.0f;
  p = p * z + 1.0f / 3.0f;
  return 2.0f * (p * z * s + s);
}

}  // namespace fastgan
