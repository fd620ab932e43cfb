"""The CUDA C++ kernels of spectral normalization, emulated on the CPU: what depends on blocks, memory and addresses.

The numbers in every shape, layout and option: test_spectral_norm.py, which runs on the emulation too.
"""

import ctypes
import struct

import emulated
import pytest
import torch

from fastgan.ops.spectral_norm import cuda, layout, reference

pytestmark = pytest.mark.skipif(not emulated.compiler(), reason="no C++ compiler here")

CHANNELS = torch.channels_last
# Shape, dimension of the rows, layout: tiles with edges on both sides, one row, one column, segments, both vectors
# longer than a slice.
GROUP = [
    ((40, 10, 4, 4), 0, torch.contiguous_format),
    ((20, 12, 3, 4), 0, CHANNELS),
    ((9, 20, 4, 4), 1, torch.contiguous_format),
    ((6, 36, 3, 3), 1, CHANNELS),
    ((1, 300), 0, torch.contiguous_format),
    ((150, 1), 0, torch.contiguous_format),
    ((130, 260), 0, torch.contiguous_format),
]


def normal(shape, generator, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def make(group=GROUP, dtype=torch.float32, seed=0):
    """weights, dy, uv, dims"""
    generator = torch.Generator().manual_seed(seed)
    weights, dy, vectors = [], [], []
    for shape, dim, memory_format in group:
        for into in (weights, dy):
            w = normal(shape, generator, dtype)
            into.append(w.contiguous(memory_format=memory_format) if w.dim() == 4 else w)
        for size in (shape[dim], weights[-1].numel() // shape[dim]):
            vectors.append(torch.nn.functional.normalize(normal(size, generator, dtype), dim=0))
    return weights, dy, torch.cat(vectors), [dim for _, dim, _ in group]


def step(weights, dy, uv, dims, iterations=1, v_first=False):
    """All results of the three ops."""
    uv, sigma = cuda.power_iteration(weights, uv, dims, iterations, v_first, 1e-12)
    scaled = cuda.spectral_scale(weights, uv, sigma, dims)
    return [uv, sigma, *scaled, *cuda.spectral_scale_grad(dy, weights, uv, sigma, dims)]


def expected(weights, dy, uv, dims, iterations=1, v_first=False):
    weights, dy, uv = [w.double() for w in weights], [g.double() for g in dy], uv.double()
    uv, sigma = reference.power_iteration(weights, uv, dims, iterations, v_first, 1e-12)
    scaled = reference.spectral_scale(weights, uv, sigma, dims)
    return [uv, sigma, *scaled, *reference.spectral_scale_grad(dy, weights, uv, sigma, dims)]


def assert_close(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def assert_same_bits(got, want):
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


ROOM = cuda.shared_bytes(1 << 10, 4)


def room_for(slots, itemsize=4):
    return cuda.shared_bytes(slots, itemsize)


@pytest.fixture
def emulate(monkeypatch):
    """emulate(...): puts EmulatedKernels(...) in the place of a GPU."""
    return lambda **options: emulated.install(monkeypatch, emulated.EmulatedKernels(**options))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("v_first", [False, True])
def test_no_order_of_the_threads_changes_a_bit(emulate, order, v_first):
    inputs = make()
    emulate(multiprocessors=4, shared=ROOM)
    usual = step(*inputs, 2, v_first)
    assert_close(usual, expected(*inputs, 2, v_first))
    emulate(multiprocessors=4, shared=ROOM, order=order)
    assert_same_bits(step(*inputs, 2, v_first), usual)


@pytest.mark.parametrize("slots", [1, 3, 1 << 10])
@pytest.mark.parametrize("multiprocessors", [1, 5, 100])
def test_weights_larger_than_the_shared_memory_pass_through_it(emulate, slots, multiprocessors):
    inputs = make()
    emulate(shared=ROOM)
    usual = step(*inputs, 2)
    kernels = emulate(multiprocessors=multiprocessors, shared=room_for(slots), order=multiprocessors)
    # A tile is summed in the same order wherever it is.
    assert_same_bits(step(*inputs, 2), usual)
    tiles = cuda.make_launch_plans(layout.weight_shapes(inputs[0], inputs[3]), 4)[0].tiles
    grids = [grid for _, grid, _ in kernels.launches]
    assert grids[0] == grids[2] == min(multiprocessors, tiles)


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("slots", [2, 1 << 10])
def test_iteration_and_scaling_in_one_launch_have_the_same_bits(emulate, slots, iterations):
    weights, _, uv, dims = make()
    kernels = emulate(shared=room_for(slots), order=2)
    new, sigma = cuda.power_iteration(weights, uv, dims, iterations, False, 1e-12)
    separate = [new, sigma, *cuda.spectral_scale(weights, new, sigma, dims)]
    assert len(kernels.launches) == 2
    assert_same_bits(cuda.spectral_normalize(weights, uv, dims, iterations, False, 1e-12, None), separate)
    assert len(kernels.launches) == 3


def test_batches_in_double(emulate):
    inputs = make(dtype=torch.float64)
    emulate(shared=room_for(2, 8))
    torch.testing.assert_close(step(*inputs, 2), expected(*inputs, 2), rtol=1e-11, atol=1e-13)


def test_a_group_of_many_layers_takes_several_launches(emulate):
    count = 2 * cuda.MAX_LAYERS + 5
    inputs = make([((2 + i % 7, 1 + i % 5), 0, None) for i in range(count)])
    kernels = emulate()
    assert_close(step(*inputs), expected(*inputs))
    assert len(kernels.launches) == 3 * 3


def test_the_barrier_serves_launches_of_any_number_of_blocks(emulate, monkeypatch):
    inputs = make()
    emulate()
    usual = step(*inputs)
    counter = emulated.OneCounter()
    for multiprocessors in (1, 4, 2, 5, 5):
        emulate(multiprocessors=multiprocessors)
        monkeypatch.setattr(cuda._cuda, "counters", counter)
        assert_same_bits(step(*inputs), usual)
        assert counter.memory.item() & 0x7FFFFFFF == 0


def test_addresses_that_are_no_multiples_of_16_bytes(emulate):
    weights, dy, uv, dims = make()
    emulate()
    usual = step(weights, dy, uv, dims)

    def moved(w):
        memory = w.new_full((w.numel() + 2,), float("nan"))
        view = memory[1:-1].as_strided(w.shape, w.stride(), 1)
        return view.copy_(w)

    assert all(w.data_ptr() % 16 for w in map(moved, weights))
    got = step(list(map(moved, weights)), list(map(moved, dy)), moved(uv), dims)
    first_gradient = 2 + len(weights)
    assert_same_bits(got[:first_gradient], usual[:first_gradient])
    assert_close(got, usual)  # ⟨dY, W⟩ is summed in runs of 16 bytes, or number by number


def test_every_output_is_written_and_nothing_beside_it(emulate, monkeypatch):
    inputs = make()
    emulate(shared=room_for(2), order=2)
    usual = step(*inputs)
    memories = []

    def guarded(weights, dtype=None):
        views = []
        for w in weights:
            memories.append(w.new_full((w.numel() + 64,), 7.0, dtype=dtype))
            views.append(memories[-1].as_strided(w.shape, w.stride(), 32).fill_(float("nan")))
        return views

    monkeypatch.setattr(cuda, "empty_weights", guarded)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # new memory, scratch included, is NaN
    try:
        assert_same_bits(step(*inputs), usual)
        normalized = cuda.spectral_normalize(inputs[0], *inputs[2:], 1, False, 1e-12, None)
        assert_same_bits(normalized, usual[: len(normalized)])
        half = cuda.spectral_normalize(inputs[0], *inputs[2:], 1, False, 1e-12, torch.bfloat16)
        assert_same_bits(half[2:], [y.bfloat16() for y in normalized[2:]])
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(memories) == 4 * len(GROUP)
    for memory in memories:
        assert (memory[:32] == 7).all()
        assert (memory[-32:] == 7).all()


def test_the_argument_is_the_structure_of_the_kernels(emulate, monkeypatch):
    """Its size on both sides: the emulation's compiler and Python's struct."""
    sizes = cuda._LAYER.size, 3 * 8 * cuda.MAX_LAYERS + cuda.MAX_LAYERS * cuda._LAYER.size + cuda._REST.size
    size = emulated.kernels().spectral_norm_size
    assert tuple(size(i) for i in (0, 1)) == sizes
    assert sizes[1] <= 4096
    constants = tuple(size(i) for i in range(2, 9))
    assert constants == (
        cuda.MAX_LAYERS, cuda.TILE_ROWS, cuda.TILE_COLUMNS, cuda.SLICE, cuda.THREADS, cuda.SCALE_THREADS, cuda._FACTORS,
    )  # fmt: skip


# --- the emulation itself --------------------------------------------------------------------------------------------


def faulty(name, order=0, data=None):
    data = torch.zeros(64) if data is None else data
    barrier = torch.zeros(1, dtype=torch.int32)
    argument = struct.pack("=2Q", data.data_ptr(), barrier.data_ptr())
    emulate = emulated.kernels("faulty").emulate
    return ctypes.string_at(emulate(name.encode(), argument, 3, 64, 64 * 4, order)).decode(), data


def test_the_emulation_finds_errors():
    assert "never arrive" in faulty("some_threads_wait")[0]
    assert "beyond the shared memory" in faulty("beyond_shared_memory")[0]
    assert "not aligned" in faulty("unaligned_copy")[0]
    for name in ("no_barrier", "no_grid_barrier"):
        results = [faulty(name, order)[1] for order in (1, 2)]
        assert not torch.equal(*results), name
    for order in range(5):
        problem, data = faulty("correct", order)
        assert not problem
        assert data[:6].tolist() == [sum(range(32, 64))] * 6
