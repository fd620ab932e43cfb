"""Blocks of the autoencoders of taming-transformers and latent diffusion, with the names of their state dicts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError

#: Groups of a group norm, and the fewest channels of one where 32 groups do not divide them: a group of one channel
#: would take its mean away from each image.
_GROUPS, _FEWEST = 32, 4


def group_norm(channels: int) -> nn.GroupNorm:
    """A group norm with 32 groups, as the public networks have it; of other channels with groups of at least 4."""
    most = _GROUPS if channels % _GROUPS == 0 else max(channels // _FEWEST, 1)
    groups = next(n for n in range(min(_GROUPS, most), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """[N, inputs, H, W] → [N, outputs, H, W]: twice group norm, SiLU and a convolution, added to the input."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + y


class AttentionBlock(nn.Module):
    """[N, C, H, W] → the same: one head of self-attention over all positions, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        # [N, 1, H·W, C]
        q, k, v = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(found.reshape(x.shape))


class Downsample(nn.Module):
    """[N, C, H, W] → [N, C, H/2, W/2]: a strided convolution, padded at the right and bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """[N, C, H, W] → [N, C, 2H, 2W]: nearest neighbors, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The layers of one resolution: residual blocks, each with attention after it where the level has it, and a
    resampling layer behind them."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, resample: nn.Module | None, name: str):
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks)])
        self.attn = nn.ModuleList([AttentionBlock(outputs) for _ in range(blocks if attention else 0)])
        self._resample = name
        if resample is not None:
            self.add_module(name, resample)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return getattr(self, self._resample)(x) if hasattr(self, self._resample) else x


class Middle(nn.Module):
    """Between the levels: residual block, attention, residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(channels, channels), AttentionBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


def numbers(text: str, name: str) -> tuple[int, ...]:
    """ "1,2,4" → (1, 2, 4), "" → (). Raises UsageError, which begins with `name`."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name}: expected whole numbers with commas between them, such as 1,2,4, got {text!r}")
    return tuple(map(int, parts))
