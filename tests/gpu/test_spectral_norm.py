"""Spectral normalization where a GPU differs from interpreter and emulation: graphs, streams, tables, big offsets."""

import pytest
import torch

from fastgan.ops import _backend, power_iteration, spectral_normalize, spectral_scale
from fastgan.ops._tables import CAPACITY, RESERVE, tables

# A discriminator of 64² images and layers of very different sizes: shape, dimension of the rows, channels_last.
GROUP = [
    ((64, 3, 4, 4), 0, False),
    ((128, 64, 4, 4), 0, True),
    ((256, 128, 4, 4), 0, False),
    ((512, 256, 4, 4), 0, True),
    ((256, 512, 4, 4), 1, False),
    ((96, 64, 3, 3), 1, True),
    ((1, 8192), 0, False),
    ((1000, 128), 0, False),
    ((300, 1), 0, False),
]


@pytest.fixture(autouse=True, params=["cuda", "triton"])
def backend(request, monkeypatch):
    monkeypatch.setattr(_backend, "forced", request.param)
    return request.param


def make(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    weights, parts = [], []
    for shape, dim, last in GROUP:
        w = scale * torch.randn(shape, generator=generator).cuda()
        weights.append((w.contiguous(memory_format=torch.channels_last) if last else w).requires_grad_())
        for size in (shape[dim], w.numel() // shape[dim]):
            parts.append(torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0))
    return weights, torch.cat(parts).cuda(), [dim for _, dim, _ in GROUP]


def step(weights, uv, dims, dy, iterations=1):
    new, sigma = power_iteration(weights, uv, dims, iterations=iterations)
    scaled = spectral_scale(weights, new, sigma, dims)
    at_once, *_ = spectral_normalize(weights, uv, dims, iterations=iterations)
    return new, sigma, *scaled, *at_once, *torch.autograd.grad(scaled, weights, dy)


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_results_repeat_bit_for_bit(iterations):
    inputs = *make(), make(1)[0]
    expected = step(*inputs, iterations)
    for _ in range(3):
        assert_same_bits(step(*inputs, iterations), expected)


def test_nothing_waits_for_the_device(no_waiting):
    inputs = *make(), make(1)[0]
    step(*inputs)  # compiles
    others = *make(2), make(3)[0]  # at other addresses: new tables
    with no_waiting():
        step(*inputs)
        step(*others)


def test_streams_share_no_table_and_no_counter():
    inputs = *make(), make(1)[0]
    expected = step(*inputs)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        got = step(*inputs)
    side.synchronize()
    assert_same_bits(got, expected)


def test_graphs_of_two_streams_run_at_once():
    """Each captured launch of the cooperative kernels has a counter of its own."""
    inputs = *make(), make(1)[0]
    expected = step(*inputs)
    graphs, results, streams = [], [], []
    for _ in range(2):
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            results.append(step(*inputs))
        streams.append(torch.cuda.Stream())
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, graph in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for result in results:
        assert_same_bits(result, expected)


def test_captured_graphs_use_current_weights_and_do_not_depend_on_cached_tables():
    weights, uv, dims = make()
    dy = make(1)[0]
    step(weights, uv, dims, dy)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(weights, uv, dims, dy)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(weights, uv, dims, dy)
    # Before any replay: an eager call must not use a table that only a replay fills.
    expected = step(weights, uv, dims, dy)
    graph.replay()
    assert_same_bits(captured, expected)
    first = captured[1].clone()

    # Evict every earlier table, and overwrite free pinned memory.
    for i in range(CAPACITY + 1):
        tables.get(uv.device, i, lambda: [-1] * 512)
    scratch = torch.empty(RESERVE, dtype=torch.int64, pin_memory=True).fill_(-1)
    with torch.no_grad():
        for w in weights:
            w.mul_(2)
    expected = step(weights, uv, dims, dy)
    graph.replay()
    assert_same_bits(captured, expected)
    torch.testing.assert_close(captured[1], 2 * first)
    assert scratch[0] == -1


def test_offsets_beyond_32_bits():
    rows, columns = 33_000, 65_536  # 2.2e9 elements, 8.7 GB
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free GPU memory")
    weight = torch.zeros(rows, columns, device="cuda")
    weight[-1, -1] = 3
    uv = torch.ones(rows + columns, device="cuda")
    uv, sigma = power_iteration([weight], uv, [0])
    assert sigma.item() == 3
    assert uv[rows - 1] == uv[-1] == 1
    assert spectral_scale([weight], uv, sigma, [0])[0][-1, -1].item() == pytest.approx(1)
