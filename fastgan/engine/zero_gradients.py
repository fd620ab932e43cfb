"""Removes computations of zeros from a graph.

The second derivative of leaky ReLU is zero almost everywhere, but PyTorch returns it as a tensor of zeros, and the
double backward of a convolution computes with it: a gradient penalty on a network of convolutions and leaky ReLUs runs
a whole backward pass over zeros. This pass propagates known zeros through operations, drops them from sums, and removes
operations whose results are no longer used. Results are bit-identical if all values are finite. A product of such a
zero with NaN or infinity, which would be NaN, becomes zero.

It runs on the functional graph of ATen operations that AOTAutograd makes, before Inductor compiles it.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

aten = torch.ops.aten

#: The result is zero if the first argument is zero.
_ZERO_PRESERVING = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.t.default,
    aten.transpose.int, aten.expand.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.unsqueeze.default, aten.slice.Tensor, aten.select.int, aten.clone.default, aten.alias.default,
    aten.detach.default, aten._to_copy.default, aten.neg.default, aten.sum.default, aten.sum.dim_IntList,
    aten.mean.default, aten.mean.dim, aten.div.Tensor, aten.div.Scalar, aten.constant_pad_nd.default,
    aten.slice_backward.default, aten.flip.default, aten.as_strided.default,
    aten.upsample_nearest2d_backward.default, aten.avg_pool2d.default, aten.avg_pool2d_backward.default,
    torch.ops.prims.convert_element_type.default,
}  # fmt: skip
#: The result is zero if any of the first two arguments is zero.
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default}
_ADD, _SUB = aten.add.Tensor, aten.sub.Tensor
_BACKWARD = aten.convolution_backward.default


def remove_zeros(graph: fx.Graph) -> None:
    """Rewrite a graph in place. Every node needs its `meta["val"]`."""
    zeros: set[fx.Node] = set()
    memory = _Memory(graph)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zeros):
            zeros.add(node)
            continue
        instead = _without_zero_terms(node, zeros)
        if instead is not None and memory.may_share(node, instead):
            node.replace_all_uses_with(instead)
        elif node.target is _BACKWARD:
            _narrow_backward(node, zeros)
    for node in graph.nodes:
        for source in node.all_input_nodes:
            # Operations that still use a zero get a constant, so that its computation can be removed.
            if source in zeros and source.target is not aten.full.default and node not in zeros:
                node.replace_input_with(source, _constant(graph, source))
    graph.eliminate_dead_code()
    _drop_unused_gradients(graph)


class _Memory:
    """The memory of inputs and outputs: replacing a node must not make an output share memory with one of them.

    A sum has memory of its own. If it is replaced by its only nonzero term, which is an input or another output, the
    caller or the end of the step may change the result in place.
    """

    def __init__(self, graph: fx.Graph):
        nodes = list(graph.nodes)
        self._inputs = {_storage(node) for node in nodes if node.op == "placeholder"}
        self._outputs = {_storage(node) for node in nodes[-1].all_input_nodes}

    def may_share(self, node: fx.Node, instead: fx.Node) -> bool:
        """Whether `instead` may replace a node that has memory of its own."""
        term = _storage(instead)
        if term in self._inputs:
            return False
        if _storage(node) not in self._outputs:
            return True
        fresh = term not in self._outputs
        self._outputs.add(term)
        return fresh


def _storage(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def _is_zero(node: fx.Node, zeros: set[fx.Node]) -> bool:
    args = node.args
    value = node.meta.get("val")
    if node.target is operator.getitem and isinstance(args[0], fx.Node) and args[0].target is _BACKWARD:
        return _zero_outputs(args[0], zeros)[args[1]]  # type: ignore[index]
    if not isinstance(value, torch.Tensor):
        return False
    if node.target in (aten.full.default, aten.full_like.default):
        return _is_number_zero(args[1])
    if node.target in (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default):
        return True
    if node.target in _ZERO_PRESERVING:
        return args[0] in zeros and not (node.target is aten.constant_pad_nd.default and not _is_number_zero(
            args[2] if len(args) > 2 else 0
        ))  # fmt: skip
    if node.target in _PRODUCTS:
        return args[0] in zeros or args[1] in zeros or _is_number_zero(args[1])
    if node.target in (_ADD, _SUB):
        return args[0] in zeros and (args[1] in zeros or _is_number_zero(args[1]))
    if node.target is aten.where.self:
        return args[1] in zeros and args[2] in zeros
    if node.target is aten.cat.default:
        return all(part in zeros for part in args[0])  # type: ignore[union-attr]
    if node.target is aten.convolution.default:
        return args[2] is None and (args[0] in zeros or args[1] in zeros)
    return False


def _zero_outputs(node: fx.Node, zeros: set[fx.Node]) -> tuple[bool, bool, bool]:
    """Whether the gradients of input, weight and bias are zero."""
    dy, x, weight = (argument in zeros for argument in node.args[:3])
    return dy or weight, dy or x, dy


def _without_zero_terms(node: fx.Node, zeros: set[fx.Node]) -> fx.Node | None:
    """The other term of a sum with a zero, if it has the sum's shape, dtype and device."""
    if node.target not in (_ADD, _SUB) or node.kwargs.get("alpha", 1) != 1:
        return None
    first, second = node.args[:2]
    if second in zeros:
        left = first
    elif first in zeros and node.target is _ADD:
        left = second
    else:
        return None
    if not isinstance(left, fx.Node):
        return None
    mine, other = node.meta["val"], left.meta["val"]
    if not isinstance(other, torch.Tensor):
        return None
    same = (mine.shape, mine.dtype, mine.device) == (other.shape, other.dtype, other.device)
    return left if same else None


def _narrow_backward(node: fx.Node, zeros: set[fx.Node]) -> None:
    mask = [asked and not zero for asked, zero in zip(node.args[-1], _zero_outputs(node, zeros), strict=True)]  # type: ignore[arg-type]
    node.args = (*node.args[:-1], mask)


def _drop_unused_gradients(graph: fx.Graph) -> None:
    """Let convolution_backward compute only the gradients that are used."""
    for node in graph.nodes:
        if node.target is _BACKWARD:
            read = {user.args[1] for user in node.users if user.target is operator.getitem}
            if len(read) == len(node.users):
                node.args = (*node.args[:-1], [asked and i in read for i, asked in enumerate(node.args[-1])])


def _constant(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A node of zeros like another node's value, inserted before it."""
    value = node.meta["val"]
    with graph.inserting_before(node):
        new = graph.call_function(
            aten.full.default, (list(value.shape), 0.0), {"dtype": value.dtype, "device": value.device}
        )
    new.meta = dict(node.meta)
    return new


def _is_number_zero(value: object) -> bool:
    return isinstance(value, int | float) and value == 0
