// Spectral normalization of a group of weights, the arithmetic of fastgan/ops/spectral_norm/reference.py: one launch
// for the power iterations and sigma of all weights, and for W / sigma if it is wanted; one for W / sigma with a given
// sigma; one for the gradient.
#pragma once

#include "spectral_iteration.cuh"

namespace fastgan {

// A warp for each tile.
template <class T>
__device__ inline void spectral_scale(const SpectralNorm& p) {
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (index >= p.tiles) return;
  const Tile tile = tile_at(p, index);
  const T* w = static_cast<const T*>(p.weights[tile.layer]);
  T* out = static_cast<T*>(p.out[tile.layer]);
  const T factor = 1 / static_cast<const T*>(p.sigma)[tile.layer];
  for_each_run<T>(p, tile, [&](auto width, int, long long at, int pitch, int rows) {
    constexpr int W = decltype(width)::value;
    // Several loads before the first store: the compiler cannot know that out is not w.
    constexpr int BATCH = 8;
    for (int first = 0; first < rows; first += BATCH) {
      T runs[BATCH][W];
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        if (first + i < rows) load<W>(runs[i], w + at + static_cast<long long>(first + i) * pitch);
      }
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        for (int j = 0; j < W; ++j) runs[i][j] *= factor;
        if (first + i < rows) store<W>(out + at + static_cast<long long>(first + i) * pitch, runs[i]);
      }
    }
  });
}

// <dY, W> of each tile.
template <class T>
__device__ inline void inner_products(const SpectralNorm& p, Batches<T>& batches) {
  batches.for_each([&](int index, const Tile& tile, const T* dy) {
    const T* w = static_cast<const T*>(p.weights[tile.layer]);
    double total = 0;
    for_each_run<T>(p, tile, [&](auto width, int column, long long at, int pitch, int rows) {
      constexpr int W = decltype(width)::value;
      T sum = 0;
#pragma unroll
      for (int row = 0; row < TILE_ROWS; ++row) {
        if (row >= rows) continue;
        T run[W], other[W];
        load<W>(run, w + at + static_cast<long long>(row) * pitch);
        load<W>(other, dy + row * TILE_COLUMNS + column);
        for (int i = 0; i < W; ++i) sum += run[i] * other[i];
      }
      total += sum;
    });
    total = warp_sum(total);
    if (threadIdx.x % 32 == 0) p.partial[index] = total;
  });
}

template <class T>
__device__ inline void spectral_scale_grad(const SpectralNorm& p) {
  const Shared<T> shared;
  Batches<T> batches(p, p.dy, shared.tiles);
  inner_products(p, batches);
  grid_barrier(p.barrier);
  for (int index = threadIdx.x / 32; index < p.layer_count; index += blockDim.x / 32) {
    const int end = index + 1 < p.layer_count ? p.layers[index + 1].tile : p.tiles;
    const double inner = sum_partial(p.partial + p.layers[index].tile, end - p.layers[index].tile);
    const double inverse = 1 / static_cast<double>(static_cast<const T*>(p.sigma)[index]);
    if (threadIdx.x % 32 == 0) {
      shared.factors[index].first = inverse;
      shared.factors[index].second = inner * inverse;
    }
  }
  __syncthreads();
  T* uv = static_cast<T*>(const_cast<void*>(p.uv));
  batches.for_each([&](int, const Tile& tile, const T* dy) {
    const SpectralLayer& layer = p.layers[tile.layer];
    const Vector<T> left = stored_vector<T>(layer, uv, false), right = stored_vector<T>(layer, uv, true);
    const T inverse = static_cast<T>(shared.factors[tile.layer].first);
    const T inner = static_cast<T>(shared.factors[tile.layer].second);
    T* out = static_cast<T*>(p.out[tile.layer]);
    for_each_run<T>(p, tile, [&](auto width, int column, long long at, int pitch, int rows) {
      constexpr int W = decltype(width)::value;
      T x[W] = {};
      for (int i = 0; i < W && rows; ++i) x[i] = inner * right.data[right.position(tile.column + column + i)];
      for (int row = 0; row < rows; ++row) {
        const T y = left.data[tile.row + row];
        T run[W];
        load<W>(run, dy + row * TILE_COLUMNS + column);
        for (int i = 0; i < W; ++i) run[i] = (run[i] - y * x[i]) * inverse;
        store<W>(out + at + static_cast<long long>(row) * pitch, run);
      }
    });
  });
}

}  // namespace fastgan

// --- the kernels -----------------------------------------------------------------------------------------------------

#define FASTGAN_SPECTRAL_KERNELS(T)                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::THREADS, 1)                                               \
      power_iteration_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                       \
    fastgan::power_iteration<T>(p);                                                                                \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::SCALE_THREADS)                                               \
      spectral_scale_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                        \
    fastgan::spectral_scale<T>(p);                                                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::THREADS, 1)                                               \
      spectral_scale_grad_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                   \
    fastgan::spectral_scale_grad<T>(p);                                                                            \
  }

FASTGAN_SPECTRAL_KERNELS(float)
FASTGAN_SPECTRAL_KERNELS(double)
