"""OpCases of channel_scale, channel_dot and scale_noise_bias_act."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import channel_scale, scale_noise_bias_act
from fastgan.testing.case import FLOATS, HALVES, Cost, Inputs, Normal, OpCase, Shape

_ALL = {"reference": FLOATS + HALVES, "cpp": FLOATS, "triton": FLOATS + HALVES}
_EPILOGUE = ("scale_noise_bias_act", "scale_noise_bias_act_grad")


def modulated_cases() -> Iterator[OpCase]:
    """The cases, for CASES."""
    yield from _scale_cases()
    yield from _epilogue_cases()


# --- channel_scale -----------------------------------------------------------------------------------


def _scale_cases() -> Iterator[OpCase]:
    family = ("channel_scale", "channel_dot")
    for suffix, shape in (("", (2, 5, 3, 7)), ("_1d", (3, 5, 11))):
        yield OpCase(
            name=f"channel_scale{suffix or '-image'}",
            ops=family,
            make=_x_and_scale,
            call=channel_scale,
            plain=_scale_plain,
            shape=shape,
            curved=True,
            cost=_scale_cost,
            penalty_calls={"channel_scale": 5, "channel_dot": 2},
            dtypes=_ALL,
            core=not suffix,
            bench_shapes=((8, 256, 32, 32),) if not suffix else (),
        )


def _x_and_scale(normal: Normal, shape: Shape) -> Inputs:
    return normal(*shape), normal(*shape[:2])


def _scale_plain(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.to(x.dtype).view(*x.shape[:2], *[1] * (x.dim() - 2))


def _scale_cost(inputs: Inputs) -> dict[str, Cost]:
    size = inputs[0].numel() * inputs[0].element_size()
    return {"forward": Cost(2 * size, inputs[0].numel()), "backward": Cost(3 * size, 3 * inputs[0].numel())}


# --- the epilogue ----------------------------------------------------------------------------------------------------


def _epilogue_cases() -> Iterator[OpCase]:
    image = (2, 5, 3, 7)
    variants: dict[str, tuple[Shape, int, dict[str, Any]]] = {
        "leaky_relu": (image, 2, {}),
        "leaky_relu_clamp_one_noise": (image, 1, {"gain": 1.25, "clamp": 1.5}),
        "linear": (image, 2, {"act": "linear", "gain": 0.5}),
        "leaky_relu_1d": ((3, 5, 11), 3, {"clamp": 1.75}),
    }
    for name, (shape, noises, options) in variants.items():
        make = functools.partial(_epilogue_inputs, noises=noises)
        if "clamp" in options:
            make = functools.partial(_away_from_clamp, make=make, options=options)
        yield OpCase(
            name=f"scale_noise_bias_act-{name}",
            ops=_EPILOGUE,
            make=make,
            call=functools.partial(_epilogue, **options),
            plain=functools.partial(_epilogue_plain, **options),
            shape=shape,
            curved=True,
            cost=_epilogue_cost,
            penalty_calls={"scale_noise_bias_act": 2, "scale_noise_bias_act_grad": 4},
            dtypes=_ALL,
            core=name in ("leaky_relu", "leaky_relu_clamp_one_noise"),
            bench_shapes=((8, 256, 32, 32),) if name == "leaky_relu" else (),
        )


def _epilogue_inputs(normal: Normal, shape: Shape, noises: int) -> Inputs:
    n = shape[0] if noises > 1 else 1
    return normal(*shape), 1 + 0.5 * normal(*shape[:2]), normal(n, 1, *shape[2:]), normal(shape[1])


def _away_from_clamp(normal: Normal, shape: Shape, make: Callable[..., Inputs], options: dict[str, Any]) -> Inputs:
    # The slope of a value that rounds to the clamp is either, so that a test with such values would be random.
    x, scale, noise, bias = make(normal, shape)
    v = _epilogue_plain(x, scale, noise, bias, **{**options, "clamp": None}).abs()
    near = (v - options["clamp"]).abs() < 0.02 * options["clamp"]
    return torch.where(near, x + 0.25 / scale.view(*shape[:2], *[1] * (x.dim() - 2)), x), scale, noise, bias


def _epilogue(x: Tensor, scale: Tensor, noise: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return scale_noise_bias_act(x, scale, noise, bias, **options)


def _epilogue_plain(
    x: Tensor,
    scale: Tensor,
    noise: Tensor,
    bias: Tensor,
    act: str = "leaky_relu",
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Tensor:
    y = _scale_plain(x, scale) + noise.to(x.dtype) + bias.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
    y = (F.leaky_relu(y, 0.2) if act == "leaky_relu" else y) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _epilogue_cost(inputs: Inputs) -> dict[str, Cost]:
    size = inputs[0].numel() * inputs[0].element_size()
    return {"forward": Cost(2 * size, 6 * inputs[0].numel()), "backward": Cost(4 * size, 8 * inputs[0].numel())}
