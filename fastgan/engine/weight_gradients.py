"""Replaces weight gradients that PyTorch's double backward computes as convolutions by convolution_backward.

PyTorch computes the derivative of a convolution's backward pass with respect to its weight as a convolution of images
with images: batch and channels are exchanged, and the kernel is as large as the feature map. This equals a weight
gradient, for which oneDNN and cuDNN have kernels that are many times faster for the first layer of a discriminator.
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
        convolution = _convolution_of(node) if _transposes(node) else None
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
        # The operation uses only the shape of the weight.
        weight = graph.call_function(aten.full.default, (sizes, 0.0), {"dtype": value.dtype, "device": value.device})
        # The stride of the convolution is the dilation in the double backward, and vice versa.
        arguments = (dy, x, weight, [sizes[0]], dilation, padding, stride, False, [0] * len(stride), 1)  # type: ignore[arg-type]
        both = graph.call_function(aten.convolution_backward.default, (*arguments, [False, True, False]))
        gradient = graph.call_function(operator.getitem, (both, 1))
    for new in (weight, both, gradient):
        with value.fake_mode:
            new.meta["val"] = new.target(*fx.map_arg(new.args, lambda n: n.meta["val"]), **new.kwargs)  # type: ignore[operator]
    return gradient


def _convolution_of(node: fx.Node) -> fx.Node | None:
    """The convolution of two transposed tensors whose transposed, perhaps sliced, result is this node; or None."""
    source: Any = node.args[0]
    while (
        source.target is aten.slice.Tensor
        and source.args[1] >= 2
        and not source.args[2]
        and source.args[4:] in ((), (1,))
    ):
        source = source.args[0]  # the stride does not divide the image: the result is larger and is sliced
    if source.target is not aten.convolution.default or len(source.users) != 1:
        return None
    images, kernels, bias, _, _, _, transposed, _, groups = source.args
    plain = bias is None and not transposed and groups == 1
    return source if plain and _transposes(images) and _transposes(kernels) else None


def _fits(node: fx.Node, convolution: fx.Node) -> bool:
    """Whether a convolution with a weight of this node's size maps the input's image size to the cotangent's.

    A user's own correlation that is sliced otherwise is not a weight gradient.
    """
    images, kernels, _, *numbers = cast("tuple[Any, ...]", convolution.args[:6])
    weight, image, out = (n.meta["val"].shape[2:] for n in (node, images, kernels))
    if any(len(values) != len(weight) for values in numbers):
        return False  # one number for all dimensions, which convolution_backward does not take
    each = zip(weight, image, out, *numbers, strict=True)
    return all(
        (n + 2 * padding - stride * (k - 1) - 1) // dilation + 1 == m for k, n, m, stride, padding, dilation in each
    )


def _transposes(node: Any) -> bool:
    """Whether a node transposes batch and channels."""
    if not isinstance(node, fx.Node) or node.target not in (aten.permute.default, aten.transpose.int):
        return False
    if node.target is aten.transpose.int:
        return sorted(node.args[1:]) == [0, 1]  # type: ignore[type-var]
    order = list(node.args[1])  # type: ignore[arg-type]
    return len(order) > 2 and order == [1, 0, *range(2, len(order))]
