"""Convolutions along a line, for audio and series: images one pixel high, so that there is one gradient family."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgan.ops._check import bad
from fastgan.ops.conv.register import conv2d, conv_transpose2d


def conv1d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """One-dimensional convolution without bias, whose gradients of every order run no wasted pass.

    x: [N, C, L] floating. weight: [K, C/groups, R] in x's dtype. stride, padding, dilation: a number or a sequence of
    one. Returns [N, K, P]. Under autocast both are cast to its dtype. The bias belongs into the `bias_act` that
    follows. A backward pass computes only the gradients that are asked for.

    Raises TypeError or ValueError naming the argument.
    """
    options = {
        "stride": _beside(stride, "stride", 1),
        "padding": _beside(padding, "padding", 0),
        "dilation": _beside(dilation, "dilation", 1),
    }
    return conv2d(_image(x, "x"), _image(weight, "weight"), **options, groups=groups).squeeze(2)


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """One-dimensional transposed convolution without bias: the input gradient of `conv1d` as a forward pass.

    x: [N, K, P] floating. weight: [K, C/groups, R] in x's dtype. Returns [N, C, L] with
    L = (P − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1. The rest as for `conv1d`.
    """
    options = {
        "stride": _beside(stride, "stride", 1),
        "padding": _beside(padding, "padding", 0),
        "output_padding": _beside(output_padding, "output_padding", 0),
        "dilation": _beside(dilation, "dilation", 1),
    }
    return conv_transpose2d(_image(x, "x"), _image(weight, "weight"), **options, groups=groups).squeeze(2)


def _image(line: Tensor, name: str) -> Tensor:
    if line.dim() != 3:
        raise bad(name, "[N, C, L]" if name == "x" else "[K, C/groups, R]", list(line.shape))
    return line.unsqueeze(2)


def _beside(value: int | Sequence[int], name: str, upright: int) -> list[int]:
    """(what the one pixel of height needs, value); ValueError where value is not one number."""
    numbers = [value] if isinstance(value, int) else list(value)
    if len(numbers) != 1:
        raise bad(name, "a whole number, or one in a sequence", value)
    return [upright, *numbers]
