"""OpCases of filtered_lrelu."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import filtered_lrelu
from fastgan.testing.case import FLOATS, HALVES, Cost, Inputs, Normal, OpCase, Shape


def filtered_cases() -> Iterator[OpCase]:
    """The cases, for CASES."""
    variants: dict[str, dict[str, Any]] = {
        "up2": {"taps": (12, 12), "up": 2, "down": 2, "padding": (11, 10, 11, 10)},
        "up4_clamp": {"taps": (24, 12), "up": 4, "down": 2, "padding": (17, 16, 17, 16), "clamp": 1.5, "gain": 1.25},
        "radial": {"taps": (6, 5), "radial": True, "up": 2, "down": (2, 3), "padding": (5, 4, 6, 5)},
        "identity": {"taps": (0, 0), "up": 1, "down": 1, "padding": 0},
    }
    for name, options in variants.items():
        yield OpCase(
            name=f"filtered_lrelu-{name}",
            ops=("filtered_lrelu", "filtered_lrelu_linear"),
            make=_x_and_bias,
            call=functools.partial(_call, **options),
            plain=functools.partial(_plain, **options),
            shape=(2, 3, 5, 7),
            curved=False,
            cost=_cost,
            penalty_calls={"filtered_lrelu": 2, "filtered_lrelu_linear": 3},
            dtypes={"reference": FLOATS + HALVES, "cpp": FLOATS, "triton": (torch.float32, *HALVES)},
            terms=4,  # a filter along each axis, before and after
            tiled=("triton",),
            library=True,
            core=name in ("up2", "up4_clamp"),
            bench_shapes=((8, 64, 36, 36),) if name in ("up2", "up4_clamp") else (),
        )


def _x_and_bias(normal: Normal, shape: Shape) -> Inputs:
    return normal(*shape), normal(shape[1])


def _taps(taps: int) -> list[float]:
    # Asymmetric, so that a filter that is flipped the wrong way shows.
    f = [math.sin(math.pi * (i + 1) / (taps + 1)) ** 2 * (0.5 + i / (taps - 1)) for i in range(taps)]
    return [value / sum(f) for value in f]


def _filters(x: Tensor, taps: tuple[int, int], radial: bool) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for count in taps:
        # Made in each call: a tensor from outside is no input of a graph.
        f = torch.tensor(_taps(count), dtype=torch.float32, device=x.device) if count else None
        found.append(f if f is None or not radial else f[:, None] * f.flip(0)[None] * 1.25)
    return found


def _call(x: Tensor, bias: Tensor, taps: tuple[int, int], radial: bool = False, **options: Any) -> Tensor:
    return filtered_lrelu(x, bias, *_filters(x, taps, radial), **options)


def _plain(
    x: Tensor,
    bias: Tensor,
    taps: tuple[int, int],
    up: int,
    down: int | tuple[int, int],
    padding: int | tuple[int, ...],
    radial: bool = False,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    first, second = _filters(x, taps, radial)
    c = x.shape[1]
    dy, dx = (down, down) if isinstance(down, int) else down
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    u = x + bias.to(x.dtype).view(1, -1, 1, 1)
    if first is not None:
        # A transposed convolution inserts the zeros; its output is cropped or padded to the given padding.
        kernel = _square(first.to(x.dtype)).expand(c, 1, -1, -1) * up**2
        kh, kw = kernel.shape[2:]
        u = F.conv_transpose2d(u, kernel, stride=up, groups=c)
        edges = (left - kw + 1, right - kw + up, top - kh + 1, bottom - kh + up)
        u = F.pad(u, edges)
    u = F.leaky_relu(u, 0.2) * gain
    if clamp is not None:
        u = u.clamp(-clamp, clamp)
    if second is not None:
        u = F.conv2d(u, _square(second.to(x.dtype)).flip(0, 1).expand(c, 1, -1, -1), groups=c)
    return u[:, :, ::dy, ::dx]


def _square(f: Tensor) -> Tensor:
    return f.outer(f) if f.dim() == 1 else f


def _cost(inputs: Inputs) -> dict[str, Cost]:
    size, samples = inputs[0].numel() * inputs[0].element_size(), inputs[0].numel()
    return {"forward": Cost(2 * size, 100 * samples), "backward": Cost(2 * size, 100 * samples)}
