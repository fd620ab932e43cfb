// Splits a range over threads. Linked with -fopenmp and imported after torch, this is torch's own thread pool.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

// One binary for every x86-64: the loader selects the widest variant that the processor supports.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTGAN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTGAN_CLONES
#endif

// Templates are inlined into the cloned functions, so that each clone gets its own vector code.
#if defined(_MSC_VER)
#define FASTGAN_INLINE __forceinline
#else
#define FASTGAN_INLINE __attribute__((always_inline)) inline
#endif

#ifdef _OPENMP
#define FASTGAN_PRAGMA(text) _Pragma(#text)
#define FASTGAN_SIMD FASTGAN_PRAGMA(omp simd)
#define FASTGAN_SIMD_SUM(...) FASTGAN_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#else
#define FASTGAN_SIMD
#define FASTGAN_SIMD_SUM(...)
#endif

namespace fastgan {

// Calls body(begin, end) on disjoint parts of [0, count). A thread gets at least `grain` units of work.
template <class Body>
void parallel_for(int64_t count, int64_t work_per_item, int threads, const Body& body) {
  constexpr int64_t grain = 16384;
  const int64_t useful = std::max<int64_t>(1, count * std::max<int64_t>(1, work_per_item) / grain);
  const int64_t parts = std::min<int64_t>({useful, count, static_cast<int64_t>(threads)});
  if (parts <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static, 1)
#endif
  for (int64_t part = 0; part < parts; ++part) body(count * part / parts, count * (part + 1) / parts);
}

}  // namespace fastgan
