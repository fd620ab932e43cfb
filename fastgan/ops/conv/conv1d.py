"""One-dimensional convolutions, as two-dimensional ones on images one pixel high: the gradient family is the same."""

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
    """One-dimensional convolution without bias. Its gradients of every order compute nothing that is not used.

    x: [N, C, L] floating. weight: [K, C/groups, R] in x's dtype. stride, padding, dilation: a number or a sequence of
    one. Returns [N, K, P]. Under autocast both are cast to its dtype. Add the bias by the `bias_act` that
    follows. A backward pass computes only the gradients that are requested.

    Raises TypeError or ValueError naming the argument.
    """
    options = {
        "stride": _pair(stride, "stride", 1),
        "padding": _pair(padding, "padding", 0),
        "dilation": _pair(dilation, "dilation", 1),
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
        "stride": _pair(stride, "stride", 1),
        "padding": _pair(padding, "padding", 0),
        "output_padding": _pair(output_padding, "output_padding", 0),
        "dilation": _pair(dilation, "dilation", 1),
    }
    return conv_transpose2d(_image(x, "x"), _image(weight, "weight"), **options, groups=groups).squeeze(2)


def _image(x: Tensor, name: str) -> Tensor:
    if x.dim() != 3:
        raise bad(name, "[N, C, L]" if name == "x" else "[K, C/groups, R]", list(x.shape))
    return x.unsqueeze(2)


def _pair(value: int | Sequence[int], name: str, height: int) -> list[int]:
    """[height, value]: the option of both dimensions. Raises ValueError unless value is one number."""
    numbers = [value] if isinstance(value, int) else list(value)
    if len(numbers) != 1:
        raise bad(name, "a whole number, or one in a sequence", value)
    return [height, *numbers]
