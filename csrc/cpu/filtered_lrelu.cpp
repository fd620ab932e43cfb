// Sixteen planes (of a contiguous tensor) or channels (channels_last) at a time are the lanes of a vector, so that every
// loop runs over whole vectors, whatever the factors and the width. Rows at the high rate are made one after the other,
// filtered along the row at once, and kept only as long as the second filter reaches them: the upsampled image stays in
// the cache. Polyphase: only taps that meet a pixel are multiplied, never an inserted zero.
// Measured by benchmarks/run.py --case filtered_lrelu.
#include "fastgan/filtered_lrelu.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "fastgan/parallel.h"

namespace fastgan {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kTogether = 6;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

#if defined(__GNUC__)
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
#endif

// to[i · to_step] (+)= Σ weight[t] · from[t][i · from_step], for vectors of lanes.
template <int T, bool kAdd>
FASTGAN_INLINE void sum_rows(const float* const* from, int64_t from_step, const float* weight, int64_t count, float* to,
                             int64_t to_step) {
#if defined(__GNUC__)
  float w[T];
  std::memcpy(w, weight, sizeof w);
  for (int64_t i = 0; i < count; ++i) {
    Lanes sum{}, x;
    if (kAdd) std::memcpy(&sum, to + i * to_step, sizeof sum);
    for (int t = 0; t < T; ++t) {
      std::memcpy(&x, from[t] + i * from_step, sizeof x);
      sum += w[t] * x;
    }
    std::memcpy(to + i * to_step, &sum, sizeof sum);
  }
#else
  for (int64_t i = 0; i < count; ++i)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float sum = kAdd ? to[i * to_step + lane] : 0;
      for (int t = 0; t < T; ++t) sum += weight[t] * from[t][i * from_step + lane];
      to[i * to_step + lane] = sum;
    }
#endif
}

template <bool kAdd>
FASTGAN_INLINE void sum_some(int64_t terms, const float* const* from, int64_t from_step, const float* weight,
                             int64_t count, float* to, int64_t to_step) {
  if (terms == 1) sum_rows<1, kAdd>(from, from_step, weight, count, to, to_step);
  if (terms == 2) sum_rows<2, kAdd>(from, from_step, weight, count, to, to_step);
  if (terms == 3) sum_rows<3, kAdd>(from, from_step, weight, count, to, to_step);
  if (terms == 4) sum_rows<4, kAdd>(from, from_step, weight, count, to, to_step);
  if (terms == 5) sum_rows<5, kAdd>(from, from_step, weight, count, to, to_step);
  if (terms == 6) sum_rows<6, kAdd>(from, from_step, weight, count, to, to_step);
}

// The same for any number of terms; without terms `to` becomes zero. This and the two functions on a row of samples have
// clones for each instruction set; all other functions only move data.
FASTGAN_CLONES void combine(int64_t terms, const float* const* from, int64_t from_step, const float* weight,
                            int64_t count, float* to, int64_t to_step) {
  if (terms == 0)
    for (int64_t i = 0; i < count; ++i) std::memset(to + i * to_step, 0, kLanes * sizeof(float));
  // Twelve taps, StyleGAN3's, need no second pass over the sums.
  if (terms == 12) {
    sum_rows<12, false>(from, from_step, weight, count, to, to_step);
    return;
  }
  for (int64_t t = 0; t < terms; t += kTogether) {
    const int64_t some = std::min<int64_t>(kTogether, terms - t);
    if (t > 0)
      sum_some<true>(some, from + t, from_step, weight + t, count, to, to_step);
    else
      sum_some<false>(some, from + t, from_step, weight + t, count, to, to_step);
  }
}

// Rows of the lanes' planes ↔ vectors: to[i][lane] = from[lane · stride + i].
template <class T>
void gather(const T* from, int64_t stride, int64_t lanes, int64_t count, T* to) {
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t i = 0; i < count; ++i) to[i * kLanes + lane] = from[lane * stride + i];
}

template <class T>
void scatter(const T* from, int64_t count, T* to, int64_t stride, int64_t lanes) {
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t i = 0; i < count; ++i) to[lane * stride + i] = from[i * kLanes + lane];
}

// Leaky ReLU · gain with clamp, in place, of four samples in a row, and their masks if wanted. No clamp is NaN.
template <bool kMasks>
FASTGAN_INLINE void activate_four(float* v, float gain, float slope, float clamp, uint8_t* masks) {
  int32_t packed[kLanes] = {};
  for (int s = 0; s < 4; ++s) {
    FASTGAN_SIMD
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float u = v[s * kLanes + lane];
      const float value = (u <= 0 ? u * slope : u) * gain;
      const float limited = value >= clamp ? clamp : value;
      v[s * kLanes + lane] = value <= -clamp ? -clamp : limited;
      if (kMasks) packed[lane] |= ((u <= 0 ? 1 : 0) | (std::fabs(value) >= clamp ? 2 : 0)) << (2 * s);
    }
  }
  if (kMasks) {
    FASTGAN_SIMD
    for (int64_t lane = 0; lane < kLanes; ++lane) masks[lane] = static_cast<uint8_t>(packed[lane]);
  }
}

// Four samples in a row times their slopes, in place.
FASTGAN_INLINE void multiply_four(float* v, float gain, float slope, const uint8_t* masks) {
#if defined(__GNUC__)
  Bytes bytes;
  std::memcpy(&bytes, masks, sizeof bytes);
  const Integers packed = __builtin_convertvector(bytes, Integers);
  for (int s = 0; s < 4; ++s) {
    Lanes u;
    std::memcpy(&u, v + s * kLanes, sizeof u);
    const Integers bits = (packed >> (2 * s)) & 3;
    const Lanes factor = bits == 0 ? gain - Lanes{} : bits == 1 ? gain * slope - Lanes{} : Lanes{};
    u *= factor;
    std::memcpy(v + s * kLanes, &u, sizeof u);
  }
#else
  for (int s = 0; s < 4; ++s)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int bits = (masks[lane] >> (2 * s)) & 3;
      v[s * kLanes + lane] *= bits == 0 ? gain : bits == 1 ? gain * slope : 0;
    }
#endif
}

FASTGAN_CLONES void activate(float* v, int64_t bytes, float gain, float slope, float clamp, uint8_t* masks) {
  for (int64_t m = 0; m < bytes; ++m) {
    if (masks)
      activate_four<true>(v + 4 * m * kLanes, gain, slope, clamp, masks + m * kLanes);
    else
      activate_four<false>(v + 4 * m * kLanes, gain, slope, clamp, nullptr);
  }
}

FASTGAN_CLONES void multiply(float* v, int64_t bytes, float gain, float slope, const uint8_t* masks) {
  for (int64_t m = 0; m < bytes; ++m) multiply_four(v + 4 * m * kLanes, gain, slope, masks + m * kLanes);
}

struct Phase {
  int64_t first;               // the vector of the input row that the first tap of output 0 meets
  std::vector<float> weights;  // of vectors in a row from there
};

struct Buffers {
  std::vector<float> input, between, high, filtered, row;
  std::vector<uint8_t> masks;
  std::vector<int64_t> held;  // the row of x that each slot of `input` holds
};

// The rows [begin, end) of y, of up to kLanes planes. Rows at the high rate that lie between two bands belong to the
// one above; the last band has the rest of them.
void band(const Filtered& p, int64_t group, int64_t begin, int64_t end) {
  const FilteredShape& s = p.shape;
  const float one = 1;
  const float* const first = p.first_filter ? p.first_filter : &one;
  const float* const second = p.second_filter ? p.second_filter : &one;
  const auto first_tap = [&](int64_t k) { return first[s.flip ? k : s.taps[0] - 1 - k]; };
  const auto second_tap = [&](int64_t k) { return second[s.flip ? k : s.taps[1] - 1 - k]; };
  const float gain = static_cast<float>(s.gain), slope = static_cast<float>(s.slope);
  const float clamp = static_cast<float>(s.clamp);

  // The lanes: planes of a contiguous tensor, or channels of an image.
  const int64_t groups = (s.channels + kLanes - 1) / kLanes;
  const int64_t image = s.channels_last ? group / groups : 0;
  const int64_t plane = s.channels_last ? image * s.channels + group % groups * kLanes : group * kLanes;
  const int64_t channel = plane - image * s.channels;
  const int64_t lanes = std::min(kLanes, s.channels_last ? s.channels - channel : s.images * s.channels - plane);
  float bias[kLanes] = {};
  if (p.bias)
    for (int64_t lane = 0; lane < lanes; ++lane) bias[lane] = p.bias[(plane + lane) % s.channels];

  // Rows with margins of zeros, so that taps need no test.
  const int64_t up = s.up[1], before = s.first_before[1];
  const int64_t left = std::max<int64_t>(0, floor_div(before + up - 1, up));
  const int64_t reach = floor_div(s.high[1] - 1 + s.taps[0] - 1 - before, up) + 1;
  const int64_t between_width = left + std::max(s.width, reach);
  const int64_t bytes = (s.high[1] + 3) / 4, margin = std::max<int64_t>(0, s.second_before[1]);
  const int64_t needed = (s.out[1] - 1) * s.down[1] + s.taps[1] - s.second_before[1];
  const int64_t high_width = margin + std::max(bytes * 4, needed);
  const int64_t slots = (s.taps[0] + s.up[0] - 1) / s.up[0] + 1;
  Buffers b{std::vector<float>(slots * s.width * kLanes), std::vector<float>(between_width * kLanes),
            std::vector<float>(high_width * kLanes), std::vector<float>(s.taps[1] * s.out[1] * kLanes),
            std::vector<float>(s.out[1] * kLanes), std::vector<uint8_t>(bytes * kLanes),
            std::vector<int64_t>(slots, -1)};

  std::vector<Phase> phases(up);
  for (int64_t phase = 0; phase < up; ++phase) {
    int64_t k = 0;
    while ((phase + k - before) % up != 0) ++k;
    phases[phase].first = left + (phase + k - before) / up;
    for (; k < s.taps[0]; k += up)
      phases[phase].weights.push_back(first_tap(k) * static_cast<float>(s.first_gain));
  }
  const int64_t most = std::max(s.taps[0], s.taps[1]);
  std::vector<const float*> from(most);
  std::vector<float> weights(most), last(s.taps[1]);
  for (int64_t k = 0; k < s.taps[1]; ++k) last[k] = second_tap(k);

  const auto input_row = [&](int64_t h) {
    float* const to = b.input.data() + h % slots * s.width * kLanes;
    if (b.held[h % slots] == h) return to;
    b.held[h % slots] = h;
    if (s.channels_last) {
      const float* x = p.x + ((image * s.height + h) * s.width) * s.channels + channel;
      for (int64_t w = 0; w < s.width; ++w, x += s.channels)
        if (lanes == kLanes)
          std::memcpy(to + w * kLanes, x, kLanes * sizeof(float));
        else
          std::memcpy(to + w * kLanes, x, lanes * sizeof(float));
    } else {
      gather(p.x + (plane * s.height + h) * s.width, s.height * s.width, lanes, s.width, to);
    }
    if (p.bias)
      for (int64_t w = 0; w < s.width; ++w)
        for (int64_t lane = 0; lane < kLanes; ++lane) to[w * kLanes + lane] += bias[lane];
    return to;
  };

  const bool is_last = end == s.out[0];
  const int64_t high_end = is_last ? s.high[0] : std::min(s.high[0], end * s.down[0] - s.second_before[0]);
  const auto high_row = [&](int64_t j, bool kept) {
    int64_t found = 0;
    for (int64_t k = 0; k < s.taps[0]; ++k) {
      const int64_t moved = j + k - s.first_before[0];
      if (moved < 0 || moved % s.up[0] != 0 || moved / s.up[0] >= s.height) continue;
      weights[found] = first_tap(k);
      from[found++] = input_row(moved / s.up[0]);
    }
    combine(found, from.data(), kLanes, weights.data(), s.width, b.between.data() + left * kLanes, kLanes);
    float* const high = b.high.data() + margin * kLanes;
    for (int64_t phase = 0; phase < up; ++phase) {
      const Phase& one_of = phases[phase];
      const int64_t terms = static_cast<int64_t>(one_of.weights.size());
      for (int64_t t = 0; t < terms; ++t) from[t] = b.between.data() + (one_of.first + t) * kLanes;
      combine(terms, from.data(), kLanes, one_of.weights.data(), (s.high[1] - phase + up - 1) / up,
              high + phase * kLanes, up * kLanes);
    }
    uint8_t* const masks = p.masks ? p.masks + (plane * s.high[0] + j) * bytes : nullptr;
    const int64_t stride = s.high[0] * bytes;
    if (s.linear) {
      gather(masks, stride, lanes, bytes, b.masks.data());
      multiply(high, bytes, gain, slope, b.masks.data());
    } else {
      const bool written = masks && j < high_end;
      activate(high, bytes, gain, slope, clamp, written ? b.masks.data() : nullptr);
      if (written) {
        if (s.high[1] % 4 != 0)  // no bits past the end
          for (int64_t lane = 0; lane < kLanes; ++lane)
            b.masks[(bytes - 1) * kLanes + lane] &= (1 << (2 * (s.high[1] % 4))) - 1;
        scatter(b.masks.data(), bytes, masks, stride, lanes);
      }
    }
    if (!kept) return;
    const float* const samples = high - s.second_before[1] * kLanes;
    for (int64_t k = 0; k < s.taps[1]; ++k) from[k] = samples + k * kLanes;
    combine(s.taps[1], from.data(), s.down[1] * kLanes, last.data(), s.out[1],
            b.filtered.data() + j % s.taps[1] * s.out[1] * kLanes, kLanes);
  };

  int64_t next = std::max<int64_t>(0, begin * s.down[0] - s.second_before[0]);
  for (int64_t o = begin; o < end; ++o) {
    const int64_t top = o * s.down[0] - s.second_before[0];
    for (const int64_t stop = std::min(s.high[0], top + s.taps[1]); next < stop; ++next)
      if (next >= top || (p.masks && !s.linear)) high_row(next, next >= top);
    int64_t found = 0;
    for (int64_t k = 0; k < s.taps[1]; ++k) {
      if (top + k < 0 || top + k >= s.high[0]) continue;
      weights[found] = last[k];
      from[found++] = b.filtered.data() + (top + k) % s.taps[1] * s.out[1] * kLanes;
    }
    combine(found, from.data(), kLanes, weights.data(), s.out[1], b.row.data(), kLanes);
    if (s.channels_last) {
      float* y = p.y + ((image * s.out[0] + o) * s.out[1]) * s.channels + channel;
      for (int64_t w = 0; w < s.out[1]; ++w, y += s.channels)
        std::memcpy(y, b.row.data() + w * kLanes, lanes * sizeof(float));
    } else {
      scatter(b.row.data(), s.out[1], p.y + (plane * s.out[0] + o) * s.out[1], s.out[0] * s.out[1], lanes);
    }
  }
  if (p.masks && !s.linear)
    for (; next < high_end; ++next) high_row(next, false);
}

}  // namespace

void launch_filtered_lrelu(const Filtered& p) {
  const FilteredShape& s = p.shape;
  const int64_t planes = s.channels_last ? s.channels : s.images * s.channels;
  const int64_t groups = (planes + kLanes - 1) / kLanes * (s.channels_last ? s.images : 1);
  // Bands of rows repeat the rows that the filters reach beyond them: only where threads would have nothing to do.
  const int64_t wanted = (s.threads + groups - 1) / std::max<int64_t>(1, groups);
  const int64_t count = std::max<int64_t>(1, std::min(wanted, s.out[0] / 8));
  const int64_t work = s.high[0] * s.high[1] * kLanes / count;
  parallel_for(groups * count, work, s.threads, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t part = index % count, rows = s.out[0];
      band(p, index / count, rows * part / count, rows * (part + 1) / count);
    }
  });
}

}  // namespace fastgan
