"""upfirdn2d and channel_scale where a GPU differs from the interpreter: graphs, big offsets, no synchronization."""

import pytest
import torch

from fastgan.ops import channel_dot, channel_scale, upfirdn2d
from fastgan.testing.case import cotangent
from fastgan.testing.cases import CASES

FAMILIES = {"upfirdn2d", "channel_scale", "scale_noise_bias_act"}
CORE = [case for case in CASES if case.core and FAMILIES & set(case.ops)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("case", CORE, ids=str)
def test_nothing_waits_for_the_device(case, no_waiting):
    inputs = case.inputs(torch.float32, "cuda")
    dy = cotangent(case.call(*inputs))
    torch.autograd.grad(case.call(*inputs), inputs, dy)  # compiles
    if "upfirdn2d" in case.ops:
        pytest.skip("the case makes its filter on the device in each call, by a copy that waits")
    with no_waiting():
        torch.autograd.grad(case.call(*inputs), inputs, dy)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_upfirdn2d_in_a_cuda_graph(layout):
    taps = torch.tensor([1.0, 3, 3, 1], device="cuda") / 8
    x = torch.randn(2, 16, 20, 24, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=layout)
    expected = upfirdn2d(x, taps, 2, 1, (2, 1), gain=4.0)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = upfirdn2d(x, taps, 2, 1, (2, 1), gain=4.0)
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_offsets_beyond_32_bits(layout):
    shape = (33, 64, 1024, 1024)  # 2.2e9 elements, 4.4 GB in bfloat16
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free GPU memory")
    x = torch.ones(shape, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=layout)
    x[-1, -1, -1, -1] = 3
    y = upfirdn2d(x, torch.ones(2, device="cuda"), padding=(1, 0, 1, 0))  # sums of a pixel and those before it
    assert y.shape == x.shape
    assert y[-1, -1, -1].tolist()[-2:] == [4, 6]
    assert y[0, 0, 0].tolist()[:2] == [1, 2]
    del y
    scale = torch.full(shape[:2], 2.0, device="cuda")
    scale[-1, -1] = 3
    y = channel_scale(x, scale)
    assert y[-1, -1, -1, -1].item() == 9
    assert y[-1, -2, -1, -1].item() == 2
    del y
    dot = channel_dot(x, x)
    assert dot[-1, -1].item() == 1024 * 1024 + 8
    assert dot[0, 0].item() == 1024 * 1024
