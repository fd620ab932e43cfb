"""The graph passes that run on a captured step before Inductor compiles it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from fastgan.engine import filters, weight_gradients, zero_gradients
from fastgan.ops.conv.reference_stack import lowest_block

aten = torch.ops.aten


class Passes(CustomGraphPass):
    """All passes as one, for Inductor's `post_grad_custom_pre_pass`. Keeps counts of the last graph that it ran on."""

    def __init__(self) -> None:
        self.nodes = self.before = self.after = 0
        self.ran = False  # stays False if the compiled graph came from Inductor's cache

    def __call__(self, graph: fx.Graph) -> None:
        self.before = convolution_passes(graph)
        zero_gradients.remove_zeros(graph)
        weight_gradients.restore_weight_gradients(graph)
        filters.use_upfirdn2d(graph)
        self.ran = True
        self.nodes, self.after = sum(node.op == "call_function" for node in graph.nodes), convolution_passes(graph)

    def uuid(self) -> str:
        """A key of Inductor's caches: compiled code is used again only while the passes are the same."""
        digest = hashlib.sha256()
        for module in (__file__, zero_gradients.__file__, weight_gradients.__file__, filters.__file__):
            digest.update(Path(module).read_bytes())
        return digest.hexdigest()


def convolution_passes(graph: fx.Graph) -> int:
    """The number of convolutions in a graph."""
    return sum(passes_of(node.target, node.args) for node in graph.nodes if node.op == "call_function")


def passes_of(operation: Any, args: Any) -> int:
    """The number of convolutions of one operation; a backward pass for input and weight counts as two."""
    if operation in (aten.convolution.default, aten._convolution.default):
        return 1
    if operation is aten.convolution_backward.default:
        return sum(args[-1][:2])
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace != "fastgan":
        return 0
    name = operation._schema.name.split("::")[1]
    if name in ("conv_stack", "conv_stack_tangent"):
        return len(args[1])
    if name == "conv_stack_dgrad":
        lowest, _, input_grad = args[-3:]
        return len(args[1]) - 1 - lowest + input_grad
    if name == "conv_stack_backward":
        weight_grad, bias_grad, input_grad = args[-3:]
        lowest = lowest_block(weight_grad, bias_grad, input_grad)
        return sum(weight_grad) + len(weight_grad) - 1 - lowest + input_grad
    if name == "conv_stack_wgrad":
        return len(args[0])
    return int(name.startswith("conv"))
