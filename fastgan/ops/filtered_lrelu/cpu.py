"""filtered_lrelu on the CPU, for float and double: the reference's steps with the C++ kernel of upfirdn2d.

The upsampled image goes through memory; a kernel that keeps it in cache would be the next step.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.ops._launch import why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops.filtered_lrelu import reference
from fastgan.ops.upfirdn2d import cpu


def _why_not(x: Tensor, *_) -> str | None:
    return why_no_cpp(x)


FORWARD = Kernel("cpp", lambda *args: reference.forward(cpu.FORWARD.run, *args), _why_not)
LINEAR = Kernel("cpp", lambda *args: reference.linear(cpu.FORWARD.run, *args), _why_not)
