// Spectral normalization of a group of weights, the arithmetic of fastgan/ops/spectral_norm/reference.py: one launch
// for the power iterations and sigma of all weights, one for W / sigma, one for the gradient.
//
// The memory of a weight is a matrix M [rows, columns], which is W or, if transposed, Wᵀ. It is cut into tiles, and each
// block owns adjacent tiles of the group. As many as fit are in its shared memory: if all do, an iteration reads the
// weights from global memory once. Otherwise they pass through it in batches, every second time in reverse order,
// because the last batch of a pass is still there in the next.
//
// A product leaves one partial sum per tile and entry, which are added in a fixed order: results repeat bit for bit.
#pragma once

#include "primitives.cuh"

namespace fastgan {

constexpr int MAX_LAYERS = 60;  // in one launch: the arguments stay below 4 KB
constexpr int TILE_ROWS = 32;
constexpr int TILE_COLUMNS = 128;
constexpr int TILE = TILE_ROWS * TILE_COLUMNS;
constexpr int SLICE = 128;  // entries of a vector that a block processes at a time
constexpr int MAX_THREADS = 512;

enum SpectralFlags : int {
  TRANSPOSED = 1,     // M is Wᵀ: u is the vector over M's columns
  SEGMENTED = 2,      // a row of M consists of segments of `inner` numbers, as far apart as rows * inner
  CHANNELS_LAST = 4,  // the columns are ordered [pixels, inner channels], and v [channels, pixels]
  VECTOR = 8,         // rows, segments and columns are multiples of 16 bytes
};

struct SpectralLayer {
  int rows, columns;  // of M
  int inner;
  int flags;
  int at;     // where u begins in uv; v follows it
  int tile;   // the first tile, and the first slice of the vectors, counted over the group
  int slice;  // the slices of the vector over M's rows come before those of the one over its columns
  int unused;
  long long sums;  // the first of its partial sums: [across, rows], then [down, columns]
};

struct SpectralNorm {
  const void* weights[MAX_LAYERS];
  void* out[MAX_LAYERS];        // W / sigma, or the gradient of W: laid out as the weight
  const void* dy[MAX_LAYERS];   // the gradient alone: laid out as the weight
  SpectralLayer layers[MAX_LAYERS];
  const void* uv;
  void* new_uv;
  void* sigma;        // [layers], written by the iteration, read by the others
  void* sums;         // scratch: partial sums of the products
  double* partial;    // scratch: one number for each slice (iteration) or tile (gradient)
  unsigned* barrier;  // see grid_barrier
  double eps;
  int layer_count, tiles, slices;
  int slots;  // tiles that fit into the shared memory of a block
  int iterations;
  int v_first;
  int aligned;  // all addresses are multiples of 16 bytes
  int unused;
};

// The layer of a tile or slice. field: the number of the first one of each layer.
__device__ inline int find_layer(const SpectralNorm& p, int item, int SpectralLayer::*field) {
  int low = 0, high = p.layer_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (p.layers[middle].*field <= item ? low : high) = middle;
  }
  return low;
}

struct Tile {
  int layer;
  int row, column;  // of its first element
};

__device__ inline Tile tile_at(const SpectralNorm& p, int index) {
  const int layer = find_layer(p, index, &SpectralLayer::tile);
  const int local = index - p.layers[layer].tile, across = divide_up(p.layers[layer].columns, TILE_COLUMNS);
  return {layer, local / across * TILE_ROWS, local % across * TILE_COLUMNS};
}

__device__ inline long long offset(const SpectralLayer& layer, int row, int column) {
  if (layer.flags & SEGMENTED) {
    const long long segment = column / layer.inner;
    return (segment * layer.rows + row) * layer.inner + column % layer.inner;
  }
  return static_cast<long long>(row) * layer.columns + column;
}

// A vector over M's rows or columns: the sum of `parts` vectors, which are `size` apart.
template <class T>
struct Vector {
  T* data;
  int size;
  int parts;
  int inner;  // > 0: the channels of a CHANNELS_LAST weight, whose columns are in another order than the entries

  __device__ int position(int i) const { return inner ? i % inner * (size / inner) + i / inner : i; }
};

// u and v, of the columns if `columns`, in a flat tensor.
template <class T>
__device__ inline Vector<T> stored_vector(const SpectralLayer& layer, T* uv, bool columns) {
  const bool u = columns == ((layer.flags & TRANSPOSED) != 0);
  const int u_size = layer.flags & TRANSPOSED ? layer.columns : layer.rows;
  const int inner = columns && layer.flags & CHANNELS_LAST ? layer.inner : 0;
  return {uv + layer.at + (u ? 0 : u_size), columns ? layer.columns : layer.rows, 1, inner};
}

template <class T>
__device__ inline Vector<T> product_vector(const SpectralLayer& layer, void* sums, bool columns) {
  T* first = static_cast<T*>(sums) + layer.sums;
  const int across = divide_up(layer.columns, TILE_COLUMNS), down = divide_up(layer.rows, TILE_ROWS);
  if (columns) return {first + static_cast<long long>(across) * layer.rows, layer.columns, down, 0};
  return {first, layer.rows, across, 0};
}

struct Factors {
  double first, second;  // of both products of an iteration; of the gradient: 1 / sigma, and <dY, W> / sigma
  double sigma;
  bool finite;
};

// The shared memory of a block. shared_bytes in fastgan/ops/spectral_norm/cuda.py computes its size.
template <class T>
struct Shared {
  Factors* factors;  // [MAX_LAYERS]
  T* x;              // [TILE_COLUMNS], the entries of a vector that a tile needs
  T* y;              // [TILE_ROWS]
  T* partial;        // [warps, TILE_COLUMNS]
  T* tiles;          // [slots, TILE_ROWS, TILE_COLUMNS]

  __device__ Shared() {
    factors = reinterpret_cast<Factors*>(shared_memory());
    x = reinterpret_cast<T*>(factors + MAX_LAYERS);
    y = x + TILE_COLUMNS;
    partial = y + TILE_ROWS;
    tiles = partial + blockDim.x / 32 * TILE_COLUMNS;
  }
};

// target[0, COUNT) = the entries of a vector from `first` on, 0 beyond its end. Groups of threads add some parts each.
template <int COUNT, class T>
__device__ inline void gather(const Vector<T>& vector, int first, T* target, T* partial) {
  const int groups = blockDim.x >= COUNT ? blockDim.x / COUNT : 1;
  for (int t = threadIdx.x; t < groups * COUNT; t += blockDim.x) {
    const int i = first + t % COUNT;
    T total = 0;
    if (i < vector.size) {
      const T* entry = vector.data + vector.position(i);
      for (int part = t / COUNT; part < vector.parts; part += groups) {
        total += entry[static_cast<long long>(part) * vector.size];
      }
    }
    partial[t] = total;
  }
  __syncthreads();
  for (int t = threadIdx.x; t < COUNT; t += blockDim.x) {
    T total = 0;
    for (int group = 0; group < groups; ++group) total += partial[group * COUNT + t];
    target[t] = total;
  }
  __syncthreads();
}

// Calls body(Width, row, column, offset) for each run of Width numbers of a tile, with row and column within the tile;
// offset is -1 beyond the edge of the matrix.
template <class T, class Body>
__device__ inline void for_each_run(const SpectralNorm& p, const Tile& tile, const Body& body) {
  const SpectralLayer& layer = p.layers[tile.layer];
  const auto loop = [&](auto width) {
    constexpr int W = decltype(width)::value, RUNS = TILE_COLUMNS / W;
    for (int i = threadIdx.x; i < TILE_ROWS * RUNS; i += blockDim.x) {
      const int row = i / RUNS, column = i % RUNS * W;
      const bool inside = tile.row + row < layer.rows && tile.column + column < layer.columns;
      body(width, row, column, inside ? offset(layer, tile.row + row, tile.column + column) : -1);
    }
  };
  if (p.aligned && layer.flags & VECTOR) {
    loop(Width<Pack<T>::WIDTH>{});
  } else {
    loop(Width<1>{});
  }
}

template <int W, class T>
__device__ inline void load(T (&to)[W], const T* from) {
  if constexpr (W == 1) {
    to[0] = *from;
  } else {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
    for (int i = 0; i < W; ++i) to[i] = pack.values[i];
  }
}

template <int W, class T>
__device__ inline void store(T* to, const T (&from)[W]) {
  if constexpr (W == 1) {
    *to = from[0];
  } else {
    Pack<T> pack;
    for (int i = 0; i < W; ++i) pack.values[i] = from[i];
    *reinterpret_cast<Pack<T>*>(to) = pack;
  }
}

// The tiles of this block, batch by batch.
template <class T>
class Batches {
 public:
  __device__ Batches(const SpectralNorm& p, const void* const* matrices, T* slots)
      : p_(p), matrices_(matrices), slots_(slots) {
    // The first blocks own one tile more, if the number of blocks does not divide the number of tiles.
    const int least = p.tiles / gridDim.x, more = p.tiles % gridDim.x, block = blockIdx.x;
    begin_ = block * least + (block < more ? block : more);
    end_ = begin_ + least + (block < more ? 1 : 0);
    count_ = divide_up(end_ - begin_, p.slots);
  }

  // Calls body(index of the tile, tile, its numbers in shared memory) for each tile. All threads call it together.
  template <class Body>
  __device__ void for_each(const Body& body) {
    for (int i = 0; i < count_; ++i) {
      const int batch = reverse_ ? count_ - 1 - i : i;
      if (batch != loaded_) fetch(batch);
      const int first = begin_ + batch * p_.slots, last = first + p_.slots < end_ ? first + p_.slots : end_;
      for (int index = first; index < last; ++index) {
        body(index, tile_at(p_, index), slots_ + (index - first) * TILE);
      }
    }
    reverse_ = !reverse_;
  }

 private:
  __device__ void fetch(int batch) {
    __syncthreads();  // no thread reads the old batch any more
    const int first = begin_ + batch * p_.slots;
    for (int slot = 0; slot < p_.slots && first + slot < end_; ++slot) {
      const Tile tile = tile_at(p_, first + slot);
      const T* matrix = static_cast<const T*>(matrices_[tile.layer]);
      T* numbers = slots_ + slot * TILE;
      for_each_run<T>(p_, tile, [&](auto width, int row, int column, long long at) {
        constexpr int W = decltype(width)::value;
        T* target = numbers + row * TILE_COLUMNS + column;
        if (at >= 0) {
          copy_async<W * sizeof(T)>(target, matrix + at);
        } else {
          for (int i = 0; i < W; ++i) target[i] = 0;
        }
      });
    }
    wait_for_copies();
    __syncthreads();
    loaded_ = batch;
  }

  const SpectralNorm& p_;
  const void* const* matrices_;
  T* slots_;
  int begin_, end_, count_;
  int loaded_ = -1;
  bool reverse_ = false;
};

// --- the power iteration ---------------------------------------------------------------------------------------------

// Partial sums of W v (to_u) or Wᵀ u. The vector is in `uv`, or it is the product before (from_sums).
template <class T>
__device__ inline void product(const SpectralNorm& p, const Shared<T>& shared, Batches<T>& batches, T* uv, bool to_u,
                               bool from_sums) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  constexpr int LANE = TILE_COLUMNS / 32;
  batches.for_each([&](int, const Tile& tile, const T* numbers) {
    const SpectralLayer& layer = p.layers[tile.layer];
    const bool by_rows = to_u != ((layer.flags & TRANSPOSED) != 0);  // M x, else Mᵀ x
    const Vector<T> source =
        from_sums ? product_vector<T>(layer, p.sums, by_rows) : stored_vector<T>(layer, uv, by_rows);
    const Vector<T> target = product_vector<T>(layer, p.sums, !by_rows);
    const T* own = numbers + lane * LANE;
    if (by_rows) {
      gather<TILE_COLUMNS>(source, tile.column, shared.x, shared.partial);
      T* sums = target.data + static_cast<long long>(tile.column / TILE_COLUMNS) * target.size + tile.row;
      T x[LANE];
      for (int i = 0; i < LANE; ++i) x[i] = shared.x[lane * LANE + i];
      for (int row = warp; row < TILE_ROWS; row += warps) {
        T total = 0;
        for (int i = 0; i < LANE; ++i) total += own[row * TILE_COLUMNS + i] * x[i];
        total = warp_sum(total);
        if (lane == 0 && tile.row + row < layer.rows) sums[row] = total;
      }
      // The next gather's first wait comes before its write to x.
    } else {
      gather<TILE_ROWS>(source, tile.row, shared.y, shared.partial);
      T* sums = target.data + static_cast<long long>(tile.row / TILE_ROWS) * target.size + tile.column;
      T totals[LANE] = {};
      for (int row = warp; row < TILE_ROWS; row += warps) {
        const T y = shared.y[row];
        for (int i = 0; i < LANE; ++i) totals[i] += own[row * TILE_COLUMNS + i] * y;
      }
      for (int i = 0; i < LANE; ++i) shared.partial[warp * TILE_COLUMNS + lane * LANE + i] = totals[i];
      __syncthreads();
      for (int column = threadIdx.x; column < TILE_COLUMNS; column += blockDim.x) {
        T total = 0;
        for (int w = 0; w < warps; ++w) total += shared.partial[w * TILE_COLUMNS + column];
        if (tile.column + column < layer.columns) sums[column] = total;
      }
      __syncthreads();
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
    gather<SLICE>(vector, slice.first, shared.x, shared.partial);
    if (threadIdx.x < 32) {
      double total = 0;
      for (int i = threadIdx.x; i < SLICE && slice.first + i < vector.size; i += 32) {
        const double x = shared.x[i];
        total += p.iterations ? x * x : x * static_cast<double>(old.data[old.position(slice.first + i)]);
      }
      total = warp_sum(total);
      if (threadIdx.x == 0) p.partial[index] = total;
    }
    for (int i = threadIdx.x; i < SLICE && slice.first + i < vector.size; i += blockDim.x) {
      vector.data[slice.first + i] = shared.x[i];
    }
    // The next gather's first wait comes before its write to x.
  }
}

// The sum of adjacent numbers, by one warp.
__device__ inline double sum_partial(const double* numbers, int count) {
  double total = 0;
  for (int i = threadIdx.x % 32; i < count; i += 32) total += numbers[i];
  return warp_sum(total);
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
    product(p, shared, batches, uv, p.iterations == 0 || !p.v_first, false);
    grid_barrier(p.barrier);
    if (p.iterations) {
      product(p, shared, batches, uv, p.v_first != 0, true);
      grid_barrier(p.barrier);
    }
    add_parts(p, shared);
    grid_barrier(p.barrier);
    find_factors(p, shared.factors);
    write_vectors<T>(p, shared.factors, last);
    if (last && blockIdx.x == 0) {
      for (int layer = threadIdx.x; layer < p.layer_count; layer += blockDim.x) {
        const Factors& f = shared.factors[layer];
        static_cast<T*>(p.sigma)[layer] = static_cast<T>(f.finite ? f.sigma : f.sigma - f.sigma);
      }
    }
  }
}

// --- W / sigma and its gradient --------------------------------------------------------------------------------------

template <class T>
__device__ inline void spectral_scale(const SpectralNorm& p) {
  for (int index = blockIdx.x; index < p.tiles; index += gridDim.x) {
    const Tile tile = tile_at(p, index);
    const T* w = static_cast<const T*>(p.weights[tile.layer]);
    T* out = static_cast<T*>(p.out[tile.layer]);
    const T factor = 1 / static_cast<const T*>(p.sigma)[tile.layer];
    for_each_run<T>(p, tile, [&](auto width, int, int, long long at) {
      constexpr int W = decltype(width)::value;
      if (at < 0) return;
      T run[W];
      load<W>(run, w + at);
      for (int i = 0; i < W; ++i) run[i] *= factor;
      store<W>(out + at, run);
    });
  }
}

// <dY, W> of each tile.
template <class T>
__device__ inline void inner_products(const SpectralNorm& p, const Shared<T>& shared, Batches<T>& batches) {
  double* of_warps = reinterpret_cast<double*>(shared.partial);
  batches.for_each([&](int index, const Tile& tile, const T* dy) {
    const T* w = static_cast<const T*>(p.weights[tile.layer]);
    double total = 0;
    for_each_run<T>(p, tile, [&](auto width, int row, int column, long long at) {
      constexpr int W = decltype(width)::value;
      if (at < 0) return;
      T run[W];
      load<W>(run, w + at);
      T sum = 0;
      for (int i = 0; i < W; ++i) sum += run[i] * dy[row * TILE_COLUMNS + column + i];
      total += sum;
    });
    total = warp_sum(total);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
      total = 0;
      for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) total += of_warps[warp];
      p.partial[index] = total;
    }
    __syncthreads();
  });
}

template <class T>
__device__ inline void spectral_scale_grad(const SpectralNorm& p) {
  const Shared<T> shared;
  Batches<T> batches(p, p.dy, shared.tiles);
  inner_products(p, shared, batches);
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
    gather<TILE_ROWS>(stored_vector<T>(layer, uv, false), tile.row, shared.y, shared.partial);
    gather<TILE_COLUMNS>(stored_vector<T>(layer, uv, true), tile.column, shared.x, shared.partial);
    const T inverse = static_cast<T>(shared.factors[tile.layer].first);
    const T inner = static_cast<T>(shared.factors[tile.layer].second);
    T* out = static_cast<T*>(p.out[tile.layer]);
    for_each_run<T>(p, tile, [&](auto width, int row, int column, long long at) {
      constexpr int W = decltype(width)::value;
      if (at < 0) return;
      T run[W];
      const T left = inner * shared.y[row];
      for (int i = 0; i < W; ++i) {
        run[i] = (dy[row * TILE_COLUMNS + column + i] - left * shared.x[column + i]) * inverse;
      }
      store<W>(out + at, run);
    });
    // The next gather's first wait comes before its write to y.
  });
}

}  // namespace fastgan

// --- the kernels -----------------------------------------------------------------------------------------------------

#define FASTGAN_SPECTRAL_KERNELS(T)                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::MAX_THREADS, 1)                                               \
      power_iteration_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                       \
    fastgan::power_iteration<T>(p);                                                                                \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::MAX_THREADS, 1)                                               \
      spectral_scale_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                        \
    fastgan::spectral_scale<T>(p);                                                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(fastgan::MAX_THREADS, 1)                                               \
      spectral_scale_grad_##T(const __grid_constant__ fastgan::SpectralNorm p) {                                   \
    fastgan::spectral_scale_grad<T>(p);                                                                            \
  }

FASTGAN_SPECTRAL_KERNELS(float)
FASTGAN_SPECTRAL_KERNELS(double)
