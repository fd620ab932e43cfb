"""OpCases of upfirdn2d."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import upfirdn2d
from fastgan.testing.case import FLOATS, HALVES, Cost, Inputs, Normal, OpCase, Shape

# Not symmetric, so that a wrong flip shows.
_TAPS = (0.125, 0.375, 0.3125, 0.1875)
_SQUARE = ((0.125, -0.25, 0.5), (0.25, 0.375, 0.0625))


def upfirdn_cases() -> Iterator[OpCase]:
    """The cases, for CASES."""
    variants: dict[str, dict[str, Any]] = {
        "up": {"filter": _TAPS, "up": 2, "padding": (2, 1, 2, 1), "gain": 4.0},
        "down": {"filter": _TAPS, "down": 2, "padding": 1},
        "up_down": {"filter": _SQUARE, "up": (3, 2), "down": (2, 3), "padding": (3, 1, 2, 4), "flip": True},
        "crop": {"filter": _TAPS, "padding": (-1, 3, 4, -2), "gain": 0.5},
    }
    for name, options in variants.items():
        yield OpCase(
            name=f"upfirdn2d-{name}",
            ops=("upfirdn2d",),
            make=_image,
            call=functools.partial(_call, **options),
            plain=functools.partial(_plain, **options),
            shape=(2, 3, 9, 7),
            curved=False,
            cost=functools.partial(_cost, options=options),
            penalty_calls={"upfirdn2d": 5},
            mixed=False,
            library=True,
            unrolled=True,
            least_pixels=4,
            core=name in ("up", "down"),
            dtypes={"reference": FLOATS + HALVES, "cpp": FLOATS, "triton": FLOATS + HALVES},
            bench_shapes=((8, 64, 64, 64), (8, 32, 256, 256)) if name in ("up", "down") else (),
        )


def _image(normal: Normal, shape: Shape) -> Inputs:
    return (normal(*shape),)


def _call(x: Tensor, filter: Any, **options: Any) -> Tensor:
    return upfirdn2d(x, torch.tensor(filter, dtype=torch.float32, device=x.device), **options)


def _plain(
    x: Tensor, filter: Any, up: Any = 1, down: Any = 1, padding: Any = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    f = torch.tensor(filter, dtype=torch.float32, device=x.device).to(x.dtype)
    f = torch.outer(f, f) if f.dim() == 1 else f
    (uy, ux), (dy, dx) = ((v, v) if isinstance(v, int) else v for v in (up, down))
    top, bottom, left, right = (padding,) * 4 if isinstance(padding, int) else padding
    n, c, h, w = x.shape
    y = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    y = F.pad(y, (left, right, top, bottom))
    f = (f if flip else f.flip(0, 1)) * gain
    return F.conv2d(y, f.expand(c, 1, *f.shape), stride=(dy, dx), groups=c)


def _cost(inputs: Inputs, options: dict[str, Any]) -> dict[str, Cost]:
    x = inputs[0].detach()
    written = _call(x[:1, :1].cpu(), **options).numel() * x.shape[0] * x.shape[1]
    work = Cost((x.numel() + written) * x.element_size(), 2 * len(options["filter"]) * max(written, x.numel()))
    return {"forward": work, "backward": work}
