// Spectral normalization: what its kernels are called with, and how a group of weights is divided among blocks and warps.
//
// The memory of a weight is a matrix M [rows, columns], which is W or, if transposed, Wᵀ. It is cut into tiles. Each block
// owns adjacent tiles of the group, and each of its warps some of these, which it processes without waiting for others.
// As many as fit are in the block's shared memory: if all do, an iteration reads the weights from global memory once.
// Otherwise they pass through it in batches, every second time in reverse order, because the last batch of a pass is
// still there in the next.
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

// The sum of adjacent numbers, by one warp.
__device__ inline double sum_partial(const double* numbers, int count) {
  double total = 0;
  for (int i = threadIdx.x % 32; i < count; i += 32) total += numbers[i];
  return warp_sum(total);
}

}  // namespace fastgan
