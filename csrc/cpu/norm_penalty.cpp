// CPU kernels of norm_penalty. A thread processes whole samples, so that sums do not depend on the number of threads.
#include "fastgan/norm_penalty.h"

#include <cmath>

#include "fastgan/check.h"
#include "fastgan/dot.h"
#include "fastgan/parallel.h"

namespace fastgan {
namespace {

// Cloned entry points must not be templates; those of dot.h are inlined into each clone.
#define FASTGAN_ENTRIES(T)                                                                                  \
  FASTGAN_CLONES double inner(const T* a, const T* b, int64_t n) { return dot<T>(a, b, n); }                \
  FASTGAN_CLONES void scale(const T* a, T c, T* y, int64_t n) { multiply<T>(a, c, y, n); }

FASTGAN_ENTRIES(float)
FASTGAN_ENTRIES(double)

template <class Body>
void each_sample(const SampleShape& s, const Body& body) {
  FASTGAN_CHECK(s.samples >= 0 && s.size >= 0, "norm_penalty: a size is negative");
  FASTGAN_CHECK(s.dtype == Dtype::float32 || s.dtype == Dtype::float64, "norm_penalty: dtype is not float or double");
  parallel_for(s.samples, s.size, s.threads, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) body(n);
  });
}

template <class T>
void norm_penalty(const NormPenalty& p) {
  each_sample(p.shape, [&](int64_t n) {
    const T* const g = static_cast<const T*>(p.g) + n * p.shape.size;
    const double square = inner(g, g, p.shape.size), norm = std::sqrt(square);
    const double away = norm - p.target;
    static_cast<T*>(p.norm)[n] = static_cast<T>(norm);
    static_cast<T*>(p.value)[n] = static_cast<T>(p.has_target ? away * away : square);
    static_cast<T*>(p.slope)[n] = static_cast<T>(!p.has_target ? 2 : norm == 0 ? 0 : 2 * away / norm);
  });
}

template <class T>
void sample_scale(const SampleScale& p) {
  each_sample(p.shape, [&](int64_t n) {
    const int64_t at = n * p.shape.size;
    scale(static_cast<const T*>(p.a) + at, static_cast<const T*>(p.c)[n], static_cast<T*>(p.y) + at, p.shape.size);
  });
}

template <class T>
void sample_dot(const SampleDot& p) {
  each_sample(p.shape, [&](int64_t n) {
    const int64_t at = n * p.shape.size;
    static_cast<T*>(p.dot)[n] =
        static_cast<T>(inner(static_cast<const T*>(p.a) + at, static_cast<const T*>(p.b) + at, p.shape.size));
  });
}

}  // namespace

#define FASTGAN_FOR_DTYPE(function)        \
  if (p.shape.dtype == Dtype::float32)     \
    function<float>(p);                    \
  else                                     \
    function<double>(p);

void launch_norm_penalty(const NormPenalty& p) { FASTGAN_FOR_DTYPE(norm_penalty) }
void launch_sample_scale(const SampleScale& p) { FASTGAN_FOR_DTYPE(sample_scale) }
void launch_sample_dot(const SampleDot& p) { FASTGAN_FOR_DTYPE(sample_dot) }

}  // namespace fastgan
