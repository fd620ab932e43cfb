"""fastgan sample: images from a trained generator."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import Class, parse
from fastgan.cli._source import code, no_code, run_of
from fastgan.cli.run_model import check_out, is_video, parse_seeds, save_seeds
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
    """Make images with a run, one of its checkpoints, an exported generator or a public checkpoint: a grid, or one file
    each."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL.onnx|FILE")]
    """run directory, RUN/checkpoints/STEP, exported generator or one file of a pair, public checkpoint (fastgan inspect
    FILE), or file.py:name of a module with its weights"""
    out: Path = Path("grid.png")
    """.png: a grid; a folder: one PNG for each image; with --seeds also .mp4, .webm, .mkv, .mov, .webp, .gif: a walk
    from seed to seed"""
    overwrite: bool = False
    """replace existing files"""
    n: int = 64
    """how many images"""
    seed: int = 0
    """seed of the latents; a run and its export give the same images for the same seed"""
    seeds: str | None = None
    """such as 0-63 or 1,5,9, in place of --n and --seed: each determines its image, as in fastgan run"""
    interpolate: Literal["spherical", "linear", "w"] | None = None
    """of a walk: between latents (spherical by default), or between the styles w of a StyleGAN, where seeds may be of
    different classes"""
    frames: int = 60
    """of a walk, from one seed to the next"""
    fps: float = 30.0
    """frames per second of a walk"""
    loop: bool = False
    """a walk returns to its first seed"""
    class_: Class = None
    """of a conditional generator; by default its classes in turn"""
    truncation: float | None = None
    """better images of less variety: largest absolute value of the latents, which are drawn anew beyond it (0.5); in a
    StyleGAN psi, the fraction of a style's distance from the mean style that remains (0.7)"""
    mix: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="ROWS COLUMNS")] = None
    """a grid of mixed styles of seeds such as 0-3 and 4-9, or of files of fastgan project"""
    mix_layers: str | None = None
    """the layers that are the column's in it, 0 the coarsest, such as 0-3; by default the first half"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    keep_best: float | None = None
    """draw more, and keep this fraction, ranked by the run's discriminator; the effect on the metrics is printed"""


@dataclass
class _Generator:
    """What is sampled. draw: z, labels or None, and where it has styles psi → float images [N, C, H, W] in `range`.
    about: where it computes. trained: of a run. styles: whether truncation is that of styles. opened: a session, a pair
    or a torch module."""

    latent_shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...]
    range: tuple[float, float]
    draw: Callable[..., np.ndarray]
    about: str
    opened: Any
    trained: Trained | None = None
    styles: bool = False


def sample(argv: list[str]) -> None:
    """fastgan sample RUN|MODEL.onnx [--n 64] [--out grid.png|FOLDER] [--seed 0] [--class cat] [--truncation 0.7] ..."""
    options = parse(_Sample, argv, "sample")
    if not 1 <= options.n <= 10_000:
        raise UsageError(f"n: expected a number from 1 to 10000, got {options.n}")
    if options.keep_best is not None and not 0.01 <= options.keep_best < 1:
        raise UsageError(f"keep_best: expected a fraction from 0.01 to below 1, got {options.keep_best}")
    if options.truncation is not None and not 0 < options.truncation < 1e3:
        raise UsageError(f"truncation: expected a number > 0, got {options.truncation}")
    out, suffix = options.out, options.out.suffix.lower()
    if options.seeds is not None:
        _of_seeds(options)
        return
    if is_video(out) or options.interpolate or options.loop:
        raise UsageError("seeds: a walk needs the seeds that it passes, such as --seeds 0-3; got none")
    if suffix and suffix != ".png" and not out.is_dir():
        raise UsageError(f"out: expected a .png or a folder, got {out}")
    not_a_source(out, options.source)
    if options.mix_layers is not None and options.mix is None:
        raise UsageError("mix_layers: they belong to --mix ROWS COLUMNS, which is not given")
    if options.mix is not None:
        if suffix != ".png":
            raise UsageError(f"out: expected a .png for a grid of mixed styles, got {out}")
        overwritable(out, options.overwrite)
        from fastgan.cli._styles import save_mix

        psi = 1.0 if options.truncation is None else options.truncation
        print(save_mix(str(options.source), options.network, options.mix, options.mix_layers, psi, out))
        return
    grid = suffix == ".png" and not out.is_dir()
    for path in (out,) if grid else _files(out, options.n):
        overwritable(path, options.overwrite)
    from fastgan.runtime.labels import in_turn, number_of
    from fastgan.runtime.session import latents

    if options.keep_best is not None and not options.source.is_dir():
        raise UsageError(
            f"keep_best: samples are ranked by the discriminator, which {options.source} does not contain; give its run"
        )
    generator = _open(str(options.source), options.network)
    label = None
    if options.class_ is not None:
        label = number_of(options.class_, generator.classes, generator.names)
    start, cost = time.perf_counter(), None
    if options.keep_best is None:
        import numpy as np

        psi = options.truncation if generator.styles else None
        z = latents(options.n, generator.latent_shape, options.seed, options.truncation if psi is None else None)
        y = None
        if generator.classes:
            y = in_turn(options.n, generator.classes) if label is None else np.full(options.n, label, np.int64)
        images = generator.draw(z, y) if psi is None else generator.draw(z, y, psi)
    else:
        assert generator.trained is not None
        if generator.styles and options.truncation is not None:
            raise UsageError("truncation: samples of a StyleGAN are ranked without it; leave out one of the two")
        images, cost = _best(generator.trained, options.n, options.keep_best, options.seed, options.truncation)
    seconds = time.perf_counter() - start
    low, high = generator.range
    text = _classes(generator, label)
    written = _write((images - low) * (2 / (high - low)) - 1, out, grid, text)
    of = f" of {text}" if label is not None else ""
    print(f"{options.n} images{of} in {1000 * seconds:.1f} ms ({generator.about}): {written}")
    if cost is not None:
        print(f"effect of keeping {options.keep_best:g} of the samples: {cost()}")


def _of_seeds(options: _Sample) -> None:
    """Images of seeds, or a walk between them."""
    from fastgan.runtime.labels import number_of

    for name in ("keep_best", "mix", "mix_layers"):
        if getattr(options, name) is not None:
            raise UsageError(f"{name}: it draws its own images; leave out --seeds")
    if not 1 <= options.frames <= 100_000:
        raise UsageError(f"frames: expected a number from 1 to 100000, got {options.frames}")
    if (options.interpolate or options.loop) and not is_video(options.out):
        raise UsageError(f"out: expected a video for a walk, such as walk.mp4, got {options.out}")
    seeds, out = parse_seeds(options.seeds or ""), options.out
    not_a_source(out, options.source)
    check_out(seeds, out, options.overwrite)
    generator = _open(str(options.source), options.network)
    label = None
    if options.class_ is not None:
        label = number_of(options.class_, generator.classes, generator.names)
    if options.truncation is not None and not generator.styles:
        raise UsageError("truncation: latents of seeds are not truncated, only the styles of a StyleGAN")
    walk = {
        "frames": options.frames, "fps": options.fps, "loop": options.loop,
        "interpolate": options.interpolate or "spherical",
    }  # fmt: skip
    print(
        save_seeds(
            _session(generator), seeds, out, walk, generator.about, generator.names, label=label,
            psi=options.truncation,
        )
    )  # fmt: skip


def _session(generator: _Generator) -> Any:
    """A session of a generator, or a pair of them."""
    from fastgan.runtime.pair import StylePair
    from fastgan.runtime.session import Session

    if isinstance(generator.opened, Session | StylePair):  # without torch
        return generator.opened
    from fastgan.export.halves import MappingHalf, SynthesisHalf, has_styles

    if has_styles(generator.opened):
        halves = MappingHalf(generator.opened), SynthesisHalf(generator.opened)
        return StylePair(*(Session(half, backend="torch") for half in halves))
    return Session(generator.opened, backend="torch", latent_shape=generator.latent_shape)


def _open(source: str, network: str | None) -> _Generator:
    """The generator that a user names."""
    from fastgan.runtime.pair import StylePair, is_pair, open_generator

    path = Path(source)
    if path.suffix == ".onnx" or is_pair(path):
        no_code(network, source)
        session = open_generator(path)
        spec = session.spec
        if spec.kind != "latent":
            raise UsageError(f"model: expected a generator from latents, got one from {spec.origin} in {path}")
        styles = isinstance(session, StylePair) or any(one.name == "truncation_psi" for one in spec.controls)

        def draw(z: np.ndarray, y: np.ndarray | None, psi: float | None = None) -> np.ndarray:
            return session(z, y) if psi is None else session(z, y, truncation_psi=psi)

        about = f"{session.backend}, {session.provider}"
        facts = spec.latent_shape, spec.classes, session.class_names, spec.range
        return _Generator(*facts, draw, about, session, styles=styles)
    from fastgan.runtime.spec import Spec

    if (run := run_of(path)) is None and (":" in source or path.is_file()):
        from fastgan.export.source import open_network

        no_code(network, source)
        module = open_network(source)
        module.eval().requires_grad_(False)
        spec = Spec.of(module)
        if spec.kind != "latent":
            raise UsageError(f"source: expected a generator from latents, got one from {spec.origin} in {source}")
        about, styles = f"PyTorch, {source}", hasattr(module, "mapping")
        facts = spec.latent_shape, spec.classes, (), spec.range
        return _Generator(*facts, _drawing(module), about, module, styles=styles)
    from fastgan.train.networks import load_generator

    run = path if run is None else run
    trained = load_generator(run, None if path == run else path, code(network))
    trained.require_latents()
    drawing = _drawing(trained.generator)
    about = f"PyTorch, step {trained.step}"
    facts = trained.latent_shape, trained.classes, trained.class_names, trained.range
    return _Generator(*facts, drawing, about, trained.generator, trained, hasattr(trained.generator, "mapping"))


def _drawing(network: Any) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """`_Generator.draw` of a torch module."""
    import torch

    @torch.no_grad()
    def draw(z: np.ndarray, y: np.ndarray | None, psi: float | None = None) -> np.ndarray:
        options = {} if psi is None else {"truncation_psi": psi}
        given = [torch.from_numpy(values).split(_BATCH) for values in (z, y) if values is not None]
        return torch.cat([network(*parts, **options) for parts in zip(*given, strict=True)]).float().numpy()

    return draw


def _classes(generator: _Generator, label: int | None) -> str:
    """What class the images are of: "class 3 ('cat')", "classes in turn: 'cat', 'dog'", or "" without classes."""
    from fastgan.runtime.labels import described

    if not generator.classes:
        return ""
    if label is not None:
        return described(label, generator.names)
    names = map(repr, generator.names) if generator.names else map(str, range(generator.classes))
    return f"classes in turn: {', '.join(names)}"


def _files(folder: Path, n: int) -> list[Path]:
    digits = max(4, len(str(n - 1)))
    return [folder / f"sample{i:0{digits}d}.png" for i in range(n)]


def _write(images: np.ndarray, out: Path, as_grid: bool, text: str) -> Path:
    """Images [N, C, H, W] in [-1, 1] as a grid under `text`, or each as a file; where they were written."""
    from fastgan.report.captions import above
    from fastgan.report.images import grid, save_png, to_uint8

    pixels = to_uint8(images)
    try:
        if as_grid:
            picture = grid(pixels, scale=max(1, 64 // images.shape[-1]))
            return save_png(above(picture, text) if text else picture, out)
        for path, image in zip(_files(out, len(pixels)), pixels, strict=True):
            save_png(image.transpose(1, 2, 0).repeat(3 // len(image), 2), path)
    except OSError as error:
        raise UsageError(f"out: {out} cannot be written: {error.strerror or error}") from error
    return out


def _best(
    trained: Trained, n: int, fraction: float, seed: int, truncation: float | None
) -> tuple[np.ndarray, Callable[[], str]]:
    """The n drawn images with the highest scores of the run's discriminator, and a function that measures the cost."""
    import torch

    from fastgan.metrics.selection import best
    from fastgan.runtime.session import latents
    from fastgan.train.networks import load_discriminator

    discriminator = load_discriminator(trained)

    @torch.no_grad()
    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        z = torch.from_numpy(latents(count, trained.latent_shape, seed, truncation))
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
