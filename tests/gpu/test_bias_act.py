"""bias_act where a GPU differs from the interpreter: graphs, streams, big offsets, no synchronization."""

import pytest
import torch

from fastgan.ops import bias_act
from fastgan.testing.case import cotangent
from fastgan.testing.cases import CASES

CORE = [case for case in CASES if case.core and "bias_act" in case.ops]


@pytest.mark.parametrize("case", CORE, ids=str)
def test_results_repeat_bit_for_bit(case):
    for layout in case.memory_formats:
        inputs = case.inputs(torch.bfloat16, "cuda", layout, shape=case.sized(4096))
        runs = []
        for _ in range(3):
            y = case.call(*inputs)
            runs.append([y, *torch.autograd.grad(y, inputs, cotangent(y))])
        for run in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("case", CORE, ids=str)
def test_nothing_waits_for_the_device(case, no_waiting):
    inputs = case.inputs(torch.float32, "cuda")
    dy = cotangent(case.call(*inputs))
    torch.autograd.grad(case.call(*inputs), inputs, dy)  # compiles
    with no_waiting():
        torch.autograd.grad(case.call(*inputs), inputs, dy)


@pytest.mark.parametrize("case", CORE, ids=str)
def test_captures_in_a_cuda_graph(case):
    inputs = case.inputs(torch.float32, "cuda")
    dy = cotangent(case.call(*inputs))

    def step():
        y = case.call(*inputs)
        # Detached: an autograd graph that is kept would keep its stream for the next run.
        return y.detach(), *torch.autograd.grad(y, inputs, dy)

    expected = step()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(captured, expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_offsets_beyond_32_bits(layout):
    shape = (33, 64, 1024, 1024)  # 2.2e9 elements, 4.4 GB in bfloat16
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free GPU memory")
    x = torch.ones(shape, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=layout)
    x[-1, -1, -1, -1] = -2
    bias = torch.zeros(64, dtype=torch.float32, device="cuda", requires_grad=True)
    y = bias_act(x, bias, "leaky_relu")
    assert y[-1, -1, -1, -1].item() == pytest.approx(-0.4, rel=1e-2)
    assert y[-1, -1, -1, -2].item() == 1
    (db,) = torch.autograd.grad(y, bias, torch.ones((), dtype=x.dtype, device="cuda").expand(shape))
    assert db[0].item() == pytest.approx(33 * 1024 * 1024, rel=1e-6)
