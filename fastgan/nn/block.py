"""ConvBlock and LinearBlock: convolution or linear layer, optional normalization, activation."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn.fusion.steps import Step, run_steps, stack_step
from fastgan.nn.fusion.supported import Act, bare, prepare
from fastgan.nn.plain_tensor import is_traced
from fastgan.nn.spectral_group import spectral_norm
from fastgan.ops import ACTIVATIONS, ConvLayer, bias_act, conv2d, conv2d_bias_act, conv2d_stack, conv_transpose2d

NORMS = ("none", "batch", "spectral")


class ConvBlock(nn.Module):
    """Convolution (or transposed convolution) → norm → activation, on [N, C, H, W].

    Without batch norm, bias and activation are part of the convolution's op. The state dict is that of the plain
    modules: `conv.weight`, `conv.bias` and `norm.*` (batch norm); with spectral norm it has the keys of
    `torch.nn.utils.parametrizations.spectral_norm`. A network of such blocks should call `group_spectral_norms(self)`
    at the end of its constructor, so that all spectral norms are computed as one group.

    norm: "none", "batch" or "spectral". act: see `fastgan.ops.ACTIVATIONS`.
    """

    #: What decides how a ConvStack runs it, from its __dict__ (fastgan/nn/fusion/steps.py).
    @staticmethod
    def plan_options(values: dict[str, Any]) -> Any:
        # The norm is an attribute or a module, which may be None and replaced.
        return values["stride"], values["padding"], values["act"], type(values["_modules"].get("norm"))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        transposed: bool = False,
        norm: str = "none",
        act: str = "leaky_relu",
    ):
        super().__init__()
        _check_norm(norm)
        self.stride, self.padding, self.act = stride, padding, act
        with_bias = norm != "batch"  # batch norm adds a bias itself
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if transposed:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, bias=with_bias)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=with_bias)
        if norm == "spectral":
            spectral_norm(self.conv)
        self.norm = nn.BatchNorm2d(out_channels) if norm == "batch" else None

    def forward(self, x: Tensor) -> Tensor:
        if not bare(self.conv):  # the layer has hooks of the user, which run when it is called
            x = self.conv(x)
            return bias_act(x if self.norm is None else self.norm(x), None, self.act)
        prepare(self.conv)
        if self.fusable:
            weight, bias = self.conv.weight, self.conv.bias
            return conv2d_bias_act(x, weight, bias, self.act, stride=self.stride, padding=self.padding)
        convolve = conv_transpose2d if isinstance(self.conv, nn.ConvTranspose2d) else conv2d
        x = convolve(x, self.conv.weight, stride=self.stride, padding=self.padding)
        if self.norm is not None:
            return bias_act(self.norm(x), None, self.act)
        return bias_act(x, self.conv.bias, self.act)

    @property
    def fusable(self) -> bool:
        """Whether the block is one op: a convolution directly followed by its activation."""
        return self.norm is None and isinstance(self.conv, nn.Conv2d)

    def extra_repr(self) -> str:
        return f"act={self.act}"


class ConvStack(nn.Sequential):
    """A sequence of ConvBlocks. Consecutive fusable blocks with the same activation run as one op.

    The state dict is that of nn.Sequential. A block with hooks runs by itself, so that the hooks see its tensors.
    """

    def forward(self, x: Tensor) -> Tensor:
        blocks = list(self._modules.values())
        if is_traced(x):
            for piece in self._pieces(blocks):
                x = piece[0](x) if len(piece) == 1 else _run_stack(piece, x)
            return x
        inner = [block._modules.get("conv") for block in blocks]
        return run_steps(self, [*blocks, *filter(None, inner)], lambda: self._steps(blocks), x)

    @classmethod
    def _steps(cls, blocks: list[Any]) -> list[Step]:
        steps: list[Step] = []
        for piece in cls._pieces(blocks):
            if len(piece) == 1:
                steps.append(piece[0])
                continue
            options = [ConvLayer(None, None, block.stride, block.padding) for block in piece]  # type: ignore[arg-type]
            act = Act(piece[0].act, 0.2)
            steps.append(stack_step([block.conv for block in piece], options, act, partial(_run_stack, piece)))
        return steps

    @classmethod
    def _pieces(cls, blocks: list[Any]) -> list[list[Any]]:
        """The blocks that run together."""
        pieces: list[list[Any]] = []
        for block in blocks:
            joins = cls._joins(block)
            if pieces and joins and cls._joins(pieces[-1][0]) and cls._alike(block, pieces[-1][0]):
                pieces[-1].append(block)
            else:
                pieces.append([block])
        return pieces

    @staticmethod
    def _alike(a: ConvBlock, b: ConvBlock) -> bool:
        return a.act == b.act and (a.conv.bias is None) == (b.conv.bias is None)

    @staticmethod
    def _joins(block: nn.Module) -> bool:
        # Not isinstance: a subclass may have another forward.
        if type(block) is not ConvBlock or not block.fusable or not ACTIVATIONS[block.act].piecewise_linear:
            return False
        return bare(block) and bare(block.conv) and not block._forward_pre_hooks


def _run_stack(blocks: list[ConvBlock], x: Tensor) -> Tensor:
    layers = []
    for block in blocks:  # the same block may occur twice, and its hook sets another weight each time
        prepare(block.conv)
        layers.append(ConvLayer(block.conv.weight, block.conv.bias, block.stride, block.padding))
    return conv2d_stack(x, layers, blocks[0].act)


class LinearBlock(nn.Module):
    """Linear layer → norm → activation, on [N, C]. State dict: `linear.weight`, `linear.bias` and `norm.*`."""

    def __init__(self, in_features: int, out_features: int, *, norm: str = "none", act: str = "leaky_relu"):
        super().__init__()
        _check_norm(norm)
        self.linear = nn.Linear(in_features, out_features, bias=norm != "batch")
        if norm == "spectral":
            spectral_norm(self.linear)
        self.norm = nn.BatchNorm1d(out_features) if norm == "batch" else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if not bare(self.linear):  # the layer has hooks of the user, which run when it is called
            x = self.linear(x)
            return bias_act(x if self.norm is None else self.norm(x), None, self.act)
        prepare(self.linear)
        # PyTorch's matrix product adds the bias in the same pass.
        x = F.linear(x, self.linear.weight, self.linear.bias)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act == "linear" else bias_act(x, None, self.act)

    def extra_repr(self) -> str:
        return f"act={self.act}"


def _check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise UsageError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
