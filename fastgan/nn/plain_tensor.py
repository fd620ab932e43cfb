"""Where our ops may stand in for PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

#: Fake tensors stand for plain ones while a graph is taken.
_ORDINARY = (Tensor, nn.Parameter, FakeTensor, FunctionalTensor)


def is_plain_tensor(x: Any) -> bool:
    """Whether our ops take x as PyTorch's would: no subclass, no transform of torch.func, no forward-mode tangent.

    Under torch.jit.trace neither: what it writes down is meant to run without us.
    """
    if type(x) not in _ORDINARY or not x.is_floating_point() or x.layout is not torch.strided:
        return False
    if torch.compiler.is_compiling():
        return True
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    return not transformed and not torch.jit.is_tracing()
