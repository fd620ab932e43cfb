"""The contract of every op: numbers, for each OpCase on every target of this process.

The other half is in test_contract_memory.py and test_contract_graph.py. A new op needs
only an OpCase in fastgan/testing/cases.py.
"""

import math

import pytest
import torch

from fastgan._util import env
from fastgan.ops import _backend
from fastgan.testing.case import HALVES, cotangent, detached
from fastgan.testing.cases import CASES
from fastgan.testing.correctness import assert_correct, gradients
from fastgan.testing.penalty_network import discriminator_weights, penalty
from fastgan.testing.targets import grid

CURVED = [case for case in CASES if case.curved]
MIXED = [case for case in CASES if case.mixed]
# Finite differences call an op hundreds of times; Triton's interpreter takes milliseconds for each.
INTERPRETED = env.flag("TRITON_INTERPRET")


@pytest.mark.parametrize(("case", "target", "dtype"), grid(), ids=str)
def test_forward_and_gradients(case, target, dtype):
    for memory_format in case.memory_formats:
        assert_correct(case, case.inputs(dtype, target.device, memory_format))


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float32]), ids=str)
def test_forward_and_gradients_of_more_than_one_block(case, target, dtype):
    # Long enough for several partial sums along the pixels and along the images.
    # A program of a convolution sums fewer elements, and takes longer to interpret.
    elements = 96_000
    if INTERPRETED:
        elements = 5_000 if case.unrolled else 24_000 if case.library else elements
    images = elements // math.prod(case.sized(1, pixels=40))
    for memory_format in case.memory_formats:
        assert_correct(case, case.inputs(dtype, target.device, memory_format, shape=case.sized(images, pixels=40)))


@pytest.mark.parametrize(("case", "target", "dtype"), grid(HALVES, MIXED), ids=str)
def test_float32_parameters_with_half_activations(case, target, dtype):
    inputs = case.inputs(dtype, target.device, parameter_dtype=torch.float32)
    if len(inputs) > 1:
        assert_correct(case, inputs)


def tiny(case, target):
    images = 1 if INTERPRETED else 2
    return case.inputs(torch.float64, target.device, case.memory_formats[-1], shape=case.sized(images, pixels=2))


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64]), ids=str)
def test_gradcheck(case, target, dtype):
    torch.autograd.gradcheck(case.call, tiny(case, target), fast_mode=INTERPRETED)


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64]), ids=str)
def test_gradgradcheck(case, target, dtype):
    torch.autograd.gradgradcheck(case.call, tiny(case, target), fast_mode=INTERPRETED)


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64], CURVED), ids=str)
def test_third_order(case, target, dtype):
    inputs = tiny(case, target)
    dy = cotangent(case.call(*inputs))

    def gradient(*leaves):
        return torch.autograd.grad(case.call(*leaves), leaves, dy, create_graph=True)

    torch.autograd.gradgradcheck(gradient, inputs, fast_mode=INTERPRETED)


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64]), ids=str)
def test_penalty_through_two_stacked_ops(case, target, dtype):
    x, *first = case.inputs(dtype, target.device)
    second = case.inputs(dtype, target.device, seed=3)[1:]
    leaves = [x, *first, *second, *discriminator_weights(case, case.call(x, *first), x)]
    found = []
    for function in (case.call, case.plain):
        own = detached(leaves)
        at = 1 + len(first)
        value = penalty(function, own[0], [own[1:at], own[at : at + len(second)]], own[at + len(second) :])
        value.backward()
        # A derivative that is zero almost everywhere is None here and zeros in plain PyTorch.
        found.append([value.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in own)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)


# Triton's interpreter uses NumPy, which warns.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float32]), ids=str)
def test_nan_infinity_and_extreme_values_give_the_results_of_the_reference(case, target, dtype, monkeypatch):
    inputs = case.inputs(dtype, target.device)
    special = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 30.0, -30.0, 88.0, -88.0, 1e4, -1e4]
    with torch.no_grad():
        inputs[0].view(-1)[3 : 3 + len(special)] = torch.tensor(special)
    dy = cotangent(case.call(*inputs))
    dy.view(-1)[-4:] = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e30])
    y, ours = gradients(case.call, inputs, dy)
    monkeypatch.setattr(_backend, "forced", "reference")
    expected_y, expected = gradients(case.call, detached(inputs), dy)
    for got, want in zip([y, *ours], [expected_y, *expected], strict=True):
        if target.backend in case.tiled:
            # Of a tile with a NaN only that it is not missed: its slopes are those of NaN, too.
            assert not (got.isfinite() & ~want.isfinite()).any()
            clean = y.isfinite().flatten(2).all(2)
            got, want = (t[clean] if t.dim() == 4 else t[clean.all(0)] for t in (got, want))
            got = torch.where(got.isfinite(), got, want)
            assert got.numel()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.bfloat16], MIXED), ids=str)
def test_autocast(case, target, dtype):
    # As after an autocast convolution: a bfloat16 activation and float32 parameters.
    inputs = case.inputs(dtype, target.device, parameter_dtype=torch.float32)
    dy = cotangent(case.call(*inputs))
    with torch.autocast(target.device, torch.bfloat16):
        y = case.call(*inputs)
    outside, expected = gradients(case.call, detached(inputs), dy)
    assert torch.equal(y, outside)
    for leaf, got, want in zip(inputs, torch.autograd.grad(y, inputs, dy), expected, strict=True):
        assert got.dtype == leaf.dtype
        assert torch.equal(got, want)
