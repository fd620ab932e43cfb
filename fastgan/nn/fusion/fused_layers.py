"""torch.nn's layers on fastgan's ops: the same parameters, buffers, attributes and names, with another forward.

`fuse` replaces a module's class by one of these. Each runs our op on supported inputs, and PyTorch's forward on others.
Their names are torch.nn's, because weight initializers and printed networks use them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan.nn.fusion.supported import (
    ACTS,
    CONV1D,
    CONV2D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    LINEAR,
    activate,
    activation_takes,
)


class Conv1d(nn.Conv1d):
    _fastgan_original = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        return CONV1D.block(self, input, LINEAR) if CONV1D.takes(self, input) else nn.Conv1d.forward(self, input)


class Conv2d(nn.Conv2d):
    _fastgan_original = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        return CONV2D.block(self, input, LINEAR) if CONV2D.takes(self, input) else nn.Conv2d.forward(self, input)


class ConvTranspose1d(nn.ConvTranspose1d):
    _fastgan_original = nn.ConvTranspose1d

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        if output_size is None and CONV_TRANSPOSE1D.takes(self, input):
            return CONV_TRANSPOSE1D.block(self, input, LINEAR)
        return nn.ConvTranspose1d.forward(self, input, output_size)


class ConvTranspose2d(nn.ConvTranspose2d):
    _fastgan_original = nn.ConvTranspose2d

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        if output_size is None and CONV_TRANSPOSE2D.takes(self, input):
            return CONV_TRANSPOSE2D.block(self, input, LINEAR)
        return nn.ConvTranspose2d.forward(self, input, output_size)


def _activated(module: Any, plain: Any, x: Tensor) -> Tensor:
    act = ACTS[plain](module)
    # In place it overwrites its input, which others may use; Sequential fuses it if nothing else refers to the input.
    if act is None or act.inplace or not activation_takes(x):
        return plain.forward(module, x)
    return activate(x, act)


class LeakyReLU(nn.LeakyReLU):
    _fastgan_original = nn.LeakyReLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.LeakyReLU, input)


class ReLU(nn.ReLU):
    _fastgan_original = nn.ReLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.ReLU, input)


class SiLU(nn.SiLU):
    _fastgan_original = nn.SiLU

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.SiLU, input)


class Tanh(nn.Tanh):
    _fastgan_original = nn.Tanh

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.Tanh, input)


class Sigmoid(nn.Sigmoid):
    _fastgan_original = nn.Sigmoid

    def forward(self, input: Tensor) -> Tensor:
        return _activated(self, nn.Sigmoid, input)


#: torch.nn's class → the fused class that replaces it.
FUSED_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.LeakyReLU: LeakyReLU,
    nn.ReLU: ReLU,
    nn.SiLU: SiLU,
    nn.Tanh: Tanh,
    nn.Sigmoid: Sigmoid,
}
