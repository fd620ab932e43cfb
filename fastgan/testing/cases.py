"""CASES: the operations that the contract tests and the benchmark run. A test fails for an op without a case."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import (
    ACTIVATIONS,
    ConvLayer,
    bias_act,
    conv2d,
    conv2d_bias_act,
    conv2d_stack,
    conv_transpose2d,
    norm_penalty,
    power_iteration,
    spectral_normalize,
    spectral_scale,
)
from fastgan.testing.case import FLOATS, HALVES, Cost, Inputs, Normal, OpCase, Shape
from fastgan.testing.filtered_cases import filtered_cases
from fastgan.testing.instance_norm_cases import instance_norm_cases
from fastgan.testing.modulated_cases import modulated_cases
from fastgan.testing.upfirdn_cases import upfirdn_cases

__all__ = ["CASES", "OpCase"]


# --- bias_act --------------------------------------------------------------------------------------------------------

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda p: p,
    "relu": F.relu,
    "leaky_relu": functools.partial(F.leaky_relu, negative_slope=0.2),
    "tanh": F.tanh,
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    # With PyTorch's default threshold it is linear from 20 on, an error of 2e-9, which tests in double detect.
    "softplus": functools.partial(F.softplus, threshold=1000.0),
    "elu": functools.partial(F.elu, alpha=0.2),
}

# Floating-point operations per element, an exponential counted as 16.
_FLOPS = {"linear": 2, "relu": 3, "leaky_relu": 4, "tanh": 24, "sigmoid": 20, "silu": 24, "softplus": 36, "elu": 20}

_BENCH = {
    "leaky_relu": ((32, 128, 32, 32), (32, 64, 64, 64), (64, 512, 4, 4)),
    "leaky_relu_2d": ((64, 8192),),
}


_Options = dict[str, Any]


def _x_and_bias(normal: Normal, shape: Shape) -> Inputs:
    return normal(*shape), normal(shape[1])


def _x_alone(normal: Normal, shape: Shape) -> Inputs:
    return (normal(*shape),)


def _bias_act_plain(
    x: Tensor, bias: Tensor | None = None, *, act: str, gain: float = 1.0, clamp: float | None = None
) -> Tensor:
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
    y = _PLAIN[act](x)
    if gain != 1:
        y = y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _away_from_clamp(normal: Normal, shape: Shape, make: Callable[..., Inputs], act: str, options: _Options) -> Inputs:
    # A value that rounds to the clamp has slope 0 in our op and 1 in plain PyTorch, and the exact slope may be either,
    # so that a test in half precision with such values would be random.
    x, *parameters = make(normal, shape)
    clamp = options["clamp"]
    v = _bias_act_plain(x, *parameters, act=act, gain=options.get("gain", 1.0)).abs()
    return torch.where((v - clamp).abs() < 0.02 * clamp, x + 0.25, x), *parameters


def _bias_act_cost(act: str, inputs: Inputs) -> dict[str, Cost]:
    x, *parameters = inputs
    size, flops = x.numel() * x.element_size(), x.numel() * _FLOPS[act]
    bias = sum(p.numel() * p.element_size() for p in parameters)
    return {"forward": Cost(2 * size + bias, flops), "backward": Cost(3 * size + bias, flops)}


def _bias_act_cases() -> Iterator[OpCase]:
    image, row = (2, 5, 3, 7), (6, 11)
    variants: dict[str, tuple[Shape, Callable[..., Inputs], _Options]] = {
        "": (image, _x_and_bias, {}),
        "_gain_clamp": (image, _x_and_bias, {"gain": math.sqrt(2), "clamp": 0.75}),
        "_no_bias": (image, _x_alone, {"gain": 0.5}),
        "_2d": (row, _x_and_bias, {"clamp": 1.25}),
    }
    for act, activation in ACTIVATIONS.items():
        curved = not activation.piecewise_linear
        # The slope of the last op is computed twice, unless it is a function of the input or a constant: then nothing
        # depends on the output.
        calls = {"bias_act": 2, "bias_act_grad": 4 if activation.saves == "output" else 3}
        if curved:
            calls["bias_act_grad_grad"] = 2
        for variant, (shape, make, options) in variants.items():
            name = act + variant
            counts = calls
            if act == "linear" and "clamp" not in options:
                # A constant slope does not need the output; a slope of 1 needs no op at all.
                counts = {"bias_act": 2, "bias_act_grad": 3} if "gain" in options else {"bias_act": 2}
            if "clamp" in options:
                make = functools.partial(_away_from_clamp, make=make, act=act, options=options)
            yield OpCase(
                name=f"bias_act-{name}",
                ops=tuple(counts),
                make=make,
                call=functools.partial(bias_act, act=act, **options),
                plain=functools.partial(_bias_act_plain, act=act, **options),
                shape=shape,
                curved=curved,
                cost=functools.partial(_bias_act_cost, act),
                penalty_calls=counts,
                core=variant == "_gain_clamp" or act in ("leaky_relu", "silu"),
                bench_shapes=_BENCH.get(name, () if variant else ((32, 128, 32, 32),)),
                dtypes={"reference": FLOATS + HALVES, "cpp": FLOATS, "triton": FLOATS + HALVES},
            )


# --- convolutions ----------------------------------------------------------------------------------------------------


_CONV_DTYPES = {
    "reference": (*FLOATS, torch.bfloat16),  # plain PyTorch's backward pass on the CPU takes no float16
    "cpp": FLOATS,
    "triton": (*FLOATS, torch.bfloat16),
}


def _conv_cases() -> Iterator[OpCase]:
    # name: shape of x, output channels, kernel, options; odd sizes, so that strides leave a rest.
    variants: dict[str, tuple[Shape, int, int, _Options]] = {
        "3x3": ((2, 4, 5, 7), 4, 3, {"padding": 1}),
        "4x4_stride2": ((2, 3, 7, 6), 5, 4, {"stride": 2, "padding": 1}),
        "1x1": ((3, 4, 3, 5), 6, 1, {}),
        "first_4x4_stride2": ((2, 3, 11, 14), 32, 4, {"stride": 2, "padding": 1}),
        "first_3x3_stride1x3": ((2, 1, 9, 13), 16, 3, {"stride": (1, 3), "padding": 1}),
        "groups_dilation": ((5, 4, 8, 7), 6, 3, {"padding": (2, 3), "dilation": (2, 3), "groups": 2, "stride": (1, 2)}),
    }
    for name, (shape, out, kernel, options) in variants.items():
        groups = options.get("groups", 1)
        # The Triton kernels take one group; blocks test 1×1; first layers are not special in Triton.
        core = groups == 1 and kernel > 1 and not name.startswith("first")
        forward = functools.partial(_x_and_weight, size=(out, shape[1] // groups, kernel, kernel))
        backward = functools.partial(_x_and_weight, size=(shape[1], out // groups, kernel, kernel))
        yield _conv_case(f"conv2d-{name}", forward, conv2d, F.conv2d, shape, options, core)
        yield _conv_case(
            f"conv_transpose2d-{name}", backward, conv_transpose2d, F.conv_transpose2d, shape, options, core
        )
    # The last layer of a generator, and the input gradient of a discriminator's first layer, which penalties compute.
    name, options = "conv_transpose2d-to_image", {"stride": 2, "padding": 1}
    case = _conv_case(name, _to_image, conv_transpose2d, F.conv_transpose2d, (2, 16, 5, 7), options, core=False)
    yield dataclasses.replace(case, bench_shapes=((32, 64, 32, 32),))


def _to_image(normal: Normal, shape: Shape) -> Inputs:
    return _x_and_weight(normal, shape, (shape[1], 3, 4, 4))


def _conv_case(
    name: str, make: Callable[..., Inputs], ours: Any, plain: Any, shape: Shape, options: _Options, core: bool
) -> OpCase:
    forward, backward = ("conv", "conv_dgrad") if ours is conv2d else ("conv_dgrad", "conv")
    return OpCase(
        name=name,
        ops=("conv", "conv_dgrad", "conv_wgrad", "conv_backward", "conv_dgrad_backward"),
        make=make,
        call=functools.partial(ours, **options),
        plain=functools.partial(plain, **options),
        shape=shape,
        curved=False,
        cost=_no_cost,
        # Forward and input gradient of both layers, the tangent through the first (nothing depends on it after the
        # second), and one weight gradient each.
        penalty_calls={forward: 3, backward: 2, "conv_wgrad": 2},
        dtypes=_CONV_DTYPES,
        mixed=False,
        library=True,
        least_pixels=2 if options.get("stride") == 2 else 1,
        core=core,
    )


def _x_and_weight(normal: Normal, shape: Shape, size: Shape) -> Inputs:
    return normal(*shape), normal(*size) / math.prod(size[1:]) ** 0.5


def _no_cost(inputs: Inputs) -> dict[str, Cost]:
    return {}  # PyTorch's own convolution: not timed as an op


# --- blocks ----------------------------------------------------------------------------------------------------------


def _block_cases() -> Iterator[OpCase]:
    three, four = {"padding": 1}, {"stride": 2, "padding": 1}
    leaky, halved = {"act": "leaky_relu"}, {"act": "relu", "gain": 0.5, "clamp": 0.75}
    # As for convolutions, with a tangent through both: bias_act_grad comes after the second.
    single = {"conv_bias_act": 2, "bias_act_grad": 4, "conv_dgrad": 2, "conv": 2, "conv_wgrad": 2}
    plain = {"conv_bias_act": 2, "conv_dgrad": 2, "conv": 1, "conv_wgrad": 2}
    curved = {**single, "bias_act_grad_grad": 2, "conv_dgrad": 4, "conv_wgrad": 4}
    yield _block_case("leaky_relu_3x3", (2, 4, 5, 7), (4, 4, 3, 3), leaky | three, single)
    yield _block_case("leaky_relu_4x4_stride2", (2, 3, 7, 6), (5, 3, 4, 4), leaky | four, single, least_pixels=2)
    yield _block_case("relu_gain_clamp_1x1", (3, 4, 3, 5), (6, 4, 1, 1), halved, single)
    yield _block_case("linear_3x3", (2, 4, 5, 7), (4, 4, 3, 3), {"act": "linear"} | three, plain)
    yield _block_case("tanh_3x3", (2, 4, 5, 7), (4, 4, 3, 3), {"act": "tanh"} | three, curved, core=False)
    stack = {"conv_stack": 2, "conv_stack_dgrad": 2, "conv_stack_tangent": 2, "conv_stack_wgrad": 2}
    yield OpCase(
        name="conv2d_stack-leaky_relu",
        ops=(*stack, "conv_stack_backward"),
        make=_two_layers,
        call=_stack,
        plain=_stack_plain,
        shape=(2, 3, 6, 7),
        curved=False,
        cost=_no_cost,
        penalty_calls=stack,
        dtypes=_CONV_DTYPES,
        mixed=False,
        library=True,
    )


def _block_case(
    name: str, shape: Shape, weight: Shape, options: _Options, calls: dict[str, int], **more: Any
) -> OpCase:
    # Two gradients at once where both are wanted; only the tangent of the last linear layer is not.
    joint = ["conv_backward", "conv_dgrad_backward", *["conv_wgrad"] * (options["act"] == "linear")]
    return OpCase(
        name=f"conv2d_bias_act-{name}",
        ops=(*(op for op in calls if op not in ("conv", "conv_wgrad")), *joint),
        make=functools.partial(_x_weight_bias, size=weight),
        call=functools.partial(conv2d_bias_act, **options),
        plain=functools.partial(_block_plain, **options),
        shape=shape,
        curved="bias_act_grad_grad" in calls,
        cost=_no_cost,
        penalty_calls=calls,
        dtypes=_CONV_DTYPES,
        mixed=False,
        library=True,
        **more,
    )


def _x_weight_bias(normal: Normal, shape: Shape, size: Shape) -> Inputs:
    return *_x_and_weight(normal, shape, size), normal(size[0])


def _block_plain(
    x: Tensor, w: Tensor, b: Tensor, *, act: str, stride: int = 1, padding: int = 0, **options: Any
) -> Tensor:
    return _bias_act_plain(F.conv2d(x, w, b, stride, padding), act=act, **options)


def _two_layers(normal: Normal, shape: Shape) -> Inputs:
    first = _x_weight_bias(normal, shape, (5, shape[1], 3, 3))
    return *first, *_x_and_weight(normal, (1,), (4, 5, 1, 1))[1:], normal(4)


def _stack(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return conv2d_stack(x, [ConvLayer(w1, b1, padding=1), ConvLayer(w2, b2, stride=1)], gain=1.5)


def _stack_plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    x = 1.5 * F.leaky_relu(F.conv2d(x, w1, b1, padding=1), 0.2)
    return 1.5 * F.leaky_relu(F.conv2d(x, w2, b2), 0.2)


# --- spectral normalization ------------------------------------------------------------------------------------------


def _spectral_cases() -> Iterator[OpCase]:
    # dims of the group, shape of x, and shapes of the other weights.
    groups: dict[str, tuple[list[int], Shape, list[Shape]]] = {
        "convolution": ([0], (6, 5, 4, 3), []),
        "transposed": ([1], (6, 5, 4, 3), []),
        "group": ([0, 1, 0], (9, 4, 3, 3), [(8, 5, 2, 6), (11, 12)]),
    }
    uses = {
        "spectral_norm": (_spectral_norm, {"power_iteration": 2, "spectral_scale": 2, "spectral_scale_grad": 3}),
        "spectral_normalize": (_spectral_normalize, {"spectral_normalize": 2, "spectral_scale_grad": 3}),
    }
    for (use, (call, calls)), (name, (dims, shape, others)) in itertools.product(uses.items(), groups.items()):
        yield OpCase(
            name=f"{use}-{name}",
            ops=tuple(calls),
            make=functools.partial(_weights, dims=dims, others=others),
            call=functools.partial(call, dims=dims),
            plain=functools.partial(_spectral_norm_plain, dims=dims),
            shape=shape,
            curved=True,
            cost=_no_cost,
            penalty_calls=calls,
            dtypes={"reference": FLOATS, "cpp": FLOATS, "cuda": FLOATS, "triton": FLOATS},
            mixed=False,
            couples=True,
            least_images=1,
            core=name == "group",
        )


def _vectors(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Unit vectors u and v that depend only on the shape, so that finite differences treat them as constants."""
    rows = weight.shape[dim]
    found = []
    for size in (rows, weight.numel() // rows):
        wave = torch.cos(torch.arange(size, dtype=torch.float64, device=weight.device) + 0.3)
        found.append((wave / wave.norm()).to(weight.dtype))
    return found[0], found[1]


def _weights(normal: Normal, shape: Shape, dims: list[int], others: list[Shape]) -> Inputs:
    weights = []
    for size, dim in zip([shape, *others], dims, strict=True):
        w = normal(*size)
        u, v = _vectors(w, dim)
        # A large singular value for these vectors, without which sigma could be near zero.
        rest = [n for d, n in enumerate(size) if d != dim]
        weights.append(w + 8 * torch.outer(u, v).view(size[dim], *rest).movedim(0, dim))
    return tuple(weights)


def _spectral_norm(*weights: Tensor, dims: list[int]) -> Tensor:
    uv, sigma = power_iteration(list(weights), _flat_vectors(weights, dims), dims, iterations=0)
    x, *others = spectral_scale(list(weights), uv, sigma, dims)
    return _with_one_of(x, others)


def _spectral_normalize(*weights: Tensor, dims: list[int]) -> Tensor:
    (x, *others), _, _ = spectral_normalize(list(weights), _flat_vectors(weights, dims), dims, iterations=0)
    return _with_one_of(x, others)


def _flat_vectors(weights: tuple[Tensor, ...], dims: list[int]) -> Tensor:
    return torch.cat([part for w, dim in zip(weights, dims, strict=True) for part in _vectors(w, dim)])


def _spectral_norm_plain(*weights: Tensor, dims: list[int]) -> Tensor:
    scaled = []
    for w, dim in zip(weights, dims, strict=True):
        u, v = _vectors(w, dim)
        scaled.append(w / torch.dot(u, torch.mv(w.movedim(dim, 0).flatten(1), v)))
    return _with_one_of(scaled[0], scaled[1:])


def _with_one_of(x: Tensor, others: list[Tensor]) -> Tensor:
    # One element of each is added to an element of x: PyTorch's sums would depend on the number of threads.
    for other in others:
        x = x + F.pad(other.flatten()[1:2], (0, x.numel() - 1)).view(x.shape)
    return x


# --- penalties -------------------------------------------------------------------------------------------------------


def _penalty_cases() -> Iterator[OpCase]:
    for name, target in (("target", 1.5), ("square", None)):
        yield OpCase(
            name=f"norm_penalty-{name}",
            ops=("norm_penalty", "sample_scale", "sample_dot"),
            make=_x_alone,
            call=functools.partial(_norm_penalty, target=target),
            plain=functools.partial(_norm_penalty_plain, target=target),
            shape=(5, 3, 4, 7),
            curved=True,
            cost=_norm_penalty_cost,
            # With a target the slope varies, which adds one term.
            penalty_calls={"norm_penalty": 2, "sample_scale": 6 if target else 5, "sample_dot": 2},
            dtypes={"reference": FLOATS, "cpp": FLOATS, "triton": FLOATS},
            mixed=False,
            bench_shapes=((32, 3, 64, 64),) if target else (),
        )


def _norm_penalty(g: Tensor, target: float | None) -> Tensor:
    return norm_penalty(g, target).view(-1, 1, 1, 1)


def _norm_penalty_plain(g: Tensor, target: float | None) -> Tensor:
    size = g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return size.square() if target is None else (size - target).square()


def _norm_penalty_cost(inputs: Inputs) -> dict[str, Cost]:
    size = inputs[0].numel() * inputs[0].element_size()
    return {"forward": Cost(size, 2 * inputs[0].numel()), "backward": Cost(2 * size, inputs[0].numel())}


CASES: list[OpCase] = [
    *_bias_act_cases(),
    *_conv_cases(),
    *_block_cases(),
    *_spectral_cases(),
    *_penalty_cases(),
    *modulated_cases(),
    *upfirdn_cases(),
    *filtered_cases(),
    *instance_norm_cases(),
]
