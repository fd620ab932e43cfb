// One row of y at a time: the rows of x that reach it are summed into a row buffer, which is then filtered along the
// row. Polyphase: only taps that meet a pixel are multiplied, never an inserted zero. A "pixel" is one number where x is
// contiguous and all channels where it is channels_last, so that all inner loops run over adjacent numbers.
// Measured by benchmarks/run.py --case upfirdn2d.
#include "fastgan/upfirdn2d.h"

#include <cstring>
#include <vector>

#include "fastgan/check.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

constexpr int kTogether = 4;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// to (+)= Σ weight[t] · from[t], for n numbers.
template <int T, bool kAdd, class Real>
FASTGAN_INLINE void sum_rows(const Real* const* from, const Real* weight, int64_t n, Real* to) {
  const Real* const a = from[0];
  const Real* const b = from[T > 1 ? 1 : 0];
  const Real* const c = from[T > 2 ? 2 : 0];
  const Real* const d = from[T > 3 ? 3 : 0];
  const Real wa = weight[0], wb = weight[T > 1 ? 1 : 0], wc = weight[T > 2 ? 2 : 0], wd = weight[T > 3 ? 3 : 0];
  FASTGAN_SIMD
  for (int64_t i = 0; i < n; ++i) {
    Real sum = wa * a[i];
    if (T > 1) sum += wb * b[i];
    if (T > 2) sum += wc * c[i];
    if (T > 3) sum += wd * d[i];
    to[i] = kAdd ? to[i] + sum : sum;
  }
}

template <bool kAdd, class Real>
FASTGAN_INLINE void sum_some(int64_t count, const Real* const* from, const Real* weight, int64_t n, Real* to) {
  if (count == 1) sum_rows<1, kAdd>(from, weight, n, to);
  if (count == 2) sum_rows<2, kAdd>(from, weight, n, to);
  if (count == 3) sum_rows<3, kAdd>(from, weight, n, to);
  if (count == 4) sum_rows<4, kAdd>(from, weight, n, to);
}

// The same for any number of rows; without rows `to` becomes zero unless it is added to.
template <class Real>
FASTGAN_INLINE void combine(int64_t count, const Real* const* from, const Real* weight, int64_t n, bool add, Real* to) {
  if (count == 0 && !add) std::memset(to, 0, n * sizeof(Real));
  for (int64_t t = 0; t < count; t += kTogether) {
    const int64_t some = std::min<int64_t>(kTogether, count - t);
    if (add || t > 0)
      sum_some<true>(some, from + t, weight + t, n, to);
    else
      sum_some<false>(some, from + t, weight + t, n, to);
  }
}

// to[j · stride_to] = from[j · stride_from], for pixels of `size` numbers.
template <class Real>
FASTGAN_INLINE void copy_pixels(const Real* from, int64_t stride_from, Real* to, int64_t stride_to, int64_t count,
                                int64_t size) {
  if (size == 1) {
    for (int64_t j = 0; j < count; ++j) to[j * stride_to] = from[j * stride_from];
  } else {
    for (int64_t j = 0; j < count; ++j)
      for (int64_t c = 0; c < size; ++c) to[j * stride_to * size + c] = from[j * stride_from * size + c];
  }
}

// to[2j] = even[j], to[2j + 1] = odd[j]: written as one loop, since compilers vectorize no store with gaps.
template <class Real>
FASTGAN_INLINE void interleave(const Real* even, const Real* odd, int64_t count, Real* to) {
  for (int64_t j = 0; j < count; ++j) {
    to[2 * j] = even[j];
    to[2 * j + 1] = odd[j];
  }
}

template <class Real>
FASTGAN_INLINE void rows(const Upfirdn& p, int64_t begin, int64_t end) {
  const UpfirdnShape& s = p.shape;
  const int64_t size = s.channels_last ? s.channels : 1;  // of a pixel
  const int64_t up = s.up[1], down = s.down[1], columns = s.taps[1];
  const Real one = 1;
  const Real* const filter = p.filter ? static_cast<const Real*>(p.filter) : &one;
  const auto tap = [&](int64_t axis, int64_t k) { return s.flip ? k : s.taps[axis] - 1 - k; };

  // The columns [first, last) of the row buffer, zero outside of the image, in `down` phases of `length` pixels.
  const int64_t first = floor_div(-s.before[1], up);
  const int64_t last = floor_div((s.out[1] - 1 + up) * down + columns - 1 - s.before[1], up) + 1;
  const int64_t length = (last - first + down - 1) / down, most = (s.out[1] + up - 1) / up;
  const int64_t from_column = std::max<int64_t>(first, 0);
  const int64_t inside = std::max<int64_t>(0, std::min(last, s.width) - from_column);
  std::vector<Real> row(length * down * size, 0), split(down > 1 ? length * down * size : 0), phases(up * most * size);
  std::vector<const Real*> sources(std::max(s.taps[0], columns));
  std::vector<Real> weights(sources.size());
  Real* const middle = row.data() + (from_column - first) * size;

  for (int64_t index = begin; index < end; ++index) {
    const int64_t plane = index / s.out[0], at = index % s.out[0];
    const Real* const x = static_cast<const Real*>(p.x) + plane * s.height * s.width * size;
    Real* const y = static_cast<Real*>(p.y) + index * s.out[1] * size;
    bool add = false;
    // Filters the row buffer along the row into y, with these taps.
    const auto along = [&](const Real* taps, Real gain) {
      const Real* pixels = row.data();
      if (down > 1) {
        for (int64_t d = 0; d < down; ++d)
          copy_pixels(row.data() + d * size, down, split.data() + d * length * size, 1, length, size);
        pixels = split.data();
      }
      std::vector<const Real*>& from = sources;
      for (int64_t phase = 0; phase < up; ++phase) {
        const int64_t count = (s.out[1] - phase + up - 1) / up;
        if (count <= 0) continue;
        int64_t found = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const int64_t moved = phase * down + k - s.before[1] - first * up;
          if (moved % up != 0) continue;
          const int64_t column = moved / up;
          weights[found] = taps[tap(1, k)] * gain;
          from[found++] = pixels + ((column % down) * length + column / down) * size;
        }
        Real* const to = up == 1 ? y : phases.data() + phase * most * size;
        combine(found, from.data(), weights.data(), count * size, add, to);
      }
      add = true;
    };

    const int64_t top = at * s.down[0] - s.before[0];
    if (s.separable) {
      int64_t found = 0;
      for (int64_t k = 0; k < s.taps[0]; ++k) {
        const int64_t moved = top + k;
        if (moved < 0 || moved % s.up[0] != 0 || moved / s.up[0] >= s.height) continue;
        weights[found] = filter[tap(0, k)];
        sources[found++] = x + (moved / s.up[0] * s.width + from_column) * size;
      }
      combine(found, sources.data(), weights.data(), inside * size, false, middle);
      along(filter, static_cast<Real>(s.gain));
    } else {
      for (int64_t k = 0; k < s.taps[0]; ++k) {
        const int64_t moved = top + k;
        if (moved < 0 || moved % s.up[0] != 0 || moved / s.up[0] >= s.height) continue;
        std::memcpy(middle, x + (moved / s.up[0] * s.width + from_column) * size, inside * size * sizeof(Real));
        along(filter + tap(0, k) * columns, static_cast<Real>(s.gain));
      }
      if (!add) {  // no row of x reaches this row
        std::memset(y, 0, s.out[1] * size * sizeof(Real));
        continue;
      }
    }
    if (up == 2 && size == 1 && s.out[1] % 2 == 0) {
      interleave(phases.data(), phases.data() + most, most, y);
    } else if (up > 1) {
      for (int64_t phase = 0; phase < up; ++phase)
        copy_pixels(phases.data() + phase * most * size, 1, y + phase * size, up, (s.out[1] - phase + up - 1) / up,
                    size);
    }
  }
}

// Cloned entry points must not be templates; the templates above are inlined into each clone.
FASTGAN_CLONES void rows_float(const Upfirdn& p, int64_t begin, int64_t end) { rows<float>(p, begin, end); }
FASTGAN_CLONES void rows_double(const Upfirdn& p, int64_t begin, int64_t end) { rows<double>(p, begin, end); }

}  // namespace

void launch_upfirdn2d(const Upfirdn& p) {
  const UpfirdnShape& s = p.shape;
  FASTGAN_CHECK(s.dtype == Dtype::float32 || s.dtype == Dtype::float64, "upfirdn2d: float or double");
  const int64_t size = s.channels_last ? s.channels : 1;
  const int64_t planes = s.channels_last ? s.images : s.images * s.channels;
  const auto entry = s.dtype == Dtype::float32 ? rows_float : rows_double;
  parallel_for(planes * s.out[0], s.out[1] * size, s.threads, [&](int64_t begin, int64_t end) { entry(p, begin, end); });
}

}  // namespace fastgan
