"""Turns weight gradients that PyTorch's double backward writes as odd convolutions back into weight gradients.

The derivative of a convolution's backward pass by its weight is a convolution of images with images: batch and channels
exchanged, a kernel as large as the feature map. It is the gradient of a weight like any other, and for those libraries
have kernels of their own, which are many times faster for the first layer of a discriminator.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import fx

aten = torch.ops.aten


def restore_weight_gradients(graph: fx.Graph) -> None:
    """Rewrite a graph in place: permute(convolution(permute(x), permute(dy))) becomes a convolution_backward."""
    for node in list(graph.nodes):
        convolution = _behind_slices(node) if _swaps(node) else None
        if convolution is not None and _fits(node, convolution):
            gradient = _weight_gradient(graph, node, convolution)
            node.replace_all_uses_with(gradient)
    graph.eliminate_dead_code()


def _weight_gradient(graph: fx.Graph, node: fx.Node, convolution: fx.Node) -> fx.Node:
    images, kernels, _, stride, padding, dilation, *_ = convolution.args
    x, dy = images.args[0], kernels.args[0]  # type: ignore[union-attr]
    value = node.meta["val"]
    sizes = list(value.shape)
    with graph.inserting_before(node):
        # The operation wants the weight for its shape alone.
        weight = graph.call_function(aten.full.default, (sizes, 0.0), {"dtype": value.dtype, "device": value.device})
        # Where the double backward dilates, the convolution strode; and the other way round.
        arguments = (dy, x, weight, [sizes[0]], dilation, padding, stride, False, [0] * len(stride), 1)  # type: ignore[arg-type]
        both = graph.call_function(aten.convolution_backward.default, (*arguments, [False, True, False]))
        gradient = graph.call_function(operator.getitem, (both, 1))
    for new in (weight, both, gradient):
        with value.fake_mode:
            new.meta["val"] = new.target(*fx.map_arg(new.args, lambda n: n.meta["val"]), **new.kwargs)  # type: ignore[operator]
    return gradient


def _behind_slices(node: fx.Node) -> fx.Node | None:
    """The convolution whose swapped result this node is, between two swapped tensors; None if it is something else."""
    source: Any = node.args[0]
    while (
        source.target is aten.slice.Tensor
        and source.args[1] >= 2
        and not source.args[2]
        and source.args[4:] in ((), (1,))
    ):
        source = source.args[0]  # where the stride left rows over, the kernel came out larger and is cut
    if source.target is not aten.convolution.default or len(source.users) != 1:
        return None
    images, kernels, bias, _, _, _, transposed, _, groups = source.args
    plain = bias is None and not transposed and groups == 1
    return source if plain and _swaps(images) and _swaps(kernels) else None


def _fits(node: fx.Node, convolution: fx.Node) -> bool:
    """Whether a weight of this node's sizes makes of the one's images as much as the other's are.

    A correlation that somebody wrote and cut elsewhere is no weight's gradient.
    """
    images, kernels, _, *numbers = cast("tuple[Any, ...]", convolution.args[:6])
    weight, image, out = (n.meta["val"].shape[2:] for n in (node, images, kernels))
    if any(len(values) != len(weight) for values in numbers):
        return False  # one number for all directions, which the weight gradient does not take
    each = zip(weight, image, out, *numbers, strict=True)
    return all(
        (n + 2 * padding - stride * (k - 1) - 1) // dilation + 1 == m for k, n, m, stride, padding, dilation in each
    )


def _swaps(node: Any) -> bool:
    """Whether a node exchanges batch and channels."""
    if not isinstance(node, fx.Node) or node.target not in (aten.permute.default, aten.transpose.int):
        return False
    if node.target is aten.transpose.int:
        return sorted(node.args[1:]) == [0, 1]  # type: ignore[type-var]
    order = list(node.args[1])  # type: ignore[arg-type]
    return len(order) > 2 and order == [1, 0, *range(2, len(order))]
