"""The Triton kernels of instance_norm_act on sizes that the small cases of the contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import pytest
import torch

from fastgan._util import env
from fastgan.ops.instance_norm import reference, triton

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]
# Several parts of the pixels, with a rest; more channels than a tile; several blocks of parts; no samples.
SHAPES = [(1, 3, 91, 91), (3, 300, 2, 3), (1, 1, 400, 360), (2, 20, 30, 41), (4, 6, 5), (0, 3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_tiles_and_parts_cover_any_shape(device, shape, layout):
    if len(shape) != 4 and layout is torch.channels_last:
        pytest.skip("has one layout")
    generator = torch.Generator().manual_seed(0)
    # Means far from 0, and of each part another, as if a light went from left to right.
    ramp = torch.linspace(90, 110, torch.Size(shape[2:]).numel(), dtype=torch.float64)
    x, dy = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    x = (x + ramp.view(shape[2:])).to(device, memory_format=layout)
    dy = dy.to(device, memory_format=layout)
    got, expected = triton.plan_forward(x, 0.2, 1e-5)(x), reference.instance_norm_act(x, 0.2, 1e-5)
    for ours, true in zip(got, expected, strict=True):
        assert (ours.shape, ours.dtype) == (true.shape, true.dtype)
        assert ours.stride() == true.stride() or not true.numel()
        torch.testing.assert_close(ours, true, rtol=1e-10, atol=1e-10)
    options = (dy, x, *expected[1:], 0.2, 1e-5)
    dx, true = triton.plan_grad(*options)(*options), reference.instance_norm_act_grad(*options)
    assert dx.stride() == true.stride() or not true.numel()
    torch.testing.assert_close(dx, true, rtol=1e-10, atol=1e-10)


def test_large_means_do_not_cancel(device):
    x = (torch.randn(1, 2, 64, 65, generator=torch.Generator().manual_seed(1)) + 1000).to(device)
    y, _, _ = triton.plan_forward(x, 1.0, 1e-5)(x)
    exact, _, _ = reference.instance_norm_act(x.double(), 1.0, 1e-5)
    plain = (reference.instance_norm_act(x, 1.0, 1e-5)[0] - exact).abs().max()
    assert (y - exact).abs().max() <= 4 * plain
