"""instance_norm_act and its gradient in Triton: launches the kernels of triton_kernels.py, which is imported at the
first launch."""

from __future__ import annotations

import torch

from fastgan.ops._launch import FP_FUSION, blocks, launch, on, power_of_two
from fastgan.ops._library import planned
from fastgan.ops._memory_format import memory_format
from fastgan.ops.bias_act.reference import accumulation_dtype
from fastgan.ops.channel_scale.triton import _geometry, _sums, _why_not, chunks


def _kernels():
    from fastgan.ops.instance_norm import triton_kernels

    return triton_kernels


def plan_forward(x, alpha, epsilon):
    layout, samples = memory_format(x), x.shape[0]
    channels, pixels, constants, empty = _geometry(x, layout)
    wide = {"dtype": accumulation_dtype(x.dtype), "device": x.device}
    if not x.numel():
        return lambda x, *_: (empty(), *(torch.empty((samples, channels), **wide) for _ in range(2)))
    across = blocks(channels, constants["BLOCK_C"])
    chunk, parts = chunks(samples, across, pixels, constants["BLOCK_P"])
    block_k = min(64, power_of_two(parts))
    block_c = min(1024 // block_k, 128)

    def run(x, *_):
        x, y = x.contiguous(memory_format=layout), empty()
        means, squares = (torch.empty((samples, parts, channels), **wide) for _ in range(2))
        mean, scale = (torch.empty((samples, channels), **wide) for _ in range(2))
        with on(x):
            launch(_kernels().part_statistics_kernel, (samples * parts * across,))(
                x, means, squares, channels, pixels, chunk, parts, **constants
            )
            launch(_kernels().join_statistics_kernel, (samples * blocks(channels, block_c),))(
                means, squares, mean, scale, channels, pixels, chunk, parts,
                EPSILON=epsilon, DOUBLE=constants["DOUBLE"], BLOCK_K=block_k, BLOCK_C=block_c, **FP_FUSION,
            )  # fmt: skip
            launch(_kernels().normalized_fwd_kernel, (samples * across * blocks(pixels, constants["BLOCK_P"]),))(
                x, mean, scale, y, channels, pixels, ALPHA=alpha, **constants
            )
        return y, mean, scale

    return run


def plan_grad(dy, x, mean, scale, alpha, epsilon):
    layout, samples = memory_format(x), x.shape[0]
    channels, pixels, constants, empty = _geometry(x, layout)
    wide = {"dtype": accumulation_dtype(x.dtype), "device": x.device}
    if not x.numel():
        return lambda *_: empty()
    across = blocks(channels, constants["BLOCK_C"])
    chunk, parts = chunks(samples, across, pixels, constants["BLOCK_P"])

    def run(dy, x, mean, scale, *_):
        dy, x, dx = dy.contiguous(memory_format=layout), x.contiguous(memory_format=layout), empty()
        mean, scale = mean.contiguous(), scale.contiguous()
        part_sums, part_dots = (torch.empty((samples, parts, channels), **wide) for _ in range(2))
        with on(x):
            launch(_kernels().part_grad_sums_kernel, (samples * parts * across,))(
                dy, x, mean, scale, part_sums, part_dots, channels, pixels, chunk, parts, ALPHA=alpha, **constants
            )
            sums, dots = _sums(part_sums).contiguous(), _sums(part_dots).contiguous()
            launch(_kernels().normalized_bwd_kernel, (samples * across * blocks(pixels, constants["BLOCK_P"]),))(
                dy, x, mean, scale, sums, dots, dx, channels, pixels, ALPHA=alpha, **constants
            )
        return dx

    return run


FORWARD = planned("triton", plan_forward, _why_not)
GRAD = planned("triton", plan_grad, _why_not)
