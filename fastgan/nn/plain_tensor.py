"""Decides whether fastgan's ops may replace PyTorch's for a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

#: Including the types that represent plain tensors while a graph is captured.
_PLAIN = (Tensor, nn.Parameter, FakeTensor, FunctionalTensor)


def is_plain_tensor(x: Any) -> bool:
    """Whether x is a dense floating tensor without subclass, torch.func transform or forward-mode tangent.

    False under torch.jit.trace, since a traced module should run without fastgan.
    """
    if type(x) not in _PLAIN or not x.is_floating_point() or x.layout is not torch.strided:
        return False
    if torch.compiler.is_compiling():
        return True
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    return not transformed and not torch.jit.is_tracing()


def is_traced(x: Any) -> bool:
    """Whether a graph is captured from the current run, or x is no tensor of an ordinary eager run."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.jit.is_tracing()
    )
