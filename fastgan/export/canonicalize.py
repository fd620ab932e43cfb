"""Rewrites a network for exporters: into PyTorch's own modules, with batch norms merged into the layer before."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

from fastgan.errors import ExportError
from fastgan.export.precision import compute, to_float64
from fastgan.nn import ConvBlock, ConvStack, LinearBlock
from fastgan.nn.fusion.supported import has_no_observers, original_class
from fastgan.ops import ACTIVATIONS

#: Largest difference in float64 between the rewritten and the original network, relative to the largest output.
_TOLERANCE = 1e-10
#: The same in float32, for a network that does not run in float64.
_TOLERANCE_FLOAT32 = 1e-5
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def canonicalize(network: nn.Module, *sample: Tensor) -> nn.Module:
    """A copy of a folded float32 network (`fastgan.nn.fold`) that computes the same with standard operations.

    Fused modules and fastgan's blocks become convolution or linear layer, norm and activation, which runtimes can
    optimize. A batch norm is merged into the convolution or linear layer before it, in nn.Sequential and in fastgan's
    blocks. A rewriting after which the network's output on `sample` differs in float64 is left out: a layer may also be
    called outside of its Sequential, for example.
    """
    dtype, tolerance, given = torch.float64, _TOLERANCE, to_float64(sample)
    try:
        expected = compute(copy.deepcopy(network).double(), given, "float64")
    except ExportError:
        dtype, tolerance, given = torch.float32, _TOLERANCE_FLOAT32, list(sample)
        expected = compute(network, given, "float32")
    for rewrite in (_standard_and_merged, _standard):
        try:
            # Rewritten in float64 too: a wrong rewriting must not pass as a rounding error.
            changed = rewrite(copy.deepcopy(network).to(dtype))
            got = compute(changed, given, str(dtype).removeprefix("torch."))
        except ExportError:  # its own forward uses what was rewritten
            continue
        if _agree(expected, got, tolerance):
            return changed.float()
    return network


def _agree(expected: Tensor, got: Tensor, tolerance: float) -> bool:
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return expected.shape == got.shape and bool(((expected - got).abs().max() <= tolerance * scale).item())


def _standard(network: nn.Module) -> nn.Module:
    for module in network.modules():
        module.__class__ = original_class(module)
        # Not isinstance: the forward of a subclass may do something else.
        standard = {ConvBlock: _StandardConvBlock, LinearBlock: _StandardLinearBlock, ConvStack: nn.Sequential}.get(
            type(module)
        )
        if standard is not None:
            module.__class__ = standard
    return network


class _StandardConvBlock(ConvBlock):
    def forward(self, x: Tensor) -> Tensor:
        return _activate(_normalize(self.conv(x), self.norm), self.act)


class _StandardLinearBlock(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return _activate(_normalize(self.linear(x), self.norm), self.act)


def _normalize(x: Tensor, norm: nn.Module | None) -> Tensor:
    return x if norm is None else norm(x)


def _activate(x: Tensor, act: str) -> Tensor:
    return x if act == "linear" else ACTIVATIONS[act].value(x, 0.2)


def _standard_and_merged(network: nn.Module) -> nn.Module:
    network = _standard(network)
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))

    def mergeable(layer: nn.Module, norm: nn.Module) -> bool:
        return uses[id(layer)] == uses[id(norm)] == 1 and _mergeable(layer, norm)

    for module in list(network.modules()):
        if isinstance(module, _StandardConvBlock | _StandardLinearBlock):
            own = module.conv if isinstance(module, _StandardConvBlock) else module.linear
            if module.norm is not None and mergeable(own, module.norm):
                _merge(own, module.norm)
                module.norm = None
        elif type(module) is nn.Sequential:
            for i, (layer, norm) in enumerate(itertools.pairwise(module)):
                if mergeable(layer, norm):
                    _merge(layer, norm)
                    module[i + 1] = nn.Identity()
    return network


def _mergeable(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether norm(layer(x)) can be computed by one layer of the same class."""
    if type(norm) not in _NORMS or norm.training or norm.running_mean is None:
        return False
    if not (has_no_observers(layer) and has_no_observers(norm)) or layer._forward_pre_hooks or norm._forward_pre_hooks:
        return False
    # In a grouped transposed convolution, the second axis of the weight is not the output channel.
    if type(layer) in _TRANSPOSED:
        return bool(layer.groups == 1)
    return type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def _merge(layer: Any, norm: Any) -> None:
    bias = None if layer.bias is None else layer.bias.double()
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    arguments = (layer.weight.double(), bias, mean, variance, norm.eps, scale, shift)
    if type(layer) is nn.Linear:
        weight, bias = fusion.fuse_linear_bn_weights(*arguments)
    else:
        weight, bias = fusion.fuse_conv_bn_weights(*arguments, transpose=type(layer) in _TRANSPOSED)
    layer.weight = nn.Parameter(weight.to(layer.weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(layer.weight), requires_grad=False)
