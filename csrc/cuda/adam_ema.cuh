// Adam with the moving average of the weights, over many tensors: the arithmetic of fastgan/ops/adam_ema/reference.py.
//
// Two launches: the gradients are read once for their norms (steps 1 to 3 there), and once by the update (4 to 6), which
// needs to know whether all are finite. A block processes a chunk of one tensor. Sums are added in a fixed order.
#pragma once

#include "primitives.cuh"

namespace fastgan {

// Tensors of one launch: its arguments stay below 4 KB, which every driver accepts.
constexpr int MAX_GRADIENTS = 160;
constexpr int MAX_WEIGHTS = 48;
constexpr int ADAM_THREADS = 256;
constexpr int ADAM_CHUNK = 4096;  // elements of a block

enum CopyType : int { NO_COPY = 0, BFLOAT16 = 1, HALF = 2 };

struct CheckGradients {
  const void* gradients[MAX_GRADIENTS];
  long long sizes[MAX_GRADIENTS];
  int blocks[MAX_GRADIENTS];  // the first block of each tensor
  double* partial;            // scratch: the sum of squares of each block, of all launches
  double* squares;            // scratch: the sum of squares of each tensor, of all launches
  unsigned* arrivals;         // see last_block
  const float* loss;
  const float* divisor;
  float* found;  // norm, divisor with clipping, bad, and the norm of each tensor
  float clip;    // 0: none
  int count;     // tensors of this launch
  int tensor;    // the first of them
  int tensors;   // of all launches: the last one finds the rest
  int block;     // the first block of this launch, counted over all launches
  int unused;
};

struct AdamStep {
  void* weights[MAX_WEIGHTS];
  const void* gradients[MAX_WEIGHTS];
  void* means[MAX_WEIGHTS];
  void* squares[MAX_WEIGHTS];
  void* averages[MAX_WEIGHTS];  // or nullptr
  void* copies[MAX_WEIGHTS];    // or nullptr
  float* steps[MAX_WEIGHTS];
  long long sizes[MAX_WEIGHTS];
  int blocks[MAX_WEIGHTS];  // the first block of each tensor
  const float* divisor;
  const float* bad;
  const float* ema;    // how far the averages move, or nullptr: `ema_weight`
  unsigned* arrivals;  // see last_block
  double lr, eps, beta2;
  double rest1, rest2;          // 1 - beta1, 1 - beta2
  double log_beta1, log_beta2;  // their logarithms, -infinity for 0
  double ema_weight;
  int count;
  int copy_type;
};

// The tensor of a block: the last one that begins at it or before.
template <class Arguments>
__device__ inline int tensor_of_block(const Arguments& p) {
  int low = 0, high = p.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (p.blocks[middle] <= static_cast<int>(blockIdx.x) ? low : high) = middle;
  }
  return low;
}

// The elements of a tensor that a block processes.
struct Span {
  long long begin;
  int count;
};

template <class Arguments>
__device__ inline Span span_of_block(const Arguments& p, int tensor) {
  const long long begin = static_cast<long long>(blockIdx.x - p.blocks[tensor]) * ADAM_CHUNK;
  const long long left = p.sizes[tensor] - begin;
  return {begin, left < ADAM_CHUNK ? static_cast<int>(left) : ADAM_CHUNK};
}

// Whether this block is the last of the launch to come here; it then sees what the others wrote before.
//
// arrivals: a counter as grid_barrier takes it. The arrivals add up to 2^31, so that its lower bits are 0 after the last
// one, and at no other time.
__device__ inline bool last_block(unsigned* arrivals) {
  unsigned* const answer = reinterpret_cast<unsigned*>(shared_memory());
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned arrival = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
    *answer = (atomicAdd(arrivals, arrival) + arrival) & 0x7fffffffu;
    __threadfence();
  }
  __syncthreads();
  return *answer == 0;
}

// The sum over the block's threads, in all of them.
__device__ inline double block_sum(double x) {
  double* const sums = reinterpret_cast<double*>(shared_memory());
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) x += sums[warp];
  return x;
}

__device__ inline bool is_aligned(const void* address, unsigned bytes = 16) {
  return reinterpret_cast<unsigned long long>(address) % bytes == 0;
}

// --- steps 1 to 3 ----------------------------------------------------------------------------------------------------

template <class T>
__device__ inline double chunk_square(const T* gradient, int count) {
  T sum = 0;
  int at = threadIdx.x;
  if (is_aligned(gradient)) {
    const Pack<T>* const packs = reinterpret_cast<const Pack<T>*>(gradient);
    constexpr int width = Pack<T>::WIDTH;
    for (int i = threadIdx.x; i < count / width; i += blockDim.x) {
      const Pack<T> pack = packs[i];
      for (int k = 0; k < width; ++k) sum += pack.values[k] * pack.values[k];
    }
    at += count / width * width;
  }
  for (int i = at; i < count; i += blockDim.x) sum += gradient[i] * gradient[i];
  return block_sum(sum);
}

__device__ inline bool is_finite(float x) { return x - x == 0; }

template <class T>
__device__ inline void check_gradients(const CheckGradients& p) {
  const int tensor = tensor_of_block(p);
  const Span span = span_of_block(p, tensor);
  const double square = chunk_square(static_cast<const T*>(p.gradients[tensor]) + span.begin, span.count);
  volatile double* const partial = p.partial + p.block;
  volatile double* const squares = p.squares;
  if (threadIdx.x == 0) partial[blockIdx.x] = square;
  if (!last_block(p.arrivals)) return;
  for (int i = threadIdx.x / 32; i < p.count; i += blockDim.x / 32) {
    const int end = i + 1 < p.count ? p.blocks[i + 1] : static_cast<int>(gridDim.x);
    double sum = 0;
    for (int b = p.blocks[i] + static_cast<int>(threadIdx.x % 32); b < end; b += 32) sum += partial[b];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) squares[p.tensor + i] = sum;
  }
  if (p.tensor + p.count < p.tensors) return;
  __threadfence();
  __syncthreads();
  float divisor = *p.divisor;
  double sum = 0;
  for (int i = threadIdx.x; i < p.tensors; i += blockDim.x) {
    sum += squares[i];
    p.found[3 + i] = static_cast<float>(sqrt(squares[i])) / divisor;
  }
  const float norm = static_cast<float>(sqrt(block_sum(sum))) / divisor;
  if (threadIdx.x == 0) {
    if (p.clip > 0 && norm > p.clip) divisor *= norm / p.clip;
    p.found[0] = norm;
    p.found[1] = divisor;
    p.found[2] = is_finite(norm) && is_finite(*p.loss) ? 0.0f : 1.0f;
  }
}

// --- steps 4 to 6 ----------------------------------------------------------------------------------------------------

// The functions of each type by one name.
__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ inline float square_root(float x) { return sqrtf(x); }
__device__ inline double square_root(double x) { return sqrt(x); }
__device__ inline float exp_less_one(float x) { return expm1f(x); }
__device__ inline double exp_less_one(double x) { return expm1(x); }

__device__ inline unsigned short to_bfloat16(float x) {
  union {
    float number;
    unsigned bits;
  } value = {x};
  if (x != x) return 0x7fff;
  return static_cast<unsigned short>((value.bits + 0x7fff + (value.bits >> 16 & 1)) >> 16);
}

__device__ inline unsigned short to_half(float x) {
#ifdef __CUDACC__
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
#else
  union {
    _Float16 number;
    unsigned short bits;
  } value = {static_cast<_Float16>(x)};
  return value.bits;
#endif
}

// What the elements of one tensor have in common.
template <class T>
struct AdamFactors {
  T divisor, beta2, rest2, root, eps, rate;
  T toward;  // from the mean to the gradient: 1 - beta1, or -beta1 from the other side
  T ema;     // from the average to the weight
  bool from_gradient, from_weight;  // lerp begins at the nearer end
  bool move;
};

template <class T>
__device__ inline AdamFactors<T> adam_factors(const AdamStep& p, float step) {
  const T rest1 = static_cast<T>(p.rest1), ema = static_cast<T>(p.ema ? *p.ema : p.ema_weight);
  // 1 - beta^step without the cancellation of a beta near 1.
  const T correction1 = -exp_less_one(static_cast<T>(step * p.log_beta1));
  const T correction2 = -exp_less_one(static_cast<T>(step * p.log_beta2));
  AdamFactors<T> f;
  f.divisor = static_cast<T>(*p.divisor);
  f.beta2 = static_cast<T>(p.beta2);
  f.rest2 = static_cast<T>(p.rest2);
  f.root = square_root(correction2);
  f.eps = static_cast<T>(p.eps);
  f.rate = static_cast<T>(p.lr) / correction1;
  f.from_gradient = !(rest1 < T(0.5));
  f.toward = f.from_gradient ? rest1 - 1 : rest1;
  f.from_weight = !(ema < T(0.5));
  f.ema = f.from_weight ? ema - 1 : ema;
  f.move = *p.bad == 0;
  return f;
}

// The numbers of one tensor from the first element of a chunk on.
template <class T>
struct Chunk {
  T* weight;
  const T* gradient;
  T* mean;
  T* square;
  T* average;
  unsigned short* copy;
  int copy_type;
};

template <class T>
__device__ inline Chunk<T> chunk_at(const AdamStep& p, int tensor, long long begin) {
  T* const average = static_cast<T*>(p.averages[tensor]);
  unsigned short* const copy = static_cast<unsigned short*>(p.copies[tensor]);
  return {static_cast<T*>(p.weights[tensor]) + begin,
          static_cast<const T*>(p.gradients[tensor]) + begin,
          static_cast<T*>(p.means[tensor]) + begin,
          static_cast<T*>(p.squares[tensor]) + begin,
          average ? average + begin : nullptr,
          copy ? copy + begin : nullptr,
          p.copy_type};
}

template <class T, int WIDTH>
struct alignas(WIDTH * sizeof(T)) Numbers {
  T values[WIDTH];
};

template <int WIDTH, class T>
__device__ inline Numbers<T, WIDTH> load(const T* data, int i) {
  return reinterpret_cast<const Numbers<T, WIDTH>*>(data)[i];
}

template <int WIDTH, class T>
__device__ inline void store(T* data, int i, const Numbers<T, WIDTH>& numbers) {
  reinterpret_cast<Numbers<T, WIDTH>*>(data)[i] = numbers;
}

// Elements [i WIDTH, (i + 1) WIDTH) of a chunk.
template <int WIDTH, class T>
__device__ inline void update(const Chunk<T>& c, const AdamFactors<T>& f, int i) {
  Numbers<T, WIDTH> weight = load<WIDTH>(c.weight, i), average;
  if (c.average) average = load<WIDTH>(c.average, i);
  if (f.move) {
    const Numbers<T, WIDTH> gradient = load<WIDTH>(c.gradient, i);
    Numbers<T, WIDTH> mean = load<WIDTH>(c.mean, i), square = load<WIDTH>(c.square, i);
    for (int k = 0; k < WIDTH; ++k) {
      const T g = gradient.values[k] / f.divisor;
      T& m = mean.values[k];
      T& s = square.values[k];
      m = multiply_add(f.toward, g - m, f.from_gradient ? g : m);
      s = multiply_add(f.rest2 * g, g, s * f.beta2);
      weight.values[k] -= f.rate * m / (square_root(s) / f.root + f.eps);
    }
    store<WIDTH>(c.mean, i, mean);
    store<WIDTH>(c.square, i, square);
    store<WIDTH>(c.weight, i, weight);
  }
  if (c.average) {
    for (int k = 0; k < WIDTH; ++k) {
      const T w = weight.values[k];
      T& a = average.values[k];
      a = multiply_add(f.ema, w - a, f.from_weight ? w : a);
    }
    store<WIDTH>(c.average, i, average);
  }
  if (c.copy) {
    Numbers<unsigned short, WIDTH> copy;
    for (int k = 0; k < WIDTH; ++k) {
      const float w = static_cast<float>(weight.values[k]);
      copy.values[k] = c.copy_type == HALF ? to_half(w) : to_bfloat16(w);
    }
    store<WIDTH>(c.copy, i, copy);
  }
}

template <class T>
__device__ inline void adam_ema(const AdamStep& p) {
  const int tensor = tensor_of_block(p);
  const auto [begin, count] = span_of_block(p, tensor);
  const Chunk<T> chunk = chunk_at<T>(p, tensor, begin);
  const AdamFactors<T> f = adam_factors<T>(p, *p.steps[tensor] + 1);
  constexpr int width = Pack<T>::WIDTH;
  int packs = 0;
  // nullptr is aligned.
  if (is_aligned(chunk.weight) && is_aligned(chunk.gradient) && is_aligned(chunk.mean) && is_aligned(chunk.square) &&
      is_aligned(chunk.average) && is_aligned(chunk.copy, 2 * width)) {
    packs = count / width;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) update<width>(chunk, f, i);
  }
  for (int i = packs * width + threadIdx.x; i < count; i += blockDim.x) update<1>(chunk, f, i);
  // All blocks have read the counts of updates.
  if (!last_block(p.arrivals) || !f.move) return;
  for (int i = threadIdx.x; i < p.count; i += blockDim.x) *p.steps[i] += 1;
}

}  // namespace fastgan

#define FASTGAN_ADAM_KERNELS(T)                                                 \
  extern "C" __global__ void __launch_bounds__(fastgan::ADAM_THREADS)           \
      check_gradients_##T(const __grid_constant__ fastgan::CheckGradients p) {  \
    fastgan::check_gradients<T>(p);                                             \
  }                                                                             \
  extern "C" __global__ void __launch_bounds__(fastgan::ADAM_THREADS)           \
      adam_ema_##T(const __grid_constant__ fastgan::AdamStep p) {               \
    fastgan::adam_ema<T>(p);                                                    \
  }

FASTGAN_ADAM_KERNELS(float)
FASTGAN_ADAM_KERNELS(double)
