"""Source images made from target images: edges, gray, a block removed, low resolution, or a function of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
from PIL import Image

from fastgan._util.checks import unknown
from fastgan._util.env import user_path
from fastgan._util.memory import require_memory
from fastgan._util.user_code import module_of_file
from fastgan.data import pixels
from fastgan.errors import UsageError

#: An image uint8 [H, W] or [H, W, 3], and its number in the set, to its source in one of these shapes.
Maker = Callable[[np.ndarray, int], np.ndarray]

#: How many times smaller a picture of low resolution is.
FACTOR = 4
#: Side of the removed block as part of the picture's sides, and its gray.
HIDDEN, FILL = 0.5, 127
#: Slope, in gray values for each pixel, at which an edge is black.
STEEP = 96.0


def edges(image: np.ndarray, number: int) -> np.ndarray:
    """Dark lines on white, uint8 [H, W]: the length of Sobel's gradient, of the color in which it is longest."""
    colors = image.astype(np.float32).reshape(*image.shape[:2], -1)
    p = np.pad(colors, ((1, 1), (1, 1), (0, 0)), "edge")
    down = p[2:, :-2] + 2 * p[2:, 1:-1] + p[2:, 2:] - p[:-2, :-2] - 2 * p[:-2, 1:-1] - p[:-2, 2:]
    right = p[:-2, 2:] + 2 * p[1:-1, 2:] + p[2:, 2:] - p[:-2, :-2] - 2 * p[1:-1, :-2] - p[2:, :-2]
    slope = np.sqrt(down**2 + right**2).max(2) / 8
    return np.clip(255 - slope * (255 / STEEP), 0, 255).round().astype(np.uint8)


def gray(image: np.ndarray, number: int) -> np.ndarray:
    """Brightness, uint8 [H, W]."""
    return np.asarray(Image.fromarray(image).convert("L"))


def mask(image: np.ndarray, number: int) -> np.ndarray:
    """The picture without a block of half its sides, which is gray, at a place of its own for each number."""
    height, width = image.shape[:2]
    high, wide = round(height * HIDDEN), round(width * HIDDEN)
    at = np.random.default_rng((0, number)).random(2)
    top, left = (int(part * (room + 1)) for part, room in zip(at, (height - high, width - wide), strict=True))
    hidden = image.copy()
    hidden[top : top + high, left : left + wide] = FILL
    return hidden


def low_resolution(image: np.ndarray, number: int) -> np.ndarray:
    """The picture reduced FACTOR times and enlarged again, both bicubic: of the same size, without its details."""
    height, width = image.shape[:2]
    small = (max(round(width / FACTOR), 1), max(round(height / FACTOR), 1))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BICUBIC))


MAKERS: dict[str, Maker] = {"edges": edges, "gray": gray, "mask": mask, "low-resolution": low_resolution}


def maker(make: str) -> Maker:
    """The function of that name, or of a user's FILE.py:FUNCTION, called with an image, and its number if it takes two.

    Raises UsageError for another name, a file that fails and a function that is not there.
    """
    if make in MAKERS:
        return MAKERS[make]
    file, given, name = make.rpartition(":")
    if not given:
        raise UsageError(f"make: {unknown('function', make, [*MAKERS])}; one of your own is FILE.py:FUNCTION")
    function = getattr(module_of_file(user_path(file), "make"), name, None)
    if not callable(function):
        raise UsageError(f"make: {file} has no function {name!r}")
    return function if _takes_two(function) else lambda image, number: function(image)


def made_sources(targets: np.ndarray, make: str) -> np.ndarray:
    """Sources of targets, uint8 [N, C, H, W], both; C of the sources is 1 or 3. Raises UsageError as `maker` does, and
    for a function that fails or returns anything else, DataError where they do not fit into memory."""
    function = maker(make)

    def one(i: int) -> np.ndarray:
        image = targets[i, 0] if targets.shape[1] == 1 else np.ascontiguousarray(targets[i].transpose(1, 2, 0))
        if make in MAKERS:
            made = function(image, i)
        else:
            try:
                made = function(np.array(image), i)
            except Exception as error:  # the user's code
                raise UsageError(f"make: {make} fails on image {i}: {type(error).__name__}: {error}") from error
        return _planes(made, image, make)

    first = one(0)
    require_memory(len(targets) * first.nbytes, f"the sources that {make} makes")
    sources = np.empty((len(targets), *first.shape), np.uint8)

    def put(i: int) -> None:
        made = first if i == 0 else one(i)
        if made.shape != first.shape:
            raise UsageError(f"make: {make} returns {list(made.shape)} (channels, height, width) for image {i}, and"
                             f" {list(first.shape)} for the first")  # fmt: skip
        sources[i] = made

    if make in MAKERS:
        with pixels.pool() as workers:
            list(workers.map(put, range(len(targets))))
    else:  # in order: it may draw random numbers, or not run in several threads
        for i in range(len(targets)):
            put(i)
    return sources


def _planes(made: object, image: np.ndarray, make: str) -> np.ndarray:
    """What a function returned as uint8 [1 or 3, H, W]."""
    height, width = image.shape[:2]
    if isinstance(made, np.ndarray) and made.dtype == np.uint8:
        if made.shape == (height, width):
            return made[None]
        if made.shape in ((height, width, 1), (height, width, 3)):
            return made.transpose(2, 0, 1)
    came = f"{made.dtype} {list(made.shape)}" if isinstance(made, np.ndarray) else type(made).__name__
    raise UsageError(
        f"make: expected {make} to return uint8 [{height}, {width}], with 1 or 3 channels behind or none, got {came}"
    )


def _takes_two(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None, 0)
    except (TypeError, ValueError):
        return False
    return True
