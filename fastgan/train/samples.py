"""The pictures that a run leaves while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fastgan.report.images import beside, grid, save_grid, save_png, to_uint8
from fastgan.train import rng_state

if TYPE_CHECKING:
    from fastgan.train.trainer import Trainer

COUNT = 64
#: Images of the panels that compare, and rows and columns of those that go along something.
COMPARED, ROWS, ALONG = 16, 4, 8
#: Pairs of the panels of sources.
PAIRS = 8
#: By which latents are multiplied from left to right.
TRUNCATIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
CLASSES = 10


def latents(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """z [64, *shape] of a panel, on the CPU.

    From a generator of its own for each panel: drawing pictures must not change what is trained.
    """
    (mixed,) = np.random.SeedSequence((seed, step, COUNT)).generate_state(1, np.uint64)
    source = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(COUNT, *shape, generator=source)


def path(first: Tensor, second: Tensor, count: int) -> Tensor:
    """[count, *shape]: from one set of latents to the other, both ends included.

    Along the circle and not the chord: in the middle of the chord latents are shorter than any that are drawn.
    """
    angle = torch.linspace(0, torch.pi / 2, count, device=first.device).view(-1, *[1] * first.dim())
    return torch.cos(angle) * first + torch.sin(angle) * second


def images_of(generator: nn.Module, z: Tensor, y: Tensor | None = None) -> Tensor:
    """Images of a generator for z [N, *latent_shape], and y int64 [N] where it has classes; all in turn if None."""
    classes = int(getattr(generator, "classes", 0))
    if not classes:
        return generator(z)
    return generator(z, torch.arange(len(z), device=z.device) % classes if y is None else y.to(z.device))


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, device: torch.device, y: Tensor | None = None) -> np.ndarray:
    """`images_of` from latents anywhere, as float32 [N, C, H, W] in numpy."""
    return images_of(generator, z.to(device), y).float().cpu().numpy()


def save_all(trainer: Trainer, run: Path) -> None:
    """Every panel of this step, where the generator makes pictures. The random numbers of the run stay as they are."""
    with rng_state.kept(trainer.device):
        (save_pairs if trainer.sources else save_made)(trainer, run)


def save_made(trainer: Trainer, run: Path) -> None:
    """What the generator makes of fixed and of fresh latents, on the way between them, beside real images."""
    seed, step, shape = trainer.config.seed, trainer.step, trainer.noise.latent_shape
    fixed, fresh = latents(seed, 0, shape), latents(seed, step, shape)

    def picture(kind: str) -> Path:
        return run / "samples" / f"{kind}-{step:08d}.png"

    made = _drawn(trainer, fresh)
    if not _pictures(made):
        return
    save(_drawn(trainer, fixed), picture("fixed"))
    save(made, picture("fresh"))
    rows = torch.arange(ROWS)
    strips = path(fixed[:ROWS], fixed[ROWS : 2 * ROWS], ALONG).transpose(0, 1)
    save(_each(trainer, strips, rows), picture("strips"), columns=ALONG)
    truncated = fixed[:ROWS, None] * torch.tensor(TRUNCATIONS).view(-1, *[1] * len(shape))
    save(_each(trainer, truncated, rows), picture("truncation"), columns=len(TRUNCATIONS))
    if classes := int(getattr(trainer.ema.module, "classes", 0)):
        # Rows of one class, columns of one latent.
        chosen = torch.linspace(0, classes - 1, min(classes, CLASSES)).round().long()
        same = fixed[:ALONG].expand(len(chosen), *fixed[:ALONG].shape)
        save(_each(trainer, same, chosen), picture("classes"), columns=ALONG)
    seen = trainer.growth.enlarged(trainer.seen["real"][:COMPARED])
    fakes, real = to_uint8(made[:COMPARED]), to_uint8(seen.float().cpu().numpy())
    scale = _scale(fakes)
    left, right = (grid(images, 4, scale=scale) for images in (real, fakes[: len(real)]))
    save_png(beside(left, right), picture("beside"))
    if trainer.neighbors is not None:
        pairs = np.stack([fakes, trainer.neighbors.of(fakes)], 1).reshape(-1, *fakes.shape[1:])
        save_grid(pairs, picture("nearest"), 8, scale)


def save_pairs(trainer: Trainer, run: Path) -> None:
    """Sources, what is made of them and their targets, in three rows: of pairs held out, and of the last batch."""
    for kind, pairs in (("fixed", trainer.held_out), ("fresh", trainer.seen)):
        if pairs is None:
            continue
        source, target = (pairs[name][:PAIRS].float().cpu() for name in ("z", "real"))
        made = sample(trainer.ema.module, pairs["z"][:PAIRS], trainer.device)
        rows = in_rows(source, torch.from_numpy(made), target)
        save(rows, run / "samples" / f"{kind}-{trainer.step:08d}.png", columns=len(target))


def in_rows(source: Tensor, made: Tensor, target: Tensor) -> np.ndarray:
    """A grid's images [3·N, C, H, W] of N pairs: sources as large as targets, both in color where one of them is.

    Sources that are no pictures, of other than 1 or 3 channels, are left out, as are those of what is none.
    """
    rows = [made, target]
    if source.dim() == target.dim() == 4 and {source.shape[1], target.shape[1]} <= {1, 3}:
        rows.insert(0, interpolate(source, size=target.shape[2:]))
    channels = max(row.shape[1] for row in rows)
    return torch.cat([row.expand(-1, channels, *row.shape[2:]) for row in rows]).numpy()


def save(images: np.ndarray, path: Path, columns: int | None = None) -> None:
    """A grid of [N, C, H, W], where these are pictures."""
    if _pictures(images):
        save_grid(images, path, columns, _scale(images))


def _each(trainer: Trainer, z: Tensor, classes: Tensor) -> np.ndarray:
    """Images of z [R, N, *latent_shape], each row of the class of its number where the generator has classes."""
    y = classes % max(1, int(getattr(trainer.ema.module, "classes", 0)))
    return _drawn(trainer, z.flatten(0, 1), y.repeat_interleave(z.shape[1]))


@torch.no_grad()
def _drawn(trainer: Trainer, z: Tensor, y: Tensor | None = None) -> np.ndarray:
    """Images for z and y as `sample` gives them; while the networks grow, in the size that they grow to."""
    images = images_of(trainer.ema.module, z.to(trainer.device), y)
    return trainer.growth.enlarged(images).float().cpu().numpy()


def _pictures(images: np.ndarray) -> bool:
    return images.ndim == 4 and images.shape[1] in (1, 3)


def _scale(images: np.ndarray) -> int:
    return max(1, 64 // images.shape[-1])
