"""JPEG as libjpeg compresses and decompresses, on batches, with a quality of its own for each image.

Without the entropy coding, which loses nothing: color conversion, averaging of the chroma over 2 × 2 pixels (4:2:0),
the cosine transform of 8 × 8 blocks, division by the tables of ISO/IEC 10918-1 (annex K) scaled by the quality,
rounding, and all of it back.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 8
# fmt: off
_LUMA = (
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Images [N, C, H, W] in [0, 1] as they come back from a JPEG file: multiples of 1/255 in [0, 1].

    C 1: gray; C 3: RGB, with the chroma at half the size. quality: 1 to 100 as in libjpeg, rounded, [N].
    """
    pixels = (images * 255).round().clamp(0, 255)
    percent = quality.to(images.dtype).round().clamp(1, 100)
    scale = torch.where(percent < 50, (5000 / percent).floor(), 200 - 2 * percent)
    if images.shape[1] == 1:
        return _coded(pixels, _table(_LUMA, scale)).div(255)
    luma, chroma = _to_ycc(pixels)
    height, width = images.shape[2:]
    # A block of chroma covers 16 pixels. libjpeg repeats the last column before the means are taken, and rows after it.
    half = _coded(_halved(_padded(chroma, 2, 2 * _BLOCK)), _table(_CHROMA, scale))[..., : (width + 1) // 2]
    # libjpeg's "fancy upsampling": 3/4 of the nearer and 1/4 of the farther one.
    whole = F.interpolate(half, scale_factor=2, mode="bilinear")[:, :, :height, :width]
    # In sixteenths, of which libjpeg rounds halves up and down in turn.
    whole = (whole + (8 - torch.arange(width, device=whole.device) % 2) / 16).floor()
    return _to_rgb(_coded(luma, _table(_LUMA, scale)), whole).div(255)


def _to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Y [N, 1, H, W] and Cb, Cr [N, 2, H, W] of JFIF, 0 to 255, rounded."""
    r, g, b = rgb.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack([(b - y) / 1.772, (r - y) / 1.402], 1).add_(128)
    return y.round_()[:, None], chroma.round_().clamp_(0, 255)


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    y, (cb, cr) = luma[:, 0], (chroma - 128).unbind(1)
    return torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1).round_().clamp_(0, 255)


def _halved(chroma: Tensor) -> Tensor:
    """Means of 2 × 2 pixels; libjpeg rounds halves down and up in turn, along a row."""
    means = F.avg_pool2d(chroma, 2)
    turn = torch.arange(means.shape[-1], device=means.device) % 2
    return (means + (1 + turn) / 4).floor()


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Planes [N, C, H, W] through transform, quantization with tables [N, 64], and back: rounded, 0 to 255."""
    n, channels, height, width = planes.shape
    padded = _padded(planes - 128, _BLOCK, _BLOCK)
    down, along = padded.shape[2] // _BLOCK, padded.shape[3] // _BLOCK
    blocks = padded.view(n, channels, down, _BLOCK, along, _BLOCK).transpose(3, 4).reshape(n, -1, _BLOCK**2)
    transform = _transform(planes.device)
    steps = table[:, None]
    coefficients = (blocks @ transform.T).div_(steps).round_().mul_(steps)
    blocks = (coefficients @ transform).view(n, channels, down, along, _BLOCK, _BLOCK).transpose(3, 4)
    return blocks.reshape(padded.shape)[:, :, :height, :width].add(128).round_().clamp_(0, 255)


def _padded(planes: Tensor, rows: int, columns: int) -> Tensor:
    """With the last row and column repeated up to multiples of both numbers."""
    below, right = -planes.shape[2] % rows, -planes.shape[3] % columns
    return F.pad(planes, (0, right, 0, below), mode="replicate") if below or right else planes


def _table(base: tuple[int, ...], scale: Tensor) -> Tensor:
    """libjpeg's quantization steps: [N, 64], 1 to 255."""
    steps = (_constant(base, scale.device) * scale[:, None] + 50) / 100
    return steps.floor().clamp(1, 255)


@cache
@torch.inference_mode(False)  # what is kept may meet a gradient later
def _constant(base: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(base, dtype=torch.float32, device=device)


@cache
@torch.inference_mode(False)  # what is kept may meet a gradient later
def _transform(device: torch.device) -> Tensor:
    """The orthonormal two-dimensional cosine transform of a block of 64 pixels, [64, 64]."""
    k = torch.arange(_BLOCK, dtype=torch.float64)
    one = (math.pi / (2 * _BLOCK) * k[:, None] * (2 * k[None, :] + 1)).cos() * math.sqrt(2 / _BLOCK)
    one[0] /= math.sqrt(2)
    return torch.kron(one, one).float().to(device)
