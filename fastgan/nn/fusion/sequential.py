"""nn.Sequential that runs a layer and the activation after it as one op, and consecutive such blocks as one stack.

Its children may change between runs (hooks, replaced children, options). An eager run compares them with a signature
(steps.py); a traced run inspects them anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastgan.nn.fusion.chain import apply, defer
from fastgan.nn.fusion.fused_layers import Fused
from fastgan.nn.fusion.pieces import pieces
from fastgan.nn.fusion.steps import run_blocks, run_overwritten, run_stack, run_steps, sequential_steps
from fastgan.nn.plain_tensor import is_traced


def run(modules: list[Any], x: Any) -> Any:
    """The result of nn.Sequential of these modules, inspected now."""
    # A traced run without gradients is mostly an export, whose graph should convert no memory formats, as a stack does.
    for piece in pieces(modules, stacks=torch.is_grad_enabled()):
        first = piece.modules[0]
        if piece.overwritten:
            x = run_overwritten(first, x)
        elif piece.biased:
            x = apply(piece.modules[1], defer(first, x))
        elif piece.act is None:
            x = first(x)
        elif piece.stack:
            x = run_stack(piece, x)
        else:
            x = run_blocks(piece, x)
    return x


class Sequential(Fused, nn.Sequential):
    """nn.Sequential, run in pieces."""

    _fastgan_original = nn.Sequential

    def forward(self, input: Any) -> Any:
        modules = list(self._modules.values())
        if is_traced(input):
            return run(modules, input)
        return run_steps(self, modules, lambda: sequential_steps(modules), input)
