"""Tolerances derived from data: the error of a kernel may be a factor times that of plain PyTorch at the same dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Deviation:
    """The difference of a tensor from the exact result, as vectors."""

    relative: float
    """‖result − truth‖ / ‖truth‖: detects a wrong formula."""
    turn: float
    """1 − cosine: detects a wrong direction."""
    bias: float
    """|mean(result − truth)| / rms(truth): detects a small error that always has the same sign."""


def deviation(result: Tensor, truth: Tensor) -> Deviation:
    """The deviation of a result from the exact one, computed in double."""
    a, t = result.detach().double().flatten().cpu(), truth.detach().double().flatten().cpu()
    size, length, error = t.norm().item(), a.norm().item(), a - t
    if size == 0:
        return Deviation(length, 0.0 if length == 0 else 1.0, error.mean().abs().item() if len(t) else 0.0)
    # From the difference of unit vectors: a dot product loses half the digits for nearly parallel vectors.
    turn = 1.0 if length == 0 else 0.5 * (a / length - t / size).norm().item() ** 2
    return Deviation(error.norm().item() / size, turn, error.mean().abs().item() * math.sqrt(len(t)) / size)


def assert_as_good_as(
    result: Tensor,
    plain_result: Tensor,
    truth: Tensor,
    factor: float = 2.0,
    *,
    terms: int = 1,
    what: str = "the result",
) -> None:
    """Fail unless result deviates from the float64 truth at most `factor` times as far as plain_result does.

    terms: how many numbers were added up into each element.
    """
    __tracebackhide__ = True
    assert result.shape == truth.shape, f"{what}: shape {list(result.shape)}, expected {list(truth.shape)}"
    assert truth.dtype == torch.float64, f"the truth must be float64, got {truth.dtype}"
    ours, plain = deviation(result, truth), deviation(plain_result, truth)
    # A minimum, because plain PyTorch is sometimes exact (relu does not round; in double it is the exact result).
    # Two ulp of the dtype: half an ulp for rounding the result once, the rest for the three or four operations of a
    # formula. In a pairwise sum of n terms each term passes about log2(n) additions.
    minimum = 2 * torch.finfo(result.dtype).eps * (1 + math.log2(max(1, terms)))
    limits = Deviation(
        max(minimum, factor * plain.relative),
        # `turn` is half the squared error; below the resolution of double it is noise.
        max(minimum**2, factor**2 * plain.turn, 1e-31),
        # Random errors of plain PyTorch's size have a mean of 1/√n of that size; up to three times that is accepted.
        max(minimum, factor * plain.bias, factor * plain.relative * 3 / math.sqrt(max(1, result.numel()))),
    )
    for name in ("relative", "turn", "bias"):
        got, limit = getattr(ours, name), getattr(limits, name)
        assert got <= limit, (
            f"{what}: {name} error {got:.3g}, allowed {limit:.3g} ({factor} × plain PyTorch's or minimum)"
        )
