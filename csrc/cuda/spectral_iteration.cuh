// The power iterations of a group of weights.
//
// A product leaves one partial sum per tile and entry, which are added in a fixed order: results repeat bit for bit.
#pragma once

#include "spectral_tiles.cuh"

namespace fastgan {

// The sum of every step-th part of an entry, from `part` on; 0 beyond the vector's end.
template <class T>
__device__ inline T entry(const Vector<T>& vector, int i, int part, int step) {
  T total = 0;
  if (i >= vector.size) return total;
  const T* first = vector.data + vector.position(i);
#pragma unroll 8
  for (; part < vector.parts; part += step) total += first[static_cast<long long>(part) * vector.size];
  return total;
}

// Adds 2 * HALF numbers of each thread over groups of 4 * HALF lanes. Returns the total of number lane / 2 % (2 * HALF).
template <int HALF, class T>
__device__ inline T warp_sums(T (&numbers)[TILE_ROWS]) {
  if constexpr (HALF == 0) {
    return numbers[0] + __shfl_xor_sync(0xffffffffu, numbers[0], 1);
  } else {
    // Each of two lanes keeps one half of the numbers, and gets the other's share of it.
    const bool upper = threadIdx.x & 2 * HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const T kept = upper ? numbers[i + HALF] : numbers[i], sent = upper ? numbers[i] : numbers[i + HALF];
      numbers[i] = kept + __shfl_xor_sync(0xffffffffu, sent, 2 * HALF);
    }
    return warp_sums<HALF / 2>(numbers);
  }
}

// Partial sums of W v (to_u) or Wᵀ u. The vector is in `uv`, or it is the product before (from_sums).
template <class T>
__device__ inline void product(const SpectralNorm& p, Batches<T>& batches, T* uv, bool to_u, bool from_sums) {
  const int lane = threadIdx.x % 32;
  batches.for_each([&](int, const Tile& tile, const T* numbers) {
    const SpectralLayer& layer = p.layers[tile.layer];
    const bool by_rows = to_u != ((layer.flags & TRANSPOSED) != 0);  // M x, else Mᵀ x
    const Vector<T> source =
        from_sums ? product_vector<T>(layer, p.sums, by_rows) : stored_vector<T>(layer, uv, by_rows);
    const Vector<T> target = product_vector<T>(layer, p.sums, !by_rows);
    if (by_rows) {
      T x[LANE_COLUMNS], totals[TILE_ROWS];
      for (int i = 0; i < LANE_COLUMNS; ++i) x[i] = entry(source, tile.column + lane + 32 * i, 0, 1);
#pragma unroll
      for (int row = 0; row < TILE_ROWS; ++row) {
        totals[row] = 0;
        for (int i = 0; i < LANE_COLUMNS; ++i) totals[row] += numbers[row * TILE_COLUMNS + lane + 32 * i] * x[i];
      }
      const T total = warp_sums<TILE_ROWS / 2>(totals);
      const int row = tile.row + lane / 2;
      T* sums = target.data + static_cast<long long>(tile.column / TILE_COLUMNS) * target.size;
      if (lane % 2 == 0 && row < layer.rows) sums[row] = total;
    } else {
      // Lanes l and l + 16 add the even and the odd parts of row l.
      T y = entry(source, tile.row + lane % TILE_ROWS, lane / TILE_ROWS, 2), totals[LANE_COLUMNS] = {};
      y += __shfl_xor_sync(0xffffffffu, y, TILE_ROWS);
#pragma unroll
      for (int row = 0; row < TILE_ROWS; ++row) {
        const T factor = __shfl_sync(0xffffffffu, y, row);
        for (int i = 0; i < LANE_COLUMNS; ++i) totals[i] += numbers[row * TILE_COLUMNS + lane + 32 * i] * factor;
      }
      T* sums = target.data + static_cast<long long>(tile.row / TILE_ROWS) * target.size;
      for (int i = 0; i < LANE_COLUMNS; ++i) {
        const int column = tile.column + lane + 32 * i;
        if (column < layer.columns) sums[column] = totals[i];
      }
    }
  });
}

struct Slice {
  int layer;
  bool columns;  // of the vector over M's columns
  int first;
};

__device__ inline Slice slice_at(const SpectralNorm& p, int index) {
  const int layer = find_layer(p, index, &SpectralLayer::slice);
  const int local = index - p.layers[layer].slice, of_rows = divide_up(p.layers[layer].rows, SLICE);
  const bool columns = local >= of_rows;
  return {layer, columns, (columns ? local - of_rows : local) * SLICE};
}

// slice[0, SLICE) = the entries of a vector from `first` on, 0 beyond its end. Groups of threads add some parts each.
template <class T>
__device__ inline void add_slice(const Vector<T>& vector, int first, const Shared<T>& shared) {
  const int groups = blockDim.x >= SLICE ? blockDim.x / SLICE : 1;
  for (int t = threadIdx.x; t < groups * SLICE; t += blockDim.x) {
    shared.partial[t] = entry(vector, first + t % SLICE, t / SLICE, groups);
  }
  __syncthreads();
  for (int t = threadIdx.x; t < SLICE; t += blockDim.x) {
    T total = 0;
    for (int group = 0; group < groups; ++group) total += shared.partial[group * SLICE + t];
    shared.slice[t] = total;
  }
  __syncthreads();
}

// Adds the parts of both products, into their first part, and the squares of each slice of them. Without iterations
// there is one product, W v, and instead of squares the numbers are uᵀ (W v).
template <class T>
__device__ inline void add_parts(const SpectralNorm& p, const Shared<T>& shared) {
  for (int index = blockIdx.x; index < p.slices; index += gridDim.x) {
    const Slice slice = slice_at(p, index);
    const SpectralLayer& layer = p.layers[slice.layer];
    const bool is_u = slice.columns == ((layer.flags & TRANSPOSED) != 0);
    if (p.iterations == 0 && !is_u) continue;
    const Vector<T> vector = product_vector<T>(layer, p.sums, slice.columns);
    const Vector<T> old = stored_vector<T>(layer, static_cast<T*>(const_cast<void*>(p.uv)), slice.columns);
    add_slice(vector, slice.first, shared);
    if (threadIdx.x < 32) {
      double total = 0;
      for (int i = threadIdx.x; i < SLICE && slice.first + i < vector.size; i += 32) {
        const double x = shared.slice[i];
        total += p.iterations ? x * x : x * static_cast<double>(old.data[old.position(slice.first + i)]);
      }
      total = warp_sum(total);
      if (threadIdx.x == 0) p.partial[index] = total;
    }
    for (int i = threadIdx.x; i < SLICE && slice.first + i < vector.size; i += blockDim.x) {
      vector.data[slice.first + i] = shared.slice[i];
    }
    // The next slice is written after the first wait in add_slice.
  }
}

// The norms of both products and sigma, of all layers, in each block.
__device__ inline void find_factors(const SpectralNorm& p, Factors* factors) {
  for (int index = threadIdx.x / 32; index < p.layer_count; index += blockDim.x / 32) {
    const SpectralLayer& layer = p.layers[index];
    const bool transposed = layer.flags & TRANSPOSED;
    const int of_rows = divide_up(layer.rows, SLICE), of_columns = divide_up(layer.columns, SLICE);
    const double* of_u = p.partial + layer.slice + (transposed ? of_rows : 0);
    const double* of_v = p.partial + layer.slice + (transposed ? 0 : of_rows);
    const double u = sum_partial(of_u, transposed ? of_columns : of_rows);
    Factors f;
    if (p.iterations == 0) {
      f.first = f.second = 1;
      f.sigma = u;
    } else {
      const double v = sum_partial(of_v, transposed ? of_rows : of_columns);
      double norm = sqrt(p.v_first ? v : u);
      f.first = 1 / (norm > p.eps ? norm : p.eps);
      // The second product was computed from the first before its normalization. uᵀ W v is then the norm of the second,
      // or less where eps limits it.
      norm = sqrt(p.v_first ? u : v) * f.first;
      f.second = f.first / (norm > p.eps ? norm : p.eps);
      f.sigma = norm > p.eps ? norm : norm * (norm / p.eps);
    }
    f.finite = f.sigma - f.sigma == 0;
    if (threadIdx.x % 32 == 0) factors[index] = f;
  }
  __syncthreads();
}

// Both vectors, normalized. Where sigma is not finite the last iteration keeps the old ones; earlier ones need not,
// since later iterations are not finite either.
template <class T>
__device__ inline void write_vectors(const SpectralNorm& p, const Factors* factors, bool last) {
  T* uv = static_cast<T*>(const_cast<void*>(p.uv));
  for (int index = blockIdx.x; index < p.slices; index += gridDim.x) {
    const Slice slice = slice_at(p, index);
    const SpectralLayer& layer = p.layers[slice.layer];
    const bool is_u = slice.columns == ((layer.flags & TRANSPOSED) != 0);
    const Vector<T> vector = product_vector<T>(layer, p.sums, slice.columns);
    const Vector<T> to = stored_vector<T>(layer, static_cast<T*>(p.new_uv), slice.columns);
    const Vector<T> old = stored_vector<T>(layer, uv, slice.columns);
    const Factors& f = factors[slice.layer];
    const double factor = is_u == (p.v_first == 0) ? f.first : f.second;
    const bool keep = p.iterations == 0 || (last && !f.finite);
    for (int i = threadIdx.x; i < SLICE && slice.first + i < vector.size; i += blockDim.x) {
      const int at = to.position(slice.first + i);
      to.data[at] = keep ? old.data[at] : static_cast<T>(vector.data[slice.first + i] * factor);
    }
  }
}

// sigma as it is stored, so that W / sigma has the same bits with and without a launch of its own.
template <class T>
__device__ inline T rounded_sigma(const Factors& f) {
  return static_cast<T>(f.finite ? f.sigma : f.sigma - f.sigma);
}

// W / sigma from the tiles in shared memory, in numbers of type O.
template <class O, class T>
__device__ inline void write_scaled(const SpectralNorm& p, const Factors* factors, Batches<T>& batches) {
  batches.for_each([&](int, const Tile& tile, const T* numbers) {
    O* out = static_cast<O*>(p.out[tile.layer]);
    const T factor = 1 / rounded_sigma<T>(factors[tile.layer]);
    for_each_run<T>(p, tile, [&](auto width, int column, long long at, int pitch, int rows) {
      constexpr int W = decltype(width)::value;
      for (int row = 0; row < rows; ++row) {
        T run[W];
        load<W>(run, numbers + row * TILE_COLUMNS + column);
        for (int i = 0; i < W; ++i) run[i] *= factor;
        store<W>(out + at + static_cast<long long>(row) * pitch, run);
      }
    });
  });
}

template <class T>
__device__ inline void power_iteration(const SpectralNorm& p) {
  const Shared<T> shared;
  Batches<T> batches(p, p.weights, shared.tiles);
  T* uv = static_cast<T*>(const_cast<void*>(p.uv));
  for (int i = 0; i < (p.iterations ? p.iterations : 1); ++i) {
    const bool last = i + 1 >= p.iterations;
    if (i) {
      uv = static_cast<T*>(p.new_uv);
      grid_barrier(p.barrier);
    }
    product(p, batches, uv, p.iterations == 0 || !p.v_first, false);
    grid_barrier(p.barrier);
    if (p.iterations) {
      product(p, batches, uv, p.v_first != 0, true);
      grid_barrier(p.barrier);
    }
    add_parts(p, shared);
    grid_barrier(p.barrier);
    find_factors(p, shared.factors);
    write_vectors<T>(p, shared.factors, last);
    if (last && blockIdx.x == 0) {
      for (int layer = threadIdx.x; layer < p.layer_count; layer += blockDim.x) {
        static_cast<T*>(p.sigma)[layer] = rounded_sigma<T>(shared.factors[layer]);
      }
    }
  }
  if (p.output == LIKE_WEIGHTS) write_scaled<T>(p, shared.factors, batches);
  if (p.output == BFLOAT16) write_scaled<BFloat16>(p, shared.factors, batches);
  if (p.output == FLOAT16) write_scaled<Float16>(p, shared.factors, batches);
}

}  // namespace fastgan
