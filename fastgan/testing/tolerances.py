"""Tolerances by rule: a kernel may be as wrong as plain PyTorch is, times a factor, and no epsilon is tuned by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from the truth, judged as a vector."""

    relative: float
    """‖result − truth‖ / ‖truth‖: a wrong formula."""
    turn: float
    """1 − cosine: a wrong direction, whatever the length."""
    bias: float
    """|mean(result − truth)| / rms(truth): a small error that always points the same way."""


def deviation(result: Tensor, truth: Tensor) -> Deviation:
    """Computed in double."""
    a, t = result.detach().double().flatten().cpu(), truth.detach().double().flatten().cpu()
    size, length, error = t.norm().item(), a.norm().item(), a - t
    if size == 0:
        return Deviation(length, 0.0 if length == 0 else 1.0, error.mean().abs().item() if len(t) else 0.0)
    # By lengths and not by products, which lose half the digits where the two are nearly parallel.
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
    # A floor, because plain PyTorch is sometimes exact by luck (relu rounds nothing; in double it is its own truth).
    # Two ulp of the dtype: half an ulp for rounding the result once, the rest for the three or four operations of a
    # formula. A sum of n terms passes about log2(n) additions where it is done in pairs.
    floor = 2 * torch.finfo(result.dtype).eps * (1 + math.log2(max(1, terms)))
    limits = Deviation(
        max(floor, factor * plain.relative),
        # The turn is half the squared error; below the resolution of the double in which it is computed it is noise.
        max(floor**2, factor**2 * plain.turn, 1e-31),
        # Errors of plain PyTorch's size that point anywhere have a mean of 1/√n of it; three times that may be chance.
        max(floor, factor * plain.bias, factor * plain.relative * 3 / math.sqrt(max(1, result.numel()))),
    )
    for name in ("relative", "turn", "bias"):
        got, limit = getattr(ours, name), getattr(limits, name)
        assert got <= limit, (
            f"{what}: {name} error {got:.3g}, allowed {limit:.3g} ({factor} × plain PyTorch's or floor)"
        )
