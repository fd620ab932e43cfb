"""The Triton kernels of channel_scale, channel_dot and scale_noise_bias_act on sizes that the small cases of the
contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import pytest
import torch

from fastgan._util import env
from fastgan.ops.channel_scale import reference, triton

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]
# More pixels than a tile, with a rest; more channels than a tile; several parts of a sum; no pixels, no samples.
SHAPES = [(1, 3, 91, 91), (3, 300, 2, 3), (1, 20, 30, 41), (4, 6), (2, 3, 0, 4), (0, 3, 4, 4)]
ACTS = [(0.2, 1.5, None), (1.0, 0.5, 0.8), (0.2, 1.5, 0.8)]
WANTED = [(True, True, True), (False, False, False), (True, False, True), (False, True, False)]


def same(plan, function, *arguments):
    got, expected = plan(*arguments)(*arguments), function(*arguments)
    if isinstance(got, torch.Tensor):
        got, expected = [got], [expected]
    for ours, true in zip(got, expected, strict=True):
        assert (ours.shape, ours.dtype) == (true.shape, true.dtype)
        assert ours.stride() == true.stride() or not true.numel()
        torch.testing.assert_close(ours, true, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_tiles_and_parts_cover_any_shape(device, shape, layout):
    if len(shape) != 4 and layout is torch.channels_last:
        pytest.skip("has one layout")
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        draw = torch.randn(size, dtype=torch.float64, generator=generator)
        return draw.to(device, memory_format=layout) if size == shape else draw.to(device)

    x, dy, saved = normal(*shape), normal(*shape), normal(*shape)
    scale, bias, noise = normal(*shape[:2]), normal(shape[1]), normal(shape[0], 1, *shape[2:])
    same(triton.plan_scale, reference.channel_scale, x, scale)
    same(triton.plan_dot, reference.channel_dot, x, dy)
    noises, biases = [None, noise, noise[:1]], [bias, None, bias]
    for act, some_noise, some_bias in zip(ACTS, noises, biases, strict=True):
        same(triton.plan_forward, reference.scale_noise_bias_act, x, scale, some_noise, some_bias, *act)
    for act, wanted in zip([*ACTS, ACTS[0]], WANTED, strict=True):
        same(triton.plan_grad, reference.scale_noise_bias_act_grad, dy, saved, x, scale, *act, *wanted)


def test_sums_over_many_pixels_are_split(device):
    assert triton.chunks(32, 8, 256, 16) == (256, 1)  # 32 samples, 512 channels in channels_last, 16² pixels
    chunk, parts = triton.chunks(4, 1, 256 * 256, 16)
    assert parts * chunk >= 256 * 256
    assert parts == 256
    assert chunk % 16 == 0
