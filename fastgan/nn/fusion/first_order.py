"""Whether PyTorch's own operations run a layer on a CPU: where no input gradient can be asked for, they are as fast.

fastgan's ops save passes in the derivative of an input gradient, as in a gradient penalty. In inference and in steps
without a penalty single layers would compute what PyTorch's operations compute, with more work on the host. So would
stacks with activations in place; those with activations out of place run as one op in any case. The decision depends on
the autograd graph alone, never on times, so that a resumed run computes the same bits. Measured by
`python benchmarks/fused_networks.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.ops._eager import is_eager

#: More nodes than this before a tensor are not inspected.
_MOST_NODES = 256
_KEY = "fastgan: depends on an input"


def first_order(x: Any) -> bool:
    """Whether x is an ordinary tensor on a CPU that depends on no leaf that requires a gradient, except parameters."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter) or not x.is_cpu or not is_eager():
        return False
    if not x.requires_grad or not torch.is_grad_enabled():
        return True
    if x.grad_fn is None:
        return type(x) is nn.Parameter
    return not _depends_on_input(x.grad_fn)


def _depends_on_input(node: Any) -> bool:
    known = node.metadata.get(_KEY)
    if known is None:
        # Kept in the node, so that the layers after this one do not search again.
        known = node.metadata[_KEY] = _search(node)
    return known


def _search(start: Any) -> bool:
    nodes, seen = [start], {start}
    while nodes:
        for below, _ in nodes.pop().next_functions:
            if below is None or below in seen:
                continue
            seen.add(below)
            known = below.metadata.get(_KEY)
            if known or len(seen) > _MOST_NODES:
                return True
            leaf = getattr(below, "variable", None)
            if leaf is not None and type(leaf) is not nn.Parameter:
                return True
            if leaf is None and known is None:
                nodes.append(below)
    return False
