"""Pictures, grids and latent walks from a generator of latents: one seed, one picture. numpy and Pillow, no torch.

label: the class of all pictures of a conditional generator; without, each seed has one of its own, seed modulo classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastgan._util.files import failure
from fastgan.errors import UsageError, WriteError
from fastgan.report.images import save_grid, save_png
from fastgan.runtime.labels import of_class
from fastgan.upscale.video.writer import VideoWriter

#: Most pictures that a grid has, and most seeds at all: more is a slip of the finger.
MAX_GRID, MAX_SEEDS = 10_000, 1_000_000
#: A latent, and the class to make of it (0 where there are none).
Point = tuple[np.ndarray, int]


def parse_seeds(text: str) -> list[int]:
    """ "0-63", "1,5,9" or both, "0-3,10", as numbers in the order given. Raises UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        # Longer numbers would be taken for a range of astronomic length before anybody counted.
        if not (_is_number(first) and (not dash or _is_number(last))):
            raise UsageError(f"seeds: expected numbers such as 0-63 or 1,5,9, got {text!r}")
        low, high = int(first), int(last or first)
        if high < low:
            raise UsageError(f"seeds: expected a range from low to high, got {part.strip()!r}")
        if len(seeds) + high - low >= MAX_SEEDS:
            raise UsageError(f"seeds: expected at most {MAX_SEEDS:,}, got {text!r}")
        seeds.extend(range(low, high + 1))
    return seeds


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def latent(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """z of a seed, float32 of that shape from N(0, 1): it depends on nothing else, so a seed means one picture."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """From a (t = 0) to b (t = 1) along the sphere, float32 of their shape; their lengths are interpolated linearly.

    In many dimensions nearly all of N(0, 1) lies at one distance from the origin. The straight line between two latents
    leaves that shell, and a generator has seen nothing in there (White 2016, arXiv:1609.04468).
    """
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    if t in (0, 1) or not all(lengths):
        return (a if t == 0 else b if t == 1 else (1 - t) * a + t * b).astype(np.float32)
    angle = np.arccos(np.clip(x @ y / (lengths[0] * lengths[1]), -1, 1))
    if np.sin(angle) < 1e-6:  # the same direction, or the opposite one, between which no arc is the shortest
        mixed = (1 - t) * x + t * y
    else:
        mixed = np.sin((1 - t) * angle) / np.sin(angle) * x / lengths[0]
        mixed = mixed + np.sin(t * angle) / np.sin(angle) * y / lengths[1]
        mixed = mixed * ((1 - t) * lengths[0] + t * lengths[1])
    return mixed.reshape(a.shape).astype(np.float32)


def walk(points: list[np.ndarray], frames: int, *, loop: bool = False) -> Iterator[np.ndarray]:
    """The latents of a walk from point to point: `frames` from each up to the next, then the last point itself.

    loop: from the last point back to the first, which then is not repeated: played over and over, it has no seam.
    """
    legs = len(points) if loop else len(points) - 1
    for leg in range(legs):
        a, b = points[leg], points[(leg + 1) % len(points)]
        for step in range(frames):
            yield slerp(a, b, step / frames)
    if not loop:
        yield points[-1]


def pictures(session: Any, points: Iterable[Point], batch: int = 16) -> Iterator[np.ndarray]:
    """uint8 [H, W, C] for each point, in batches of `batch` at most.

    session: takes z float32 [N, *spec.latent_shape], and y int64 [N] where it has classes, and gives images float32
    [N, C, H, W] in spec.range.
    """
    gathered: list[Point] = []
    for point in points:
        gathered.append(point)
        if len(gathered) == batch:
            yield from _run(session, gathered)
            gathered = []
    if gathered:
        yield from _run(session, gathered)


def _run(session: Any, points: list[Point]) -> Iterator[np.ndarray]:
    low, high = session.spec.range
    y = [np.array([label for _, label in points], np.int64)] if session.spec.classes else []
    images = np.asarray(session(np.stack([z for z, _ in points]), *y), np.float32)
    levels = np.clip(np.rint((images - low) * (255 / (high - low))), 0, 255)
    yield from np.nan_to_num(levels).astype(np.uint8).transpose(0, 2, 3, 1)


def save_pictures(session: Any, seeds: list[int], folder: Path, batch: int = 16, label: int | None = None) -> int:
    """One PNG a seed, FOLDER/seed0000.png; returns how many. Raises WriteError, UsageError for another model."""
    points = _points(session, seeds, label)
    digits = max(4, len(str(max(seeds))))
    images = pictures(session, points, batch)
    for seed, image in zip(seeds, images, strict=True):
        path = folder / f"seed{seed:0{digits}d}.png"
        with _writing(path):
            save_png(_rgb(image), path)
    return len(seeds)


def save_sheet(session: Any, seeds: list[int], path: Path, batch: int = 16, label: int | None = None) -> int:
    """All seeds in one PNG, in rows. Returns how many. Raises WriteError, UsageError for too many seeds."""
    points = _points(session, seeds, label)
    if len(seeds) > MAX_GRID:
        raise UsageError(f"seeds: expected at most {MAX_GRID:,} for one grid, got {len(seeds):,}")
    images = np.stack(list(pictures(session, points, batch)))
    images = images.transpose(0, 3, 1, 2)
    with _writing(path):
        save_grid(images, path, scale=_enlarged(images.shape[-1]))
    return len(seeds)


def save_walk(
    session: Any,
    seeds: list[int],
    path: Path,
    *,
    frames: int,
    fps: float,
    loop: bool = False,
    batch: int = 16,
    label: int | None = None,
) -> int:
    """A video that walks from seed to seed (see `walk`); how many frames it has. Raises what VideoWriter raises.

    It stays in one class, `label` or that of the first seed: there is nothing between two classes.
    """
    points = list(_points(session, seeds, label))
    if len(seeds) < 2:
        raise UsageError(f"seeds: expected at least two to walk between, got {len(seeds)}")
    one = points[0][1]
    images = pictures(session, ((z, one) for z in walk([z for z, _ in points], frames, loop=loop)), batch)
    first = next(images)
    scale = _enlarged(first.shape[1])
    size = (first.shape[0] * scale, first.shape[1] * scale)
    with VideoWriter(path, size, fps) as writer:
        writer.write(_rgb(first).repeat(scale, 0).repeat(scale, 1))
        for image in images:
            writer.write(_rgb(image).repeat(scale, 0).repeat(scale, 1))
    return writer.frames


def _points(session: Any, seeds: list[int], label: int | None) -> Iterator[Point]:
    """Latent and class of each seed, made when they are asked for."""
    spec = session.spec
    if spec.kind != "latent":
        raise UsageError("model: expected a generator of pictures from latents, got one from images to images")
    if label is not None:
        of_class(label, 1, spec.classes)
    of = [seed % max(1, spec.classes) if label is None else label for seed in seeds]
    return ((latent(seed, spec.latent_shape), one) for seed, one in zip(seeds, of, strict=True))


def _enlarged(width: int) -> int:
    """Small pictures are hard to judge, and video codecs take the edge off them."""
    return max(1, 64 // width)


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.shape[2] == 3 else image[:, :, :1].repeat(3, 2)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise failure(path, error) from error
