"""The Triton kernels of bias_act and norm_penalty on sizes that the small cases of the contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import pytest
import torch

from fastgan._util import env
from fastgan.ops.bias_act import reference as bias_act_reference
from fastgan.ops.bias_act import triton as bias_act
from fastgan.ops.norm_penalty import reference as norm_reference
from fastgan.ops.norm_penalty import triton as norm_penalty
from fastgan.testing.tolerances import assert_as_good_as

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]
ACT = ("leaky_relu", 0.2, 1.5, 0.9)

# Several chunks of pixels with a rest; images smaller than a tile; more channels than a tile has columns.
SHAPES = [(2, 3, 90, 91), (3, 20, 3, 5), (2, 300, 2, 3), (5, 150)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_tiles_cover_any_shape(device, shape, layout):
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    b = torch.randn(shape[1], generator=generator).to(device)
    if x.dim() == 4:
        x, dy = (t.contiguous(memory_format=layout) for t in (x, dy))
    torch.testing.assert_close(bias_act.bias_act(x, b, *ACT), bias_act_reference.bias_act(x, b, *ACT))
    dx, db = bias_act.bias_act_grad(dy, x, None, *ACT, True)
    plain_dx, plain_db = bias_act_reference.bias_act_grad(dy, x, None, *ACT, True)
    true_db = bias_act_reference.bias_act_grad(dy.double(), x.double(), None, *ACT, True)[1]
    torch.testing.assert_close(dx, plain_dx)
    assert_as_good_as(db, plain_db, true_db, terms=x.numel() // shape[1], what="db")
    silu = ("silu", 0.0, 1.5, None)
    for ours, plain in zip(
        bias_act.bias_act_grad_grad(dy, x, x, b, *silu),
        bias_act_reference.bias_act_grad_grad(dy, x, x, b, *silu),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 1000, 65_536, 65_537, 70_001])
@pytest.mark.parametrize("distance", [None, 1.0])
def test_samples_of_one_chunk_and_of_several(device, size, distance):
    g = torch.randn(3, size, generator=torch.Generator().manual_seed(0)).to(device)
    g[1] = 0
    truth = norm_reference.norm_penalty(g.double(), distance)
    for ours, plain, true in zip(
        norm_penalty.norm_penalty(g, distance), norm_reference.norm_penalty(g, distance), truth, strict=True
    ):
        assert_as_good_as(ours, plain, true, terms=size)
    assert_as_good_as(
        norm_penalty.sample_dot(g, g.flip(0)),
        norm_reference.sample_dot(g, g.flip(0)),
        norm_reference.sample_dot(g.double(), g.flip(0).double()),
        terms=size,
    )


def test_samples_without_elements(device):
    empty = torch.empty(2, 0, device=device)
    assert norm_penalty.sample_dot(empty, empty).tolist() == [0, 0]
    assert [t.tolist() for t in norm_penalty.norm_penalty(empty, 1.0)] == [[1, 1], [0, 0], [0, 0]]
