"""Gradients of zero for the tensors that a dropped zero pass would have reached.

The slope of a piecewise-linear activation has a derivative of zero. PyTorch returns it as a tensor of zeros, whose
backward pass reaches every tensor that the activation depends on: hidden biases get a `.grad` of zeros, which an
optimizer with momentum and `autograd.grad` without allow_unused tell from None. fastgan does not run that pass. Here
the activation's gradient gets an edge to each of these leaves, through which zeros of its size arrive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.ops._library import Op

Node = Any

#: PyTorch's nodes with a weight: name → the number of its edge.
_WEIGHT_EDGES = {"ConvolutionBackward0": 1, "AddmmBackward0": 2, "MmBackward0": 1}


def reach_leaves(ctx: Node, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradients that the formula of a piecewise-linear activation returns, with zeros as their derivative with
    respect to the leaves that the activation depends on.

    ctx: the node of the op that contains the activation. ctx.biases: the biases that this op adds.
    """
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return gradients
    # While a graph is captured, the nodes do not lead to the weights, only to placeholders for them.
    real = all(type(gradient) is Tensor for gradient in gradients if gradient is not None)
    leaves = _leaves(ctx) if real else [bias for bias in ctx.biases if bias.requires_grad]
    if not leaves:
        return gradients
    return [None if gradient is None else _WithZeros.apply(gradient, *leaves) for gradient in gradients]


class _WithZeros(torch.autograd.Function):
    """The first tensor; its gradient is passed on, and the gradients of the leaves are zeros."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *leaves: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.leaves = leaves
        return gradient.detach()  # not the tensor itself, which a caller could not change in place

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangent is None:
            return (None,) * (1 + len(ctx.leaves))
        nodes = (node for node, _ in ctx.next_functions[1:])
        wanted = zip(ctx.leaves, nodes, strict=True)
        return cotangent, *(torch.zeros_like(leaf) if _runs(node) else None for leaf, node in wanted)


def _leaves(source: Node) -> list[Tensor]:
    """The leaves that the output of a node depends on, except weights whose own derivative is computed, and those that
    a node like it, which runs too, reaches."""
    found: list[Tensor] = []
    nodes, seen = [source], {source}
    while nodes:
        node = nodes.pop()
        edges = node.next_functions
        weights = _weight_edges(node)
        for i, (below, _) in enumerate(edges):
            if below is None or below in seen or (i in weights and edges[0][0] is not None and _runs(node)):
                continue
            seen.add(below)
            if hasattr(below, "variable"):
                found.append(below.variable)
            elif not (getattr(below, "reaches_leaves", False) and _runs(below)):
                nodes.append(below)
    return found


def _weight_edges(node: Node) -> Any:
    """The edges of a node that lead to weights: its input gradient contains them, so that they get a gradient."""
    op = getattr(node, "op", None)
    if isinstance(op, Op):
        return [edge for (i, _), edge in node.edge_of.items() if i in op.weight_inputs]
    edge = _WEIGHT_EDGES.get(node.name())
    return () if edge is None else (edge,)


def _runs(node: Node) -> bool:
    """Whether the running backward pass computes the gradients of a node."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # one at which autograd.grad captures a gradient
        return True
