// CPU kernels of spectral normalization. They are bound by reading the weights. An iteration reads each weight once: both
// products of Wᵀ(W v) use a row of W while it is in the cache, and the norm of W v is divided out afterwards.
//
// Sums do not depend on the number of threads: the parts of a sum are fixed by the shape.
#include "fastgan/spectral_norm.h"

#include <cmath>
#include <limits>

#include "fastgan/check.h"
#include "fastgan/dot.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

constexpr int64_t kParts = 16;    // independent parts of a sum over rows
constexpr int64_t kChunk = 32768;  // elements that one thread sums or scales at a time

// The matrix M in memory.
template <class T>
struct Matrix {
  const T* data;
  int64_t rows, segments, length;

  FASTGAN_INLINE explicit Matrix(const SpectralLayer& l)
      : data(static_cast<const T*>(l.weight)),
        rows(l.transposed ? l.columns : l.rows),
        segments(l.segments),
        length(l.length) {}
  FASTGAN_INLINE int64_t columns() const { return segments * length; }
  FASTGAN_INLINE const T* run(int64_t row, int64_t segment) const { return data + (segment * rows + row) * length; }
};

// The dot product of a row of M and a vector over its columns.
template <class T>
FASTGAN_INLINE double dot_row(const Matrix<T>& m, int64_t row, const T* right) {
  double total = 0;
  for (int64_t s = 0; s < m.segments; ++s) total += dot(m.run(row, s), right + s * m.length, m.length);
  return total;
}

// sums += factor * row
template <class T>
FASTGAN_INLINE void add_row(const Matrix<T>& m, int64_t row, T factor, T* sums) {
  for (int64_t s = 0; s < m.segments; ++s) {
    const T* const run = m.run(row, s);
    T* const out = sums + s * m.length;
    FASTGAN_SIMD
    for (int64_t i = 0; i < m.length; ++i) out[i] += factor * run[i];
  }
}

// left = M right for rows [begin, end), and, where sums are given, sums += Mᵀ left over those rows.
template <class T>
FASTGAN_INLINE void rows_forth(const SpectralLayer& l, const T* right, T* left, T* sums, int64_t begin, int64_t end) {
  const Matrix<T> m(l);
  for (int64_t row = begin; row < end; ++row) {
    const T value = static_cast<T>(dot_row(m, row, right));
    left[row] = value;
    if (sums) add_row(m, row, value, sums);
  }
}

// sums += Mᵀ left over rows [begin, end).
template <class T>
FASTGAN_INLINE void rows_back(const SpectralLayer& l, const T* left, T* sums, int64_t begin, int64_t end) {
  const Matrix<T> m(l);
  for (int64_t row = begin; row < end; ++row) add_row(m, row, left[row], sums);
}

// Σ dy · M over rows [begin, end).
template <class T>
FASTGAN_INLINE double rows_inner(const SpectralLayer& l, const T* dy, int64_t begin, int64_t end) {
  const Matrix<T> m(l);
  double total = 0;
  for (int64_t s = 0; s < m.segments; ++s) {
    const int64_t offset = m.run(begin, s) - m.data;
    total += dot(m.data + offset, dy + offset, (end - begin) * m.length);
  }
  return total;
}

// dw = (dy − inner / sigma · left rightᵀ) / sigma over rows [begin, end).
template <class T>
FASTGAN_INLINE void rows_grad(const SpectralLayer& l, const T* dy, const T* left, const T* right, double inner,
                              double sigma, T* dw, int64_t begin, int64_t end) {
  const Matrix<T> m(l);
  const T scale = static_cast<T>(1 / sigma);
  for (int64_t row = begin; row < end; ++row) {
    const T coefficient = static_cast<T>(inner / sigma / sigma * left[row]);
    for (int64_t s = 0; s < m.segments; ++s) {
      const int64_t offset = m.run(row, s) - m.data;
      const T* const from = dy + offset;
      const T* const r = right + s * m.length;
      T* const to = dw + offset;
      FASTGAN_SIMD
      for (int64_t i = 0; i < m.length; ++i) to[i] = from[i] * scale - coefficient * r[i];
    }
  }
}

// Cloned entry points must not be templates; the templates above are inlined into each clone.
#define FASTGAN_ENTRIES(T)                                                                                           \
  FASTGAN_CLONES void forth(const SpectralLayer& l, const T* right, T* left, T* sums, int64_t begin, int64_t end) {  \
    rows_forth<T>(l, right, left, sums, begin, end);                                                                 \
  }                                                                                                                  \
  FASTGAN_CLONES void back(const SpectralLayer& l, const T* left, T* sums, int64_t begin, int64_t end) {             \
    rows_back<T>(l, left, sums, begin, end);                                                                         \
  }                                                                                                                  \
  FASTGAN_CLONES double inner(const SpectralLayer& l, const T* dy, int64_t begin, int64_t end) {                     \
    return rows_inner<T>(l, dy, begin, end);                                                                         \
  }                                                                                                                  \
  FASTGAN_CLONES void grad(const SpectralLayer& l, const T* dy, const T* left, const T* right, double inner,         \
                           double sigma, T* dw, int64_t begin, int64_t end) {                                        \
    rows_grad<T>(l, dy, left, right, inner, sigma, dw, begin, end);                                                  \
  }                                                                                                                  \
  FASTGAN_CLONES void scale(const T* x, T factor, T* y, int64_t n) { multiply<T>(x, factor, y, n); }

FASTGAN_ENTRIES(float)
FASTGAN_ENTRIES(double)

template <class T>
double norm(const std::vector<T>& x) {
  double sum = 0;
  for (const T value : x) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

template <class T>
void divide(std::vector<T>& x, double by) {
  for (T& value : x) value = static_cast<T>(value / by);
}

// The iteration of one layer, in terms of M: left is over its rows, right over its columns in memory order.
template <class T>
class Iteration {
 public:
  Iteration(const SpectralLayer& layer, const PowerIteration& p)
      : layer_(layer), threads_(p.threads), eps_(p.eps), m_(layer), left_(m_.rows), right_(m_.columns()) {}

  // Returns sigma.
  double run(const T* u, const T* v, int iterations, bool v_first) {
    load(u, v);
    const bool left_first = layer_.transposed == v_first;
    for (int i = 0; i < iterations; ++i) left_first ? left_then_right() : right_then_left();
    if (iterations == 0) {
      std::vector<T> product(left_.size());
      forth(product, false);
      double sum = 0;
      for (size_t i = 0; i < left_.size(); ++i) sum += static_cast<double>(left_[i]) * product[i];
      sigma_ = sum;
    }
    return sigma_;
  }

  void store(T* u, T* v) const {
    const std::vector<T>&rows = layer_.transposed ? right_ : left_, &columns = layer_.transposed ? left_ : right_;
    std::copy(rows.begin(), rows.end(), u);
    const int64_t channels = layer_.columns / layer_.pixels;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < layer_.pixels; ++i) v[c * layer_.pixels + i] = columns[i * channels + c];
  }

 private:
  void load(const T* u, const T* v) {
    std::vector<T>&rows = layer_.transposed ? right_ : left_, &columns = layer_.transposed ? left_ : right_;
    std::copy(u, u + layer_.rows, rows.begin());
    const int64_t channels = layer_.columns / layer_.pixels;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < layer_.pixels; ++i) columns[i * channels + c] = v[c * layer_.pixels + i];
  }

  int64_t parts() const { return std::min(m_.rows, kParts); }

  template <class Body>
  void over_parts(const Body& body) const {
    parallel_for(parts(), m_.rows * m_.columns() / parts(), threads_, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part)
        body(part, m_.rows * part / parts(), m_.rows * (part + 1) / parts());
    });
  }

  // product = M right; sums_ = Mᵀ product if wanted, part by part.
  void forth(std::vector<T>& product, bool with_sums) {
    if (with_sums) sums_.assign(parts() * m_.columns(), T(0));
    over_parts([&](int64_t part, int64_t begin, int64_t end) {
      T* const sums = with_sums ? sums_.data() + part * m_.columns() : nullptr;
      fastgan::forth(layer_, right_.data(), product.data(), sums, begin, end);
    });
  }

  // right = the sum of the parts.
  void gather() {
    std::fill(right_.begin(), right_.end(), T(0));
    for (int64_t part = 0; part < parts(); ++part)
      for (int64_t i = 0; i < m_.columns(); ++i) right_[i] += sums_[part * m_.columns() + i];
  }

  void left_then_right() {
    forth(left_, true);
    gather();
    // The rows were added with M right before its normalization: its norm is divided out here.
    const double size = std::max(norm(left_), eps_);
    divide(left_, size);
    divide(right_, size);
    finish(right_);
  }

  void right_then_left() {
    sums_.assign(parts() * m_.columns(), T(0));
    over_parts([&](int64_t part, int64_t begin, int64_t end) {
      back(layer_, left_.data(), sums_.data() + part * m_.columns(), begin, end);
    });
    gather();
    divide(right_, std::max(norm(right_), eps_));
    forth(left_, false);
    finish(left_);
  }

  // The last half step: uᵀ W v is the norm of the vector that it normalizes.
  void finish(std::vector<T>& last) {
    const double size = norm(last);
    divide(last, std::max(size, eps_));
    sigma_ = size * (size / std::max(size, eps_));
  }

  const SpectralLayer& layer_;
  const int threads_;
  const double eps_;
  const Matrix<T> m_;
  std::vector<T> left_, right_, sums_;
  double sigma_ = 0;
};

template <class T>
void power_iteration(const PowerIteration& p) {
  for (size_t i = 0; i < p.layers.size(); ++i) {
    const SpectralLayer& layer = p.layers[i];
    T* const u = static_cast<T*>(p.uv) + layer.at;
    T* const v = u + layer.rows;
    Iteration<T> iteration(layer, p);
    double sigma = iteration.run(u, v, p.iterations, p.v_first);
    if (std::isfinite(sigma)) {
      if (p.iterations > 0) iteration.store(u, v);
    } else {
      sigma = std::numeric_limits<double>::quiet_NaN();
    }
    static_cast<T*>(p.sigma)[i] = static_cast<T>(sigma);
  }
}

template <class T>
void spectral_scale(const SpectralScale& p) {
  for (size_t l = 0; l < p.weights.size(); ++l) {
    const T factor = T(1) / static_cast<const T*>(p.sigma)[l];
    const int64_t size = p.sizes[l], chunks = (size + kChunk - 1) / kChunk;
    parallel_for(chunks, kChunk, p.threads, [&](int64_t begin, int64_t end) {
      const int64_t from = begin * kChunk, to = std::min(size, end * kChunk);
      scale(static_cast<const T*>(p.weights[l]) + from, factor, static_cast<T*>(p.scaled[l]) + from, to - from);
    });
  }
}

// One layer after the other: the second read of dy finds it in the cache.
template <class T>
void spectral_scale_grad(const SpectralScaleGrad& p) {
  for (size_t l = 0; l < p.layers.size(); ++l) {
    const SpectralLayer& layer = p.layers[l];
    const Matrix<T> m(layer);
    const T* const dy = static_cast<const T*>(p.dy[l]);
    const T* const u = static_cast<const T*>(p.uv) + layer.at;
    const T *const left = layer.transposed ? u + layer.rows : u, *const right = layer.transposed ? u : u + layer.rows;
    std::vector<T> columns(m.columns());  // in memory order
    const int64_t channels = m.columns() / layer.pixels;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < layer.pixels; ++i) columns[i * channels + c] = right[c * layer.pixels + i];

    const int64_t parts = std::max<int64_t>(1, std::min(m.rows, m.rows * m.columns() / kChunk));
    const int64_t work = m.rows * m.columns() / parts;
    const auto first = [&](int64_t part) { return m.rows * part / parts; };
    std::vector<double> partial(parts);
    parallel_for(parts, work, p.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) partial[i] = inner(layer, dy, first(i), first(i + 1));
    });
    double total = 0;
    for (const double part : partial) total += part;
    parallel_for(parts, work, p.threads, [&](int64_t begin, int64_t end) {
      grad(layer, dy, left, columns.data(), total, static_cast<const T*>(p.sigma)[l], static_cast<T*>(p.dw[l]),
           first(begin), first(end));
    });
  }
}

void check(const std::vector<SpectralLayer>& layers, Dtype dtype) {
  FASTGAN_CHECK(dtype == Dtype::float32 || dtype == Dtype::float64, "spectral_norm: dtype is not float or double");
  for (const SpectralLayer& l : layers) {
    const int64_t rows = l.transposed ? l.columns : l.rows;
    FASTGAN_CHECK(l.rows > 0 && l.columns > 0, "spectral_norm: an empty weight");
    FASTGAN_CHECK(rows * l.segments * l.length == l.rows * l.columns, "spectral_norm: sizes do not fit");
    FASTGAN_CHECK(l.pixels > 0 && l.columns % l.pixels == 0 && !(l.transposed && l.pixels > 1),
                  "spectral_norm: pixels do not fit");
  }
}

}  // namespace

#define FASTGAN_FOR_DTYPE(function) \
  if (p.dtype == Dtype::float32)    \
    function<float>(p);             \
  else                              \
    function<double>(p);

void launch_power_iteration(const PowerIteration& p) {
  check(p.layers, p.dtype);
  FASTGAN_CHECK(p.iterations >= 0 && p.eps > 0, "power_iteration: iterations or eps out of range");
  FASTGAN_FOR_DTYPE(power_iteration)
}

void launch_spectral_scale(const SpectralScale& p) {
  FASTGAN_CHECK(p.weights.size() == p.scaled.size() && p.weights.size() == p.sizes.size(),
                "spectral_scale: lists of different lengths");
  FASTGAN_FOR_DTYPE(spectral_scale)
}

void launch_spectral_scale_grad(const SpectralScaleGrad& p) {
  check(p.layers, p.dtype);
  FASTGAN_CHECK(p.dy.size() == p.layers.size() && p.dw.size() == p.layers.size(),
                "spectral_scale_grad: lists of different lengths");
  FASTGAN_FOR_DTYPE(spectral_scale_grad)
}

}  // namespace fastgan
