// Runs the kernels of csrc/cuda/*.cuh on the CPU: each CUDA thread of a launch is a coroutine, which runs until it waits
// for others. It finds errors of indexing, synchronization and reduction: all blocks of a launch are resident, shared
// memory starts as NaN, and the order in which threads run is given, so that a missing barrier shows in one of several
// orders. A launch in which no thread can continue is an error.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Threads that wait for each other.
struct Barrier {
  int size = 0, arrived = 0;
  long long round = 0;
};

struct Warp {
  Barrier barrier;
  double numbers[32];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread, block;
  Block* home = nullptr;
  std::vector<std::function<void()>> copies;  // started, and not waited for yet
  bool done = false;
};

inline Thread* current = nullptr;
inline ucontext_t scheduler;
inline Index block_size, grid_size;
inline long long progress = 0;  // barriers reached, numbers added, threads ended
inline std::function<void()> body;

inline void yield() { swapcontext(&current->context, &scheduler); }

inline void arrive(Barrier& barrier) {
  ++progress;
  const long long round = barrier.round;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.round;
  }
  while (barrier.round == round) yield();
}

inline std::string failure;  // of a thread: an exception cannot leave a coroutine

inline void run_current() {
  try {
    body();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  current->done = true;
  ++progress;
}

constexpr size_t STACK = 64 << 10, GUARD = 64;
constexpr unsigned char GUARD_BYTE = 0xa5;

// The order in which threads run until they wait: in turn; the first warps as far as they can before the others, or the
// last ones; or, from RANDOM on, in a random order that changes all the time.
enum Order : unsigned { IN_TURN = 0, FIRST_WARPS_FIRST = 1, LAST_WARPS_FIRST = 2, RANDOM = 3 };

inline const Warp* warp_of(const Thread* thread) { return &thread->home->warps[thread->thread.x / 32]; }

inline void launch(int grid, int block, size_t shared, unsigned order, std::function<void()> kernel) {
  if (block % 32) throw std::runtime_error("the emulation takes whole warps");
  block_size = {static_cast<unsigned>(block), 1, 1};
  grid_size = {static_cast<unsigned>(grid), 1, 1};
  body = std::move(kernel);
  failure.clear();
  std::vector<Block> blocks(grid);
  std::vector<Thread> threads(static_cast<size_t>(grid) * block);
  std::vector<Thread*> queue;
  for (int b = 0; b < grid; ++b) {
    blocks[b].barrier.size = block;
    blocks[b].warps.resize(block / 32);
    for (Warp& warp : blocks[b].warps) warp.barrier.size = 32;
    blocks[b].shared.assign(shared + GUARD, GUARD_BYTE);
    std::fill_n(blocks[b].shared.begin(), shared, 0xff);
    for (int t = 0; t < block; ++t) {
      Thread& thread = threads[static_cast<size_t>(b) * block + t];
      thread.thread.x = t;
      thread.block.x = b;
      thread.home = &blocks[b];
      thread.stack.reset(new char[STACK]);
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = STACK;
      thread.context.uc_link = &scheduler;
      makecontext(&thread.context, run_current, 0);
      queue.push_back(&thread);
    }
  }
  std::mt19937 random(order);
  if (order == LAST_WARPS_FIRST) std::reverse(queue.begin(), queue.end());
  while (!queue.empty()) {
    const long long before = progress;
    if (order >= RANDOM) std::shuffle(queue.begin(), queue.end(), random);
    const bool by_warps = order == FIRST_WARPS_FIRST || order == LAST_WARPS_FIRST;
    for (size_t i = 0; i < queue.size(); ++i) {
      // After a warp that has got further the first ones of the queue have their turn again.
      if (by_warps && i && progress != before && warp_of(queue[i]) != warp_of(queue[i - 1])) break;
      current = queue[i];
      swapcontext(&scheduler, &current->context);
    }
    if (!failure.empty()) throw std::runtime_error(failure);
    queue.erase(std::remove_if(queue.begin(), queue.end(), [](Thread* t) { return t->done; }), queue.end());
    if (progress == before) {
      throw std::runtime_error(std::to_string(queue.size()) + " threads wait for others that never arrive");
    }
  }
  for (const Block& b : blocks) {
    for (size_t i = shared; i < b.shared.size(); ++i) {
      if (b.shared[i] != GUARD_BYTE) throw std::runtime_error("a thread wrote beyond the shared memory");
    }
  }
}

}  // namespace emulation

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::current->block)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

inline void __syncthreads() { emulation::arrive(emulation::current->home->barrier); }
inline void __threadfence() {}

inline void __syncwarp() { emulation::arrive(emulation::current->home->warps[threadIdx.x / 32].barrier); }

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  emulation::Warp& warp = emulation::current->home->warps[threadIdx.x / 32];
  warp.numbers[threadIdx.x % 32] = value;
  emulation::arrive(warp.barrier);
  const T result = static_cast<T>(warp.numbers[source]);
  emulation::arrive(warp.barrier);
  return result;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return __shfl_sync(mask, value, threadIdx.x % 32 ^ distance);
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  ++emulation::progress;
  const unsigned before = *address;
  *address += value;
  return before;
}

namespace fastgan {

inline unsigned char* shared_memory() { return emulation::current->home->shared.data(); }

template <int BYTES>
void copy_async(void* shared, const void* global) {
  const auto bits = reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global);
  if (bits % BYTES) throw std::runtime_error("a copy to shared memory is not aligned");
  emulation::current->copies.push_back([=] { std::memcpy(shared, global, BYTES); });
}

inline void wait_for_copies() {
  for (const auto& copy : emulation::current->copies) copy();
  emulation::current->copies.clear();
}

inline unsigned poll(const unsigned* address) {
  emulation::yield();
  return *address;
}

}  // namespace fastgan

#include "primitives.cuh"

namespace fastgan {

inline void convert(float x, BFloat16& result) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const bool nan = x != x;
  result.bits = nan ? 0x7fff : static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void convert(float x, Float16& result) {
  const _Float16 half = static_cast<_Float16>(x);
  std::memcpy(&result.bits, &half, 2);
}

}  // namespace fastgan

// The C function `emulate`, for the kernels that a file lists between EMULATED_KERNELS and END_OF_KERNELS.
inline thread_local std::string emulation_error;

#define EMULATED_KERNELS                                                                                       \
  extern "C" const char* emulate(const char* name, const void* arguments, int grid, int block, size_t shared,  \
                                 unsigned order) {                                                             \
    try {
#define EMULATED_KERNEL(kernel, Arguments)                                                          \
  if (std::string(name) == #kernel) {                                                               \
    emulation::launch(grid, block, shared, order,                                                   \
                      [=] { kernel(*static_cast<const Arguments*>(arguments)); });                  \
    return "";                                                                                      \
  }
#define END_OF_KERNELS                                             \
    emulation_error = "no kernel " + std::string(name);            \
  } catch (const std::exception& error) {                          \
    emulation_error = error.what();                                \
  }                                                                \
  return emulation_error.c_str();                                  \
  }
