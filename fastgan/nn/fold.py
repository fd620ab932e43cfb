"""Replaces parametrizations and spectral norms by plain weights, for export."""

from __future__ import annotations

import sys
from typing import cast

import torch
import torch.nn.utils
from torch import nn
from torch.nn.utils import parametrize

from fastgan.nn.copying import copied
from fastgan.nn.spectral import TorchHook
from fastgan.nn.spectral_group import remove_group_hooks

#: The function of the same name hides the module.
_WeightNormHook = sys.modules["torch.nn.utils.weight_norm"].WeightNorm


def fold(module: nn.Module) -> nn.Module:
    """A copy of a network in eval mode whose weights are plain parameters. The original is not changed.

    Spectral and weight norms (PyTorch's in both forms and fastgan's) and all other parametrizations are computed once,
    as in eval mode, and replaced by their results.
    """
    folded = copied(module).eval()
    for layer in folded.modules():
        remove_group_hooks(layer)
        for hook in [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, TorchHook)]:
            torch.nn.utils.remove_spectral_norm(layer, hook.name)
        for hook in [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, _WeightNormHook)]:
            torch.nn.utils.remove_weight_norm(layer, hook.name)
        if parametrize.is_parametrized(layer):
            _unparametrize(layer)
    return folded


def _unparametrize(layer: nn.Module) -> None:
    # parametrize.remove_parametrizations would change the original too: it deletes the property of the class, which
    # copies share.
    with torch.no_grad():
        values = {name: getattr(layer, name) for name in cast(nn.ModuleDict, layer.parametrizations)}
    base = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.__class__ = base
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value.detach()))
