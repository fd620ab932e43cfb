"""fastgan sample: images from a trained generator."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import Class, parse
from fastgan.errors import FastganError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from fastgan.train.config import DataConfig
    from fastgan.train.networks import Trained

#: Real images with which selected samples are compared, and the most samples drawn for it.
_COMPARED, _DRAWN = 1000, 20_000
_BATCH = 100


@dataclass
class _Sample:
    """Make a grid of images from a run or from an exported generator."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL.onnx")]
    """run directory, or exported generator"""
    out: Path = Path("grid.png")
    """PNG to write"""
    overwrite: bool = False
    """replace an existing file"""
    n: int = 64
    """how many images"""
    seed: int = 0
    """seed of the latents; a run and its export give the same images for the same seed"""
    class_: Class = None
    """of a conditional generator; by default its classes in turn"""
    keep_best: float | None = None
    """draw more, and keep this fraction, ranked by the run's discriminator; the effect on the metrics is printed"""


def sample(argv: list[str]) -> None:
    """fastgan sample RUN|MODEL.onnx [--n 64] [--out grid.png] [--seed 0] [--class 3] [--keep-best 0.5]"""
    options = parse(_Sample, argv, "sample")
    if not 1 <= options.n <= 10_000:
        raise UsageError(f"n: expected a number from 1 to 10000, got {options.n}")
    if options.keep_best is not None and not 0.01 <= options.keep_best < 1:
        raise UsageError(f"keep_best: expected a fraction from 0.01 to below 1, got {options.keep_best}")
    not_a_source(options.out, options.source)
    overwritable(options.out, options.overwrite)
    from fastgan.report.images import save_grid
    from fastgan.runtime.labels import of_class
    from fastgan.runtime.session import Session, latents

    path, cost = options.source, None
    if path.suffix == ".onnx":
        if options.keep_best is not None:
            raise UsageError(
                f"keep_best: samples are ranked by the discriminator, which {path} does not contain; give its run"
            )
        session = Session(path)
        z = latents(options.n, session.latent_shape, options.seed)
        y = None if options.class_ is None else of_class(options.class_, options.n, session.spec.classes)
        start = time.perf_counter()
        images = session(z, y)
        where = f"{session.backend}, {session.provider}"
    else:
        import torch

        from fastgan.train.networks import load_generator
        from fastgan.train.samples import images_of

        trained = load_generator(path)
        y = None if options.class_ is None else of_class(options.class_, options.n, trained.classes)
        start = time.perf_counter()
        if options.keep_best is None:
            given = torch.from_numpy(latents(options.n, trained.latent_shape, options.seed))
            images = images_of(trained.generator, given, None if y is None else torch.from_numpy(y)).numpy()
        else:
            images, cost = _best(trained, options.n, options.keep_best, options.seed)
        where = f"PyTorch, step {trained.step}"
    seconds = time.perf_counter() - start
    try:
        save_grid(images, options.out, scale=max(1, 64 // images.shape[-1]))
    except OSError as error:
        raise UsageError(f"out: {options.out} cannot be written: {error.strerror or error}") from error
    print(f"{options.n} images in {1000 * seconds:.1f} ms ({where}): {options.out}")
    if cost is not None:
        print(f"effect of keeping {options.keep_best:g} of the samples: {cost()}")


def _best(trained: Trained, n: int, fraction: float, seed: int) -> tuple[np.ndarray, Callable[[], str]]:
    """The n drawn images with the highest scores of the run's discriminator, and a function that measures the cost."""
    import torch

    from fastgan.metrics.selection import best
    from fastgan.runtime.session import latents
    from fastgan.train.networks import load_discriminator

    discriminator = load_discriminator(trained)

    @torch.no_grad()
    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        z = torch.from_numpy(latents(count, trained.latent_shape, seed))
        images = [trained.generator(part) for part in z.split(_BATCH)]
        return torch.cat(images).numpy(), torch.cat([discriminator(part).flatten() for part in images]).numpy()

    images, scores = draw(math.ceil(n / fraction))
    data, side = trained.config.data, images.shape[-1]
    if side < trained.facts["image_shape"][-1]:  # the networks were still growing
        data = dataclasses.replace(data, resolution=side)
    return images[best(scores, n)], lambda: _cost(data, draw, fraction, seed)


def _cost(data: DataConfig, draw: Callable[[int], tuple[np.ndarray, np.ndarray]], fraction: float, seed: int) -> str:
    """The cost in metrics, measured with the run's training images and the feature extractor for them."""
    import numpy as np
    import torch

    from fastgan.data import open_source
    from fastgan.metrics.evaluate import choose
    from fastgan.metrics.extractors import open_extractor
    from fastgan.metrics.selection import cost
    from fastgan.report.images import to_uint8

    try:
        trained_on = open_source(data.source, resolution=data.resolution, channels=data.channels)
        compared = min(_COMPARED, len(trained_on), int(_DRAWN * fraction))
        real = np.ascontiguousarray(trained_on.images[choose(len(trained_on), compared, seed)])
        extractor = open_extractor("auto", trained_on, torch.device("cpu"))
        images, scores = draw(math.ceil(compared / fraction))
        return f"{cost(extractor, real, to_uint8(images), scores).sentence()}, in features of {extractor.about}"
    except FastganError as error:  # the images are useful without the data, and where nothing can be downloaded
        return f"not measured: {error}"
