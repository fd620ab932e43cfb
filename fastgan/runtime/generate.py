"""Images and latent walks from a session of a generator: one seed, one image. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastgan.errors import UsageError
from fastgan.runtime.labels import names_in, number_of

#: A latent z and its label (0 for an unconditional generator).
Point = tuple[np.ndarray, int]
Interpolation = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def latent(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """z float32 of that shape from N(0, 1), determined by the seed alone, whatever else is generated with it."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical interpolation from a (t = 0) to b (t = 1), float32 of their shape; norms are interpolated linearly.

    In many dimensions nearly all samples of N(0, 1) have about the same norm. The straight line between two of them
    passes through smaller norms, with which the generator was not trained (White 2016, arXiv:1609.04468).
    """
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    if t in (0, 1) or not all(lengths):
        return (a if t == 0 else b if t == 1 else (1 - t) * a + t * b).astype(np.float32)
    angle = np.arccos(np.clip(x @ y / (lengths[0] * lengths[1]), -1, 1))
    if np.sin(angle) < 1e-6:  # parallel, or antiparallel, where no shortest arc exists
        mixed = (1 - t) * x + t * y
    else:
        mixed = np.sin((1 - t) * angle) / np.sin(angle) * x / lengths[0]
        mixed = mixed + np.sin(t * angle) / np.sin(angle) * y / lengths[1]
        mixed = mixed * ((1 - t) * lengths[0] + t * lengths[1])
    return mixed.reshape(a.shape).astype(np.float32)


def lerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The straight line from a (t = 0) to b (t = 1), float32 of their shape."""
    return a if t == 0 else b if t == 1 else ((1 - t) * a + t * b).astype(np.float32)


#: How walks interpolate between latents.
BETWEEN = {"spherical": slerp, "linear": lerp}


def walk(
    points: list[np.ndarray], frames: int, *, loop: bool = False, between: Interpolation = slerp
) -> Iterator[np.ndarray]:
    """The latents of a walk: `frames` from each point toward the next one, and at the end the last point.

    between(a, b, t): interpolates. loop: the walk returns to the first point, which is not repeated at the end, so that
    a repeated video is seamless.
    """
    segments = len(points) if loop else len(points) - 1
    for i in range(segments):
        a, b = points[i], points[(i + 1) % len(points)]
        for step in range(frames):
            yield between(a, b, step / frames)
    if not loop:
        yield points[-1]


def images(session: Any, points: Iterable[Point], batch: int = 16, **controls: float) -> Iterator[np.ndarray]:
    """uint8 [H, W, C] for each point, in batches of `batch` at most.

    session: a `fastgan.runtime.Session` of a generator from latents, or a function like it with the attribute `spec`.
    controls: such as truncation_psi, where the session has them.
    """
    gathered: list[Point] = []
    for point in points:
        gathered.append(point)
        if len(gathered) == batch:
            yield from _run(session, gathered, controls)
            gathered = []
    if gathered:
        yield from _run(session, gathered, controls)


def _run(session: Any, points: list[Point], controls: dict[str, float]) -> Iterator[np.ndarray]:
    low, high = session.spec.range
    y = [np.array([label for _, label in points], np.int64)] if session.spec.classes else []
    result = np.asarray(session(np.stack([z for z, _ in points]), *y, **controls), np.float32)
    levels = np.clip(np.rint((result - low) * (255 / (high - low))), 0, 255)
    yield from np.nan_to_num(levels).astype(np.uint8).transpose(0, 2, 3, 1)


def points(session: Any, seeds: list[int], label: int | str | None) -> Iterator[Point]:
    """The latent and label of each seed, computed one after another.

    label: the class of all images, by number or by name; None for the seed modulo the number of classes. Raises
    UsageError for a model that is not a generator from latents, and for a class that it does not have.
    """
    spec = session.spec
    if spec.kind != "latent":
        raise UsageError(f"model: expected a generator from latents, got one from {spec.origin}")
    if label is not None:
        label = number_of(label, spec.classes, names_in(getattr(session, "about", {}), spec.classes))
    labels = [seed % max(1, spec.classes) if label is None else label for seed in seeds]
    return ((latent(seed, spec.latent_shape), one) for seed, one in zip(seeds, labels, strict=True))
