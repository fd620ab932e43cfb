"""The ops on stacks on the CPU: the steps of cpu.py, planned for each block."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgan.ops._launch import why_no_cpp
from fastgan.ops._library import planned
from fastgan.ops._memory_format import memory_format
from fastgan.ops.bias_act import cpu as bias_act_cpu
from fastgan.ops.conv import cpu
from fastgan.ops.conv.reference_stack import lowest_block, options_of
from fastgan.ops.conv.shapes import dgrad_like, forward_like, like


def _why_not(x: Tensor, *_: Any) -> str | None:
    return why_no_cpp(x)


def plan_conv_stack(x, weights, biases, stride, padding, dilation, groups, *rest):
    *act, keep = rest
    steps = []
    for i, weight in enumerate(weights):
        options = options_of(i, stride, padding, dilation, groups)
        steps.append(cpu.plan_conv_bias_act(x, weight, biases[i] if biases else None, *options, *act))
        x = forward_like(x, weight, *options)
    nothing = [None] * len(steps)

    def run(x, weights, biases, *_):
        outputs = []
        for step, weight, bias in zip(steps, weights, biases or nothing, strict=True):
            x = step(x, weight, bias)
            if keep:
                outputs.append(x)
        return outputs if keep else [x]

    return run


def plan_conv_stack_dgrad(dy, weights, outputs, size, stride, padding, dilation, groups, *rest):
    *act, lowest, bias_grad, input_grad = rest
    last = len(weights) - 1
    top = bias_act_cpu.plan_bias_act_grad(dy, outputs[last], None, *act, bias_grad)
    dz = like(dy, memory_format(outputs[last]))
    steps = []
    for i in range(last, lowest, -1):
        options = options_of(i, stride, padding, dilation, groups)
        below = outputs[i - 1]
        steps.append((cpu.plan_conv_dgrad_act(dz, weights[i], below, options, act, bias_grad), i))
        dz = dgrad_like(dz, weights[i], below.shape[2:], *options)
    bottom = None
    if input_grad:
        bottom = cpu.plan_conv_dgrad(dz, weights[0], size, *options_of(0, stride, padding, dilation, groups))

    def run(dy, weights, outputs, *_):
        dz, db = top(dy, outputs[last], None)
        dzs, dbs = [dz], [db]
        for step, i in steps:
            dz, db = step(dz, weights[i], outputs[i - 1])
            dzs.append(dz)
            dbs.append(db)
        dzs.reverse()
        if bias_grad:
            dbs.reverse()
            dzs += dbs
        if bottom is not None:
            dzs.append(bottom(dz, weights[0]))
        return dzs

    return run


def plan_conv_stack_tangent(x, weights, outputs, stride, padding, dilation, groups, *act):
    steps = []
    for i, weight in enumerate(weights):
        options = options_of(i, stride, padding, dilation, groups)
        steps.append(cpu.plan_conv_slope(x, weight, outputs[i], *options, *act))
        x = like(outputs[i], memory_format(outputs[i]))

    def run(x, weights, outputs, *_):
        tangents = []
        for step, weight, output in zip(steps, weights, outputs, strict=True):
            x = step(x, weight, output)
            tangents.append(x)
        return tangents

    return run


def plan_conv_stack_wgrad(dys, xs, kernels, stride, padding, dilation, groups, channels_last):
    steps = [
        cpu.plan_conv_wgrad(
            dy, xs[i], kernels[2 * i : 2 * i + 2], *options_of(i, stride, padding, dilation, groups), channels_last[i]
        )
        for i, dy in enumerate(dys)
    ]

    def run(dys, xs, *_):
        return [step(dy, x) for step, dy, x in zip(steps, dys, xs, strict=True)]

    return run


def plan_conv_stack_backward(dy, x, weights, outputs, stride, padding, dilation, groups, *rest):
    *act, weight_grad, bias_grad, input_grad = rest
    lowest, last = lowest_block(weight_grad, bias_grad, input_grad), len(weights) - 1
    sums, inputs = any(bias_grad), [x, *outputs[:-1]]
    top = bias_act_cpu.plan_bias_act_grad(dy, outputs[last], None, *act, sums)
    dz = like(dy, memory_format(outputs[last]))
    steps = []
    for i in range(last, lowest - 1, -1):
        options = options_of(i, stride, padding, dilation, groups)
        go_on = i > lowest or input_grad
        step = cpu.plan_conv_backward(dz, inputs[i], weights[i], *options, weight_grad[i], go_on)
        slope = None
        if go_on:
            dz = dgrad_like(dz, weights[i], inputs[i].shape[2:], *options)
            if i > lowest:
                slope = bias_act_cpu.grad_in_place(dz, memory_format(dz), sums, *act)
        steps.append((i, step, slope))

    def run(dy, x, weights, outputs, *_):
        dz, db = top(dy, outputs[last], None)
        dws, dbs = [None] * len(weights), [None] * len(weights)
        for i, step, slope in steps:
            dbs[i] = db
            below = outputs[i - 1] if i else x
            dz, dws[i] = step(dz, below, weights[i])
            if slope is not None:
                db = slope(dz, below)
        found = [dw for dw in dws if dw is not None]
        if sums:
            found += [db for db, want in zip(dbs, bias_grad, strict=True) if want]
        if input_grad:
            found.append(dz)
        return found

    return run


CONV_STACK = planned("cpp", plan_conv_stack, _why_not)
CONV_STACK_BACKWARD = planned("cpp", plan_conv_stack_backward, _why_not)
CONV_STACK_DGRAD = planned("cpp", plan_conv_stack_dgrad, _why_not)
CONV_STACK_TANGENT = planned("cpp", plan_conv_stack_tangent, _why_not)
CONV_STACK_WGRAD = planned("cpp", plan_conv_stack_wgrad, lambda dys, *_: why_no_cpp(dys[0]))
