"""Copies of networks, of those too that keep computed tensors."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """A copy of a network, also after a forward pass that left tensors with a history in it.

    The older weight norm and spectral norm set the computed weight as an attribute, and networks may keep features or
    averages. `copy.deepcopy` refuses such tensors; the copy gets their values.
    """
    plain: dict[int, Any] = {}
    for module in network.modules():
        kept = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_modules")}
        for value in tree_leaves(kept):
            if isinstance(value, Tensor) and not value.is_leaf:
                plain[id(value)] = value.detach().clone()
    return copy.deepcopy(network, plain)
