"""Parametrizations and spectral norms multiplied into plain weights, for export."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.utils
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.nn.spectral import TorchHook
from fastgan.nn.spectral_group import detach


def fold(module: nn.Module) -> nn.Module:
    """A copy of a network in eval mode whose weights are plain parameters; the original stays as it is.

    Spectral norms of either kind, torch's and ours, and all other parametrizations are computed once, as eval mode
    computes them, and leave nothing behind but their result.
    """
    plain: dict[int, Any] = {}
    for layer in module.modules():
        # The older hook leaves a tensor with a graph behind it as an attribute, which cannot be copied.
        weight = layer.__dict__.get("weight")
        if isinstance(weight, Tensor) and not weight.is_leaf:
            plain[id(weight)] = weight.detach()
    folded = copy.deepcopy(module, plain).eval()
    for layer in folded.modules():
        detach(layer)
        for hook in [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, TorchHook)]:
            torch.nn.utils.remove_spectral_norm(layer, hook.name)
        if parametrize.is_parametrized(layer):
            _unparametrize(layer)
    return folded


def _unparametrize(layer: nn.Module) -> None:
    # parametrize.remove_parametrizations would do it to the original, too: it takes the property from the class, which
    # copies share.
    with torch.no_grad():
        values = {name: getattr(layer, name) for name in cast(nn.ModuleDict, layer.parametrizations)}
    base = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.__class__ = base
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value.detach()))
