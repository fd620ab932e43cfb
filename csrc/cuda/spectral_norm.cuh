// Spectral normalization of a group of weights, the arithmetic of fastgan/ops/spectral_norm/reference.py: one launch
// for the power iterations and sigma of all weights, and for W / sigma if it is wanted; one for W / sigma with a given
// sigma; one for the gradient.
//
// The memory of a weight is a matrix M [rows, columns], which is W or, if transposed, Wᵀ. It is cut into tiles. Each block
// owns adjacent tiles of the group, and each of its warps some of these, which it processes without waiting for others.
// As many as fit are in the block's shared memory: if all do, an iteration reads the weights from global memory once.
// Otherwise they pass through it in batches, every second time in reverse order, because the last batch of a pass is
// still there in the next.
//
// A product leaves one partial sum per tile and entry, which are added in a fixed order: results repeat bit for bit.
#pragma once

#include "primitives.cuh"

namespace fastgan {

constexpr int MAX_LAYERS = 60;  // in one launch: the arguments stay below 4 KB
constexpr int TILE_ROWS = 16;
constexpr int TILE_COLUMNS = 128;
constexpr int TILE = TILE_ROWS * TILE_COLUMNS;
constexpr int LANE_COLUMNS = TILE_COLUMNS / 32;  // of a tile, for a thread: its lane, lane + 32, ...
constexpr int SLICE = 128;  // entries of a vector that a block processes at a time
constexpr int THREADS = 512;        // of blocks that wait for each other, one on a multiprocessor
constexpr int SCALE_THREADS = 128;  // of others

enum SpectralFlags : int {
  TRANSPOSED = 1,     // M is Wᵀ: u is the vector over M's columns
  SEGMENTED = 2,      // a row of M consists of segments of `inner` numbers, as far apart as rows * inner
  CHANNELS_LAST = 4,  // the columns are ordered [pixels, inner channels], and v [channels, pixels]
  VECTOR = 8,         // rows, segments and columns are multiples of 16 bytes
};

// The element type of W / sigma where the iteration writes it.
enum SpectralOutput : int { NONE = 0, LIKE_WEIGHTS = 1, BFLOAT16 = 2, FLOAT16 = 3 };

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
  int output;   // a SpectralOutput: of the iteration alone
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

__device__ inline int pitch(const SpectralLayer& layer) {
  return layer.flags & SEGMENTED ? layer.inner : layer.columns;
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
  T* slice;          // [SLICE]
  T* partial;        // [threads or SLICE, whichever is more]
  T* tiles;          // [slots, TILE_ROWS, TILE_COLUMNS]

  __device__ Shared() {
    factors = reinterpret_cast<Factors*>(shared_memory());
    slice = reinterpret_cast<T*>(factors + MAX_LAYERS);
    partial = slice + SLICE;
    tiles = partial + (blockDim.x > SLICE ? blockDim.x : SLICE);
  }
};

// One warp calls body(Width, column, at, pitch, rows) for runs of Width numbers in the columns of a tile: `column` within
// the tile, the offset of the run in the tile's first row, the distance of rows, and how many of the tile's rows are in
// the matrix (0 for columns beyond its edge).
template <class T, class Body>
__device__ inline void for_each_run(const SpectralNorm& p, const Tile& tile, const Body& body) {
  const SpectralLayer& layer = p.layers[tile.layer];
  const auto loop = [&](auto width) {
    constexpr int W = decltype(width)::value;
    for (int column = threadIdx.x % 32 * W; column < TILE_COLUMNS; column += 32 * W) {
      const int left = layer.rows - tile.row;
      const int rows = tile.column + column >= layer.columns ? 0 : left < TILE_ROWS ? left : TILE_ROWS;
      body(width, column, rows ? offset(layer, tile.row, tile.column + column) : 0, pitch(layer), rows);
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

// The same for numbers of another type.
template <int W, class T, class O>
__device__ inline void store(O* to, const T (&from)[W]) {
  struct alignas(W * sizeof(O)) {
    O values[W];
  } run;
  for (int i = 0; i < W; ++i) convert(static_cast<float>(from[i]), run.values[i]);
  *reinterpret_cast<decltype(run)*>(to) = run;
}

// The tiles of this warp, batch by batch. The same warp always uses the same slots.
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

  // Calls body(index of the tile, tile, its numbers in shared memory) for each tile.
  template <class Body>
  __device__ void for_each(const Body& body) {
    for (int i = 0; i < count_; ++i) {
      const int batch = reverse_ ? count_ - 1 - i : i;
      if (batch != loaded_) fetch(batch);
      for_each_slot(batch, [&](int index, T* numbers) { body(index, tile_at(p_, index), numbers); });
    }
    reverse_ = !reverse_;
  }

 private:
  template <class Body>
  __device__ void for_each_slot(int batch, const Body& body) {
    const int first = begin_ + batch * p_.slots;
    for (int slot = threadIdx.x / 32; slot < p_.slots && first + slot < end_; slot += blockDim.x / 32) {
      body(first + slot, slots_ + slot * TILE);
    }
  }

  __device__ void fetch(int batch) {
    __syncwarp();  // no thread reads the old batch any more
    for_each_slot(batch, [&](int index, T* numbers) {
      const Tile tile = tile_at(p_, index);
      const T* matrix = static_cast<const T*>(matrices_[tile.layer]);
      for_each_run<T>(p_, tile, [&](auto width, int column, long long at, int pitch, int rows) {
        constexpr int W = decltype(width)::value;
        for (int row = 0; row < TILE_ROWS; ++row) {
          T* target = numbers + row * TILE_COLUMNS + column;
          if (row < rows) {
            copy_async<W * sizeof(T)>(target, matrix + at + static_cast<long long>(row) * pitch);
          } else {
            for (int i = 0; i < W; ++i) target[i] = 0;
          }
        }
      });
    });
    wait_for_copies();
    __syncwarp();
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

// --- W / sigma and its gradient --------------------------------------------------------------------------------------

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
