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
