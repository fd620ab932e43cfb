// Adam and the moving average of the weights on the CPU, in one pass. It is bound by memory: an element takes 28 bytes,
// read or written, in float, and 36 with an average.
//
// The results of the update are those of torch.optim.Adam(fused=True) and torch.lerp, bit for bit, where PyTorch's
// kernels use fused multiply-add (x86-64-v3 and later), so that a run goes on as it would with PyTorch's optimizer. No
// result depends on the number of threads.
#include "fastgan/adam_ema.h"

#include <cmath>

#include "fastgan/check.h"
#include "fastgan/dot.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

// Elements that a thread updates at a time: whole vectors, and the weights are still in the first-level cache when the
// average follows. (One loop for both is not vectorized by GCC 12: ten times slower.)
constexpr int64_t kChunk = 2048;

// PyTorch's vector code takes this many bytes at a time, and rounds the elements after the last vector otherwise.
#if defined(__x86_64__) || defined(_M_X64)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

// Whether fused multiply-add is an instruction. As a library function it would be a hundred times slower.
bool fused_multiply_add() {
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__FMA__) || defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

// --- the check -------------------------------------------------------------------------------------------------------

constexpr int64_t kSumChunk = 16384;  // elements of a partial sum, so that results do not depend on the threads

FASTGAN_CLONES double square(const float* x, int64_t n) { return dot<float>(x, x, n); }
FASTGAN_CLONES double square(const double* x, int64_t n) { return dot<double>(x, x, n); }

struct Chunk {
  size_t tensor;
  int64_t begin, end;
};

void add_chunks(std::vector<Chunk>& chunks, size_t tensor, int64_t size, int64_t length) {
  FASTGAN_CHECK(size >= 0, "adam_ema: a size is negative");
  for (int64_t begin = 0; begin < size; begin += length) {
    chunks.push_back({tensor, begin, std::min(size, begin + length)});
  }
}

template <class T>
void check_gradients(const CheckGradients& p) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < p.sizes.size(); ++i) add_chunks(chunks, i, p.sizes[i], kSumChunk);
  std::vector<double> partial(chunks.size()), squares(p.sizes.size());
  parallel_for(static_cast<int64_t>(chunks.size()), kSumChunk, p.threads, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const auto [i, from, to] = chunks[c];
      partial[c] = square(static_cast<const T*>(p.gradients.at(i)) + from, to - from);
    }
  });
  for (size_t c = 0; c < chunks.size(); ++c) squares[chunks[c].tensor] += partial[c];
  double total = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    total += squares[i];
    p.found[2 + i] = static_cast<float>(std::sqrt(squares[i])) / *p.divisor;
  }
  p.found[0] = static_cast<float>(std::sqrt(total)) / *p.divisor;
  p.found[1] = std::isfinite(p.found[0]) && std::isfinite(*p.loss) ? 0.0f : 1.0f;
}

// --- the update ------------------------------------------------------------------------------------------------------

// What the elements of one tensor have in common.
template <class T>
struct Factors {
  T divisor, beta2, rest2, root, eps, rate;
  T toward;  // from the mean to the gradient: 1 - beta1, or -beta1 from the other side
  T ema;     // from the average to the weight
  bool from_gradient, from_weight;
};

// torch.lerp rounds better from the nearer end.
template <class T>
bool from_end(T weight) {
  return !(std::abs(weight) < T(0.5));
}

template <class T>
Factors<T> factors(const AdamEma& p, float step) {
  const double correction1 = 1 - std::pow(p.beta1, static_cast<double>(step));
  const double correction2 = 1 - std::pow(p.beta2, static_cast<double>(step));
  const T rest1 = static_cast<T>(1 - p.beta1), ema = static_cast<T>(p.ema_weight);
  return {static_cast<T>(*p.divisor),
          static_cast<T>(p.beta2),
          static_cast<T>(1 - p.beta2),
          static_cast<T>(std::sqrt(correction2)),
          static_cast<T>(p.eps),
          static_cast<T>(p.lr / correction1),
          from_end(rest1) ? rest1 - 1 : rest1,
          from_end(ema) ? ema - 1 : ema,
          from_end(rest1),
          from_end(ema)};
}

template <bool kFused, class T>
FASTGAN_INLINE T multiply_add(T a, T b, T c) {
  return kFused ? std::fma(a, b, c) : a * b + c;
}

// kLast: the elements after the last whole vector.
template <class T, bool kFused, bool kLast>
FASTGAN_INLINE void move_weights(const AdamTensor& t, const Factors<T>& f, int64_t begin, int64_t end) {
  T* const weight = static_cast<T*>(t.weight);
  T* const mean = static_cast<T*>(t.mean);
  T* const square = static_cast<T*>(t.square);
  const T* const gradient = static_cast<const T*>(t.gradient);
  FASTGAN_SIMD
  for (int64_t i = begin; i < end; ++i) {
    const T g = gradient[i] / f.divisor;
    const T m = multiply_add<kFused>(f.toward, g - mean[i], f.from_gradient ? g : mean[i]);
    const T scaled = f.rest2 * g;
    const T s = kLast ? multiply_add<kFused>(square[i], f.beta2, scaled * g)
                      : multiply_add<kFused>(scaled, g, square[i] * f.beta2);
    mean[i] = m;
    square[i] = s;
    weight[i] -= f.rate * m / (std::sqrt(s) / f.root + f.eps);
  }
}

template <class T, bool kFused>
FASTGAN_INLINE void move_range(const AdamTensor& t, const Factors<T>& f, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kVectorBytes / sizeof(T);
  const int64_t vectors = std::min(end, t.size / lanes * lanes);
  move_weights<T, kFused, false>(t, f, begin, vectors);
  move_weights<T, kFused, true>(t, f, std::max(begin, vectors), end);
}

template <class T, bool kFused>
FASTGAN_INLINE void move_average(const AdamTensor& t, const Factors<T>& f, int64_t begin, int64_t end) {
  const T* const weight = static_cast<const T*>(t.weight);
  T* const average = static_cast<T*>(t.average);
  FASTGAN_SIMD
  for (int64_t i = begin; i < end; ++i) {
    average[i] = multiply_add<kFused>(f.ema, weight[i] - average[i], f.from_weight ? weight[i] : average[i]);
  }
}

// Cloned entry points must not be templates.
#define FASTGAN_ENTRY(name, function, T, fused)                                                    \
  FASTGAN_CLONES void name(const AdamTensor& t, const Factors<T>& f, int64_t begin, int64_t end) { \
    function<T, fused>(t, f, begin, end);                                                          \
  }

FASTGAN_ENTRY(move_float_fused, move_range, float, true)
FASTGAN_ENTRY(move_float_plain, move_range, float, false)
FASTGAN_ENTRY(move_double_fused, move_range, double, true)
FASTGAN_ENTRY(move_double_plain, move_range, double, false)
FASTGAN_ENTRY(average_float_fused, move_average, float, true)
FASTGAN_ENTRY(average_float_plain, move_average, float, false)
FASTGAN_ENTRY(average_double_fused, move_average, double, true)
FASTGAN_ENTRY(average_double_plain, move_average, double, false)

template <class T>
using Entry = void (*)(const AdamTensor&, const Factors<T>&, int64_t, int64_t);

template <class T>
struct Entries {
  Entry<T> move, average;
};

Entries<float> entries(float, bool fused) {
  return fused ? Entries<float>{move_float_fused, average_float_fused}
               : Entries<float>{move_float_plain, average_float_plain};
}

Entries<double> entries(double, bool fused) {
  return fused ? Entries<double>{move_double_fused, average_double_fused}
               : Entries<double>{move_double_plain, average_double_plain};
}

template <class T>
void adam_ema(const AdamEma& p) {
  const bool move = *p.bad != 1.0f;
  static const Entries<T> found = entries(T(), fused_multiply_add());
  std::vector<Factors<T>> shared;
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < p.tensors.size(); ++i) {
    const AdamTensor& t = p.tensors[i];
    if (move) *t.step += 1;
    shared.push_back(factors<T>(p, *t.step));
    if (move || t.average) add_chunks(chunks, i, t.size, kChunk);
  }
  parallel_for(static_cast<int64_t>(chunks.size()), kChunk, p.threads, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const auto [i, from, to] = chunks[c];
      if (move) found.move(p.tensors[i], shared[i], from, to);
      if (p.tensors[i].average) found.average(p.tensors[i], shared[i], from, to);
    }
  });
}

}  // namespace

#define FASTGAN_FOR_DTYPE(function)                                                                                  \
  FASTGAN_CHECK(p.dtype == Dtype::float32 || p.dtype == Dtype::float64, #function ": dtype is not float or double"); \
  if (p.dtype == Dtype::float32)                                                                                     \
    function<float>(p);                                                                                              \
  else                                                                                                               \
    function<double>(p);

void launch_check_gradients(const CheckGradients& p) { FASTGAN_FOR_DTYPE(check_gradients) }
void launch_adam_ema(const AdamEma& p) { FASTGAN_FOR_DTYPE(adam_ema) }

}  // namespace fastgan
