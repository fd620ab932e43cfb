// CPU kernels of bias_act: one pass over memory each, for both layouts, vectorized for the processor at run time.
//
// Reductions do not depend on the number of threads: the parts of a sum are fixed by the shape, float sums are short and
// flushed into double, and partial sums are added in order.
#include "fastgan/bias_act.h"

#include <vector>

#include "fastgan/check.h"
#include "fastgan/parallel.h"
#include "fastgan/vector_math.h"

namespace fastgan {
namespace {

constexpr int64_t kFlush = 1024;    // float additions between flushes into double, along a channel's pixels
constexpr int64_t kRowFlush = 64;   // the same along rows in channels_last
constexpr int64_t kRowBlocks = 64;  // independent parts of a channels_last reduction

// The activation table. value(p) of the pre-activation p; d1, d2 in terms of u, which is p where the input is saved
// and value(p) where the output is.
template <Act act>
struct Table;

template <>
struct Table<Act::linear> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T) { return p; }
  template <class T> static FASTGAN_INLINE T d1(T, T) { return T(1); }
  template <class T> static FASTGAN_INLINE T d2(T, T) { return T(0); }
};

template <>
struct Table<Act::relu> {
  static constexpr bool saves_input = false;
  // Written so that NaN passes through.
  template <class T> static FASTGAN_INLINE T value(T p, T) { return p <= T(0) ? T(0) : p; }
  template <class T> static FASTGAN_INLINE T d1(T u, T) { return u > T(0) ? T(1) : T(0); }
  template <class T> static FASTGAN_INLINE T d2(T, T) { return T(0); }
};

template <>
struct Table<Act::leaky_relu> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T alpha) { return p > T(0) ? p : p * alpha; }
  template <class T> static FASTGAN_INLINE T d1(T u, T alpha) { return u > T(0) ? T(1) : alpha; }
  template <class T> static FASTGAN_INLINE T d2(T, T) { return T(0); }
};

template <>
struct Table<Act::tanh> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T) { return vtanh(p); }
  template <class T> static FASTGAN_INLINE T d1(T u, T) { return T(1) - u * u; }
  template <class T> static FASTGAN_INLINE T d2(T u, T) { return T(-2) * u; }
};

template <class T>
FASTGAN_INLINE T logistic(T p) {
  return T(1) / (T(1) + vexp(-p));
}

template <>
struct Table<Act::sigmoid> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T) { return logistic(p); }
  template <class T> static FASTGAN_INLINE T d1(T u, T) { return u * (T(1) - u); }
  template <class T> static FASTGAN_INLINE T d2(T u, T) { return T(1) - T(2) * u; }
};

template <>
struct Table<Act::silu> {
  static constexpr bool saves_input = true;
  template <class T> static FASTGAN_INLINE T value(T p, T) { return p * logistic(p); }
  template <class T> static FASTGAN_INLINE T d1(T u, T) {
    const T s = logistic(u);
    return s * (T(1) + u * (T(1) - s));
  }
  template <class T> static FASTGAN_INLINE T d2(T u, T) {
    const T s = logistic(u);
    return s * (T(1) - s) * (T(2) + u * (T(1) - T(2) * s));
  }
};

template <>
struct Table<Act::softplus> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T) {
    const T magnitude = p < T(0) ? -p : p;
    return (p <= T(0) ? T(0) : p) + vlog1p_unit(vexp(-magnitude));  // written so that NaN passes through
  }
  template <class T> static FASTGAN_INLINE T d1(T u, T) { return -vexpm1(-u); }
  template <class T> static FASTGAN_INLINE T d2(T u, T) { return vexp(-u); }
};

template <>
struct Table<Act::elu> {
  static constexpr bool saves_input = false;
  template <class T> static FASTGAN_INLINE T value(T p, T alpha) { return p > T(0) ? p : alpha * vexpm1(p); }
  template <class T> static FASTGAN_INLINE T d1(T u, T alpha) { return u > T(0) ? T(1) : u + alpha; }
  template <class T> static FASTGAN_INLINE T d2(T u, T) { return u > T(0) ? T(0) : T(1); }
};

template <class T>
FASTGAN_INLINE T absolute(T v) {
  return v < T(0) ? -v : v;
}

template <class T>
FASTGAN_INLINE T limit(T v, T clamp) {
  return v > clamp ? clamp : (v < -clamp ? -clamp : v);
}

// The per-element formulas, with the constants in the element type.
template <Act act, class T>
struct Formula {
  using Row = Table<act>;
  T alpha, gain, inverse_gain, clamp;
  bool unlimited;

  explicit FASTGAN_INLINE Formula(const BiasActOptions& o)
      : alpha(T(o.alpha)), gain(T(o.gain)), inverse_gain(T(1 / o.gain)), clamp(T(o.clamp)), unlimited(o.clamp > 1e308) {}

  FASTGAN_INLINE T forward(T x, T b) const { return limit(Row::value(x + b, alpha) * gain, clamp); }

  // The argument u of d1 and d2, and whether the element was inside the clamp.
  FASTGAN_INLINE T argument(T saved, T b) const { return Row::saves_input ? saved + b : saved * inverse_gain; }
  FASTGAN_INLINE bool inside(T saved, T u) const {
    // Without a clamp infinity and NaN are inside too, so that their gradients are not hidden.
    return unlimited | (absolute(Row::saves_input ? Row::value(u, alpha) * gain : saved) < clamp);
  }

  // The clamp selects the slope, not the product: NaN in dy passes through, and the compiler emits no masked load of dy,
  // which took twice the time of the whole loop on Zen 4.
  FASTGAN_INLINE T grad(T dy, T saved, T b) const {
    const T u = argument(saved, b);
    const T slope = gain * Row::d1(u, alpha);
    return dy * (inside(saved, u) ? slope : T(0));
  }

  // Derivative of grad's factor with respect to saved: the gain cancels where the output is saved.
  FASTGAN_INLINE T curvature(T saved, T b) const {
    const T u = argument(saved, b);
    const T value = Row::d2(u, alpha) * (Row::saves_input ? gain : T(1));
    return inside(saved, u) ? value : T(0);
  }

  // By value, and both results before the first store: otherwise saved is read and its exponential computed twice.
  FASTGAN_INLINE void grad_grad(T ddx, T dy, T saved, T b, T& ddy, T& dsaved) const {
    const T first = grad(ddx, saved, b);
    const T second = ddx * dy * curvature(saved, b);
    ddy = first;
    dsaved = second;
  }
};

// A [N, C] tensor is a channels_last one: its channel is the fast axis.
FASTGAN_INLINE bool channel_is_fast(const BiasActShape& s) { return s.channels_last || s.pixels == 1; }

template <Act act, class T>
FASTGAN_INLINE void forward_rows(const BiasActForward& p, int64_t begin, int64_t end) {
  const Formula<act, T> f(p.options);
  const T* const x = static_cast<const T*>(p.x);
  const T* const bias = static_cast<const T*>(p.bias);
  T* const y = static_cast<T*>(p.y);
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels;
  for (int64_t row = begin; row < end; ++row) {
    if (channel_is_fast(p.shape)) {
      const T* const xr = x + row * channels;
      T* const yr = y + row * channels;
      if (bias) {
        FASTGAN_SIMD
        for (int64_t c = 0; c < channels; ++c) yr[c] = f.forward(xr[c], bias[c]);
      } else {
        FASTGAN_SIMD
        for (int64_t c = 0; c < channels; ++c) yr[c] = f.forward(xr[c], T(0));
      }
    } else {
      const T b = bias ? bias[row % channels] : T(0);
      const T* const xr = x + row * pixels;
      T* const yr = y + row * pixels;
      FASTGAN_SIMD
      for (int64_t i = 0; i < pixels; ++i) yr[i] = f.forward(xr[i], b);
    }
  }
}

// Rows are (n, c) pairs; each row's sum goes to partial[row].
template <Act act, class T>
FASTGAN_INLINE void grad_planes(const BiasActGrad& p, double* partial, int64_t begin, int64_t end) {
  const Formula<act, T> f(p.options);
  const int64_t channels = p.shape.channels, pixels = p.shape.pixels;
  const T* const bias = static_cast<const T*>(p.bias);
  for (int64_t row = begin; row < end; ++row) {
    const T b = bias ? bias[row % channels] : T(0);
    const T* const dy = static_cast<const T*>(p.dy) + row * pixels;
    const T* const saved = static_cast<const T*>(p.saved) + row * pixels;
    T* const dx = static_cast<T*>(p.dx) + row * pixels;
    double total = 0;
    for (int64_t from = 0; from < pixels; from += kFlush) {
      const int64_t to = std::min(pixels, from + kFlush);
      T sum = 0;
      FASTGAN_SIMD_SUM(sum)
      for (int64_t i = from; i < to; ++i) {
        const T d = f.grad(dy[i], saved[i], b);
        dx[i] = d;
        sum += d;
      }
      total += sum;
    }
    if (partial) partial[row] = total;
  }
}

// bias[c], or zeros without one: a test inside the loop would keep it from being vectorized.
template <class T>
class ChannelBias {
 public:
  FASTGAN_INLINE ChannelBias(const void* bias, int64_t channels)
      : zeros_(bias ? 0 : channels), values_(bias ? static_cast<const T*>(bias) : zeros_.data()) {}
  FASTGAN_INLINE T operator[](int64_t c) const { return values_[c]; }

 private:
  std::vector<T> zeros_;
  const T* values_;
};

// Blocks of pixels; each block's sums go to partial[block * C + c].
template <Act act, class T>
FASTGAN_INLINE void grad_blocks(const BiasActGrad& p, double* partial, T* scratch, int64_t blocks, int64_t begin,
                                int64_t end) {
  const Formula<act, T> f(p.options);
  const int64_t channels = p.shape.channels, rows = p.shape.images * p.shape.pixels;
  const ChannelBias<T> bias(p.bias, channels);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = rows * block / blocks, last = rows * (block + 1) / blocks;
    T* const sums = scratch + block * channels;
    for (int64_t from = first; from < last; from += kRowFlush) {
      const int64_t to = std::min(last, from + kRowFlush);
      for (int64_t c = 0; c < channels; ++c) sums[c] = T(0);
      for (int64_t row = from; row < to; ++row) {
        const T* const dy = static_cast<const T*>(p.dy) + row * channels;
        const T* const saved = static_cast<const T*>(p.saved) + row * channels;
        T* const dx = static_cast<T*>(p.dx) + row * channels;
        FASTGAN_SIMD
        for (int64_t c = 0; c < channels; ++c) {
          const T d = f.grad(dy[c], saved[c], bias[c]);
          dx[c] = d;
          sums[c] += d;
        }
      }
      if (partial) {
        FASTGAN_SIMD
        for (int64_t c = 0; c < channels; ++c) partial[block * channels + c] += sums[c];
      }
    }
  }
}

template <Act act, class T>
FASTGAN_INLINE void grad_grad_rows(const BiasActGradGrad& p, int64_t begin, int64_t end) {
  const Formula<act, T> f(p.options);
  const int64_t channels = p.shape.channels;
  const bool fast = channel_is_fast(p.shape);
  const int64_t length = fast ? channels : p.shape.pixels;
  const ChannelBias<T> bias(p.bias, channels);
  for (int64_t row = begin; row < end; ++row) {
    const T* const ddx = static_cast<const T*>(p.ddx) + row * length;
    const T* const dy = static_cast<const T*>(p.dy) + row * length;
    const T* const saved = static_cast<const T*>(p.saved) + row * length;
    T* const ddy = static_cast<T*>(p.ddy) + row * length;
    T* const ds = static_cast<T*>(p.dsaved) + row * length;
    if (fast) {
      FASTGAN_SIMD
      for (int64_t c = 0; c < channels; ++c) {
        f.grad_grad(ddx[c], dy[c], saved[c], bias[c], ddy[c], ds[c]);
      }
    } else {
      const T b = bias[row % channels];
      FASTGAN_SIMD
      for (int64_t i = 0; i < length; ++i) {
        f.grad_grad(ddx[i], dy[i], saved[i], b, ddy[i], ds[i]);
      }
    }
  }
}

// Calls Body<act>::run: the switch is outside every loop.
#define FASTGAN_FOR_ACT(act_value, CALL)     \
  switch (act_value) {                       \
    case Act::linear: CALL(Act::linear)      \
    case Act::relu: CALL(Act::relu)          \
    case Act::leaky_relu: CALL(Act::leaky_relu) \
    case Act::tanh: CALL(Act::tanh)          \
    case Act::sigmoid: CALL(Act::sigmoid)    \
    case Act::silu: CALL(Act::silu)          \
    case Act::softplus: CALL(Act::softplus)  \
    case Act::elu: CALL(Act::elu)            \
  }

// Cloned entry points must not be templates; the templates above are inlined into each clone.
#define FASTGAN_ENTRIES(T, suffix)                                                                               \
  FASTGAN_CLONES void forward_##suffix(const BiasActForward& p, int64_t begin, int64_t end) {                    \
    FASTGAN_FOR_ACT(p.options.act, FASTGAN_CALL_FORWARD_##suffix)                                                \
  }                                                                                                              \
  FASTGAN_CLONES void planes_##suffix(const BiasActGrad& p, double* partial, int64_t begin, int64_t end) {       \
    FASTGAN_FOR_ACT(p.options.act, FASTGAN_CALL_PLANES_##suffix)                                                 \
  }                                                                                                              \
  FASTGAN_CLONES void blocks_##suffix(const BiasActGrad& p, double* partial, T* scratch, int64_t blocks,         \
                                      int64_t begin, int64_t end) {                                              \
    FASTGAN_FOR_ACT(p.options.act, FASTGAN_CALL_BLOCKS_##suffix)                                                 \
  }                                                                                                              \
  FASTGAN_CLONES void grad_grad_##suffix(const BiasActGradGrad& p, int64_t begin, int64_t end) {                 \
    FASTGAN_FOR_ACT(p.options.act, FASTGAN_CALL_GRAD_GRAD_##suffix)                                              \
  }

#define FASTGAN_CALL_FORWARD_f32(act) return forward_rows<act, float>(p, begin, end);
#define FASTGAN_CALL_FORWARD_f64(act) return forward_rows<act, double>(p, begin, end);
#define FASTGAN_CALL_PLANES_f32(act) return grad_planes<act, float>(p, partial, begin, end);
#define FASTGAN_CALL_PLANES_f64(act) return grad_planes<act, double>(p, partial, begin, end);
#define FASTGAN_CALL_BLOCKS_f32(act) return grad_blocks<act, float>(p, partial, scratch, blocks, begin, end);
#define FASTGAN_CALL_BLOCKS_f64(act) return grad_blocks<act, double>(p, partial, scratch, blocks, begin, end);
#define FASTGAN_CALL_GRAD_GRAD_f32(act) return grad_grad_rows<act, float>(p, begin, end);
#define FASTGAN_CALL_GRAD_GRAD_f64(act) return grad_grad_rows<act, double>(p, begin, end);

FASTGAN_ENTRIES(float, f32)
FASTGAN_ENTRIES(double, f64)

void check(const BiasActShape& shape, const BiasActOptions& options) {
  FASTGAN_CHECK(shape.images >= 0 && shape.channels >= 0 && shape.pixels >= 0, "bias_act: a size is negative");
  FASTGAN_CHECK(shape.dtype == Dtype::float32 || shape.dtype == Dtype::float64, "bias_act: dtype is not float or double");
  FASTGAN_CHECK(options.gain > 0 && options.clamp > 0 && options.alpha >= 0, "bias_act: gain, clamp or alpha out of range");
}

int64_t rows_of(const BiasActShape& s) { return s.images * (channel_is_fast(s) ? s.pixels : s.channels); }
int64_t length_of(const BiasActShape& s) { return channel_is_fast(s) ? s.channels : s.pixels; }

template <class T, class Planes, class Blocks>
void grad(const BiasActGrad& p, const Planes& planes, const Blocks& blocks_entry) {
  const BiasActShape& s = p.shape;
  T* const db = static_cast<T*>(p.db);
  if (channel_is_fast(s)) {
    const int64_t rows = rows_of(s), blocks = std::min(rows, kRowBlocks);
    std::vector<double> partial(db ? blocks * s.channels : 0);
    std::vector<T> scratch(blocks * s.channels);
    double* const sums = db ? partial.data() : nullptr;
    parallel_for(blocks, blocks ? rows * s.channels / blocks : 0, s.threads, [&](int64_t begin, int64_t end) {
      blocks_entry(p, sums, scratch.data(), blocks, begin, end);
    });
    for (int64_t c = 0; db && c < s.channels; ++c) {
      double total = 0;
      for (int64_t block = 0; block < blocks; ++block) total += partial[block * s.channels + c];
      db[c] = T(total);
    }
    return;
  }
  std::vector<double> partial(db ? s.images * s.channels : 0);
  double* const sums = db ? partial.data() : nullptr;
  parallel_for(rows_of(s), s.pixels, s.threads, [&](int64_t begin, int64_t end) { planes(p, sums, begin, end); });
  for (int64_t c = 0; db && c < s.channels; ++c) {
    double total = 0;
    for (int64_t n = 0; n < s.images; ++n) total += partial[n * s.channels + c];
    db[c] = T(total);
  }
}

}  // namespace

void launch_bias_act(const BiasActForward& p) {
  check(p.shape, p.options);
  const auto entry = p.shape.dtype == Dtype::float32 ? forward_f32 : forward_f64;
  parallel_for(rows_of(p.shape), length_of(p.shape), p.shape.threads,
               [&](int64_t begin, int64_t end) { entry(p, begin, end); });
}

void launch_bias_act_grad(const BiasActGrad& p) {
  check(p.shape, p.options);
  if (p.shape.dtype == Dtype::float32) {
    grad<float>(p, planes_f32, blocks_f32);
  } else {
    grad<double>(p, planes_f64, blocks_f64);
  }
}

void launch_bias_act_grad_grad(const BiasActGradGrad& p) {
  check(p.shape, p.options);
  const auto entry = p.shape.dtype == Dtype::float32 ? grad_grad_f32 : grad_grad_f64;
  parallel_for(rows_of(p.shape), length_of(p.shape), p.shape.threads,
               [&](int64_t begin, int64_t end) { entry(p, begin, end); });
}

}  // namespace fastgan
