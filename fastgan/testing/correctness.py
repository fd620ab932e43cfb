"""Compares an OpCase with plain PyTorch. Contract tests use it, and benchmarks check it before they time a case."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan.testing.case import Inputs, OpCase, cotangent, detached
from fastgan.testing.tolerances import assert_as_good_as


def gradients(function: Callable[..., Tensor], inputs: Inputs, dy: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output and the gradients of all inputs, for the cotangent dy."""
    y = function(*inputs)
    return y, torch.autograd.grad(y, inputs, dy.to(y.dtype))


def assert_correct(case: OpCase, inputs: Inputs) -> None:
    """Raises AssertionError unless output and first gradients are as exact as plain PyTorch's (see tolerances.py)."""
    __tracebackhide__ = True
    dy = cotangent(case.call(*inputs))
    y, ours = gradients(case.call, inputs, dy)
    plain_y, plain = gradients(case.plain, detached(inputs), dy)
    true_y, truth = gradients(case.plain, detached(inputs, torch.float64), dy)
    assert y.dtype == inputs[0].dtype, f"y: {y.dtype}, expected {inputs[0].dtype}"
    assert_as_good_as(y, plain_y, true_y, terms=case.terms, what="y")
    for i, leaf in enumerate(inputs):
        assert ours[i].dtype == leaf.dtype, f"the gradient of input {i}: {ours[i].dtype}, expected {leaf.dtype}"
        terms = max(case.terms, y.numel() if case.couples else y.numel() // max(1, leaf.numel()))
        assert_as_good_as(ours[i], plain[i], truth[i], terms=terms, what=f"the gradient of input {i}")
