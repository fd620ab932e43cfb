"""Geometric augmentation: all transformations of an image as one affine map, sampled at twice the resolution.

Karras et al. 2020 (arXiv:2006.06676, appendix B): images are upsampled twice with the wavelet sym6, sampled bilinearly
where the map says, and downsampled with the same wavelet, so that rotations and scalings do not alias. Outside of an
image lie its mirror images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.ops import upfirdn2d
from fastgan.regularization.ada.draws import chosen, normal
from fastgan.regularization.ada.wavelets import SYM6, mirrored

_TAPS = len(SYM6)
#: The tap nearest to the filter's center of mass (5.1), so that every other fine sample lies on a pixel's center.
_CENTER = 5
#: Pixels beside an image that the samples inside of it depend on.
_HALO = 6


def blit_maps(u: Tensor, p: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Flips, rotations by 90° and translations by whole pixels: [N, 3, 3], from where each output pixel is taken.

    u: uniform, [N, 7]: three choices with probability p, a flip or none, one of four rotations, the translations as
    −1/8 to 1/8 of width and height. Maps take offsets from the center, in pixels (x to the right, y downward).
    """
    flip, rotation, shift = (chosen(u[:, i], p) for i in range(3))
    ones = torch.ones_like(u[:, 0])
    mirror = torch.where(flip & (u[:, 3] < 0.5), -ones, ones)
    quarters = torch.where(rotation, (u[:, 4] * 4).floor(), 0 * ones)
    x, y = (
        torch.where(shift, ((2 * u[:, 5 + i] - 1) / 8 * side).round(), 0 * ones) for i, side in enumerate(size[::-1])
    )
    return _scaling(mirror, ones) @ _rotation(quarters * (math.pi / 2), exact=True) @ _translation(-x, -y)


def geometric_maps(u: Tensor, p: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Scaling, rotation, anisotropic scaling, rotation and translation: [N, 3, 3], as in `blit_maps`.

    u: uniform, [N, 11]: five choices; the logarithms of the scales to base 2 from N(0, 0.2²); angles uniform; the
    translation from N(0, (1/8)²) of width and height. A rotation is chosen with 1 − √(1 − p), so that one of both
    happens with p.
    """
    once = None if p is None else 1 - (1 - p).clamp(min=0).sqrt()
    choices = [chosen(u[:, i], q) for i, q in enumerate((p, once, p, once, p))]
    ones, zeros = torch.ones_like(u[:, 0]), torch.zeros_like(u[:, 0])
    scale = torch.where(choices[0], torch.exp2(0.2 * normal(u[:, 5])), ones)
    before, after = (torch.where(choices[i], (2 * u[:, j] - 1) * math.pi, zeros) for i, j in ((1, 6), (3, 8)))
    stretch = torch.where(choices[2], torch.exp2(0.2 * normal(u[:, 7])), ones)
    x, y = (torch.where(choices[4], normal(u[:, 9 + i]) / 8 * side, zeros) for i, side in enumerate(size[::-1]))
    # Inverses, from the output back to the input: the last transformation first.
    maps = _scaling(1 / scale, 1 / scale) @ _rotation(before) @ _scaling(1 / stretch, stretch)
    return maps @ _rotation(after) @ _translation(-x, -y)


def warped(images: Tensor, maps: Tensor) -> Tensor:
    """Images [N, C, H, W] sampled where affine maps [N, 3, 3] say; differentiable in the images to every order."""
    height, width = images.shape[2:]
    fine = _upsampled(images)
    # The fine samples that the downsampling of the output needs, as offsets from the center in pixels.
    y, x = (_positions(side, images) - (side - 1) / 2 for side in (height, width))
    grid = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None], torch.ones_like(x)[None, :]), -1)
    where = grid.flatten(0, 1) @ maps.to(images.dtype).transpose(1, 2)  # [N, positions, 3]
    places = [
        _folded(where[:, :, i] + (side - 1) / 2, side) * 2 + (_CENTER + 2 * _HALO - (_TAPS - 1))
        for i, side in enumerate((width, height))
    ]
    return _downsampled(_sampled(fine, *places).unflatten(2, (len(y), len(x))))


def _positions(side: int, like: Tensor) -> Tensor:
    """Of the fine samples that `_downsampled` reads, in pixels."""
    return (torch.arange(2 * side + _TAPS - 2, dtype=like.dtype, device=like.device) - _CENTER) / 2


def _folded(position: Tensor, side: int) -> Tensor:
    """Positions reflected into [0, side − 1]."""
    period = max(2 * side - 2, 1)
    position = position - period * (position / period).floor()
    return torch.minimum(position, period - position)


def _upsampled(images: Tensor) -> Tensor:
    """Twice as fine, with _HALO mirrored pixels on each side: [N, C, 2(H + 12) − 12, ...]."""
    for axis in (2, 3):
        side = images.shape[axis]
        images = images.index_select(axis, mirrored(torch.arange(-_HALO, side + _HALO, device=images.device), side))
    taps = torch.tensor(SYM6, dtype=images.dtype, device=images.device) / math.sqrt(2)
    # Without those that miss pixels beyond the halo, at the far end one more than at the near one.
    return upfirdn2d(images, taps, up=2, padding=(0, -1, 0, -1), gain=4.0)


def _downsampled(fine: Tensor) -> Tensor:
    """Half as fine: the adjoint of the upsampling, so that both together change nothing."""
    taps = torch.tensor(SYM6, dtype=fine.dtype, device=fine.device) / math.sqrt(2)
    return upfirdn2d(fine, taps.flip(0), down=2)


def _sampled(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images [N, C, H, W] at positions x and y [N, K], bilinearly: [N, C, K].

    By gather, since torch's grid_sample has no second derivative.
    """
    height, width = images.shape[2:]
    flat = images.flatten(2)
    left, top = x.floor(), y.floor()
    along, down = (x - left)[:, None], (y - top)[:, None]
    columns, rows = ([low.long().clamp(0, n - 1), (low.long() + 1).clamp(0, n - 1)]
                     for low, n in ((left, width), (top, height)))  # fmt: skip

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(2, (row * width + column)[:, None].expand(-1, flat.shape[1], -1))

    upper = torch.lerp(at(rows[0], columns[0]), at(rows[0], columns[1]), along.expand(-1, flat.shape[1], -1))
    lower = torch.lerp(at(rows[1], columns[0]), at(rows[1], columns[1]), along.expand(-1, flat.shape[1], -1))
    return torch.lerp(upper, lower, down.expand(-1, flat.shape[1], -1))


def _matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix((x, zero, zero), (zero, y, zero), (zero, zero, one))


def _rotation(angle: Tensor, exact: bool = False) -> Tensor:
    """exact: of multiples of 90°, whose sines are whole numbers."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    c, s = (f(angle).round() if exact else f(angle) for f in (torch.cos, torch.sin))
    return _matrix((c, -s, zero), (s, c, zero), (zero, zero, one))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix((one, zero, x), (zero, one, y), (zero, zero, one))
