"""What is done to a captured step before Inductor compiles it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from fastgan.engine import weight_gradients, zero_gradients

aten = torch.ops.aten
_CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)


class Passes(CustomGraphPass):
    """Our passes as one, for Inductor's `post_grad_custom_pre_pass`. Counts what it saw while it last ran."""

    def __init__(self) -> None:
        self.nodes = self.before = self.after = 0

    def __call__(self, graph: fx.Graph) -> None:
        self.before = convolution_passes(graph)
        zero_gradients.remove_zeros(graph)
        weight_gradients.restore_weight_gradients(graph)
        self.nodes, self.after = sum(node.op == "call_function" for node in graph.nodes), convolution_passes(graph)

    def uuid(self) -> str:
        """Inductor's caches are keyed by it: compiled code is used again only while the passes are the same."""
        digest = hashlib.sha256()
        for module in (__file__, zero_gradients.__file__, weight_gradients.__file__):
            digest.update(Path(module).read_bytes())
        return digest.hexdigest()


def convolution_passes(graph: fx.Graph) -> int:
    """How many convolutions a graph runs: a backward pass counts once for the input's and once for the weight's."""
    count = 0
    for node in graph.nodes:
        if node.target is aten.convolution.default:
            count += 1
        elif node.target is aten.convolution_backward.default:
            count += sum(node.args[-1][:2])
    return count
