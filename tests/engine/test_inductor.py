"""fastgan.compile with Inductor: whole steps equal eager ones, and no convolution runs over zeros."""

import copy

import pytest
import torch

import fastgan
from fastgan.testing.discriminator_steps import (
    STEPS,
    by_make_fx,
    distance,
    draws,
    returning,
    sngan_discriminator,
    wgan_gp,
)

#: (step, fused, capture) that run by default; the full run takes all.
DEFAULT = {("wgan-gp", True, "dynamo"), ("wgan-gp", False, "make_fx")}
CASES = [
    pytest.param(name, fused, capture, marks=[] if (name, fused, capture) in DEFAULT else pytest.mark.full)
    for name in STEPS
    for fused in (False, True)
    for capture in ("dynamo", "make_fx")
]
BF16 = [
    pytest.param(name, fused, marks=[] if (name, fused) == ("wgan-gp", True) else pytest.mark.full)
    for name in STEPS
    for fused in (False, True)
]


@pytest.mark.parametrize(("name", "fused", "capture"), CASES)
def test_steps_equal_eager_ones(name, fused, capture):
    loss, build, least, zeros = STEPS[name]
    network = build()
    network = fastgan.fuse(network) if fused else network
    other = copy.deepcopy(network)
    compiled = fastgan.compile(returning(network, loss))
    compiled = by_make_fx(compiled) if capture == "make_fx" else compiled
    eager, exact = returning(other, loss), returning(copy.deepcopy(network).double(), loss)
    with torch._inductor.config.patch(fx_graph_cache=False):
        for _ in range(3):
            given = draws()
            value, gradients = compiled(*given)
            want_value, want = eager(*given)
            truth = exact(*(x.double() for x in given))[1]
            # The compiled step may be as inexact as the eager one, or within 1e-6.
            assert distance(gradients, truth) <= max(2 * distance(want, truth), 1e-6)
            torch.testing.assert_close(value, want_value, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)  # singular vectors are updated alike
    expected = "make_fx" if capture == "make_fx" or torch.__version__ < "2.12" else "Dynamo"
    assert [how.split(" ")[0] for how in compiled.how] == [expected]
    assert compiled.passes.after == least
    assert compiled.passes.before == (least if fused else least + zeros)


@pytest.mark.parametrize(("name", "fused"), BF16)
def test_steps_in_bf16_are_as_exact_as_eager_ones(name, fused):
    loss, build, least, _ = STEPS[name]
    network = build()
    network = fastgan.fuse(network) if fused else network
    other, exact = copy.deepcopy(network), returning(copy.deepcopy(network).double(), loss)
    compiled = fastgan.compile(returning(network, loss, "bf16"))
    given = draws()
    with torch._inductor.config.patch(fx_graph_cache=False):
        gradients = compiled(*given)[1]
    want = returning(other, loss, "bf16")(*given)[1]
    truth = exact(*(x.double() for x in given))[1]
    assert all(g.dtype == torch.float32 for g in gradients if g is not None)
    assert distance(want, truth) > 1e-4  # it was in bf16
    assert distance(gradients, truth) <= 2 * distance(want, truth)
    assert compiled.passes.after == least


def test_explain_counts_passes_and_restores_the_state():
    network = sngan_discriminator()
    before = copy.deepcopy(network.state_dict())
    given = draws()
    found = fastgan.explain(returning(network, wgan_gp), *given)
    assert (found.passes_eager, found.passes_before, found.passes_after) == (21, 21, 18)
    assert found.launches is None
    assert found.nodes > 18
    assert found.eager_ms > 0
    assert "21 eagerly, 21 captured, 18 after removing zeros" in str(found)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
