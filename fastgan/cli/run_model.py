"""fastgan run: images, a grid or a latent walk from an exported generator. Imports neither torch nor fastgan.train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import Class, parse
from fastgan.errors import UsageError, WriteError

if TYPE_CHECKING:
    import numpy as np

_VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".webp", ".gif")
#: Limits that catch typing errors: images in one grid, and seeds in all.
MAX_GRID, MAX_SEEDS = 10_000, 1_000_000


@dataclass
class _Run:
    """Generate images with an exported generator. The suffix of --out decides what is written."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL.onnx")]
    """exported generator, or one file of a pair"""
    seeds: str = "0-63"
    """such as 0-63 or 1,5,9; a seed determines its image"""
    out: Path = Path("grid.png")
    """.png: a grid; .mp4, .webm, .mkv, .mov, .webp, .gif: a latent walk from seed to seed; a folder: one PNG a seed"""
    class_: Class = None
    """of a conditional generator; by default the seed modulo the number of classes, in a walk that of the first seed"""
    frames: int = 60
    """of a walk, from one seed to the next"""
    fps: float = 30.0
    """frames per second of a walk"""
    loop: bool = False
    """a walk returns to its first seed"""
    interpolate: Literal["spherical", "linear", "w"] = "spherical"
    """of a walk: between latents, or between the styles w of a pair, where seeds may be of different classes"""
    batch: int = 16
    """images generated at once"""
    overwrite: bool = False
    """replace existing files"""
    trust: tyro.conf.FlagCreatePairsOff[bool] = False
    """open .pt2 files, whose native code runs with your rights: only those that you trust"""


def run(argv: list[str]) -> None:
    """fastgan run MODEL.onnx [--seeds 0-63] [--class cat] [--out FOLDER|grid.png|walk.mp4] [--frames 60] [...]"""
    options = parse(_Run, argv, "run")
    for name, most in (("frames", 100_000), ("batch", 4096)):
        if not 1 <= getattr(options, name) <= most:
            raise UsageError(f"{name}: expected a number from 1 to {most}, got {getattr(options, name)}")
    from fastgan.runtime.labels import number_of
    from fastgan.runtime.pair import open_generator

    seeds, out = parse_seeds(options.seeds), options.out
    not_a_source(out, options.source)
    check_out(seeds, out, options.overwrite)
    session = open_generator(options.source, trust=options.trust)
    label = None
    if options.class_ is not None:
        label = number_of(options.class_, session.spec.classes, session.class_names)
    walk = {"frames": options.frames, "fps": options.fps, "loop": options.loop, "interpolate": options.interpolate}
    print(
        save_seeds(session, seeds, out, walk, session.provider, session.class_names, batch=options.batch, label=label)
    )


def is_video(out: Path) -> bool:
    """Whether a path to write is that of a video."""
    return out.suffix.lower() in _VIDEOS and not out.is_dir()


def check_out(seeds: list[int], out: Path, overwrite: bool) -> None:
    """Raise UsageError for an `out` that is no place for images of seeds, or where files stand already."""
    if out.suffix and out.suffix.lower() not in (".png", *_VIDEOS) and not out.is_dir():
        raise UsageError(f"out: expected a folder, a .png, or one of {', '.join(_VIDEOS)}, got {out}")
    for path in [out] if out.suffix and not out.is_dir() else _seed_files(seeds, out):
        overwritable(path, overwrite)


def parse_seeds(text: str) -> list[int]:
    """ "0-63", "1,5,9" or both, "0-3,10", as numbers in the order given. Raises UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
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


# session: a Session of a generator from latents, or a StylePair. label: the class of all images, see generate.points.
# psi: truncation of styles, where it has them. All return the number of images, and raise UsageError for other models
# and WriteError where a file cannot be written.


def save_seeds(
    session: Any,
    seeds: list[int],
    out: Path,
    walk: dict[str, Any],
    about: str,
    names: Any,
    *,
    batch: int = 16,
    label: int | None = None,
    psi: float | None = None,
) -> str:
    """Images of seeds as files or as a grid, or a walk between them, as `out` asks for. Returns a line that says so.

    walk: frames, fps, loop and interpolate of `save_walk`. about: what makes the images. names: of the classes.
    """
    from fastgan.runtime.labels import described

    how: dict[str, Any] = {"batch": batch, "label": label, "psi": psi}
    start = time.perf_counter()
    if is_video(out):
        what = f"a walk of {save_walk(session, seeds, out, **walk, **how)} frames"
    elif out.suffix.lower() == ".png" and not out.is_dir():
        what = f"{save_sheet(session, seeds, out, **how)} images in a grid"
    else:
        what = f"{save_images(session, seeds, out, **how)} images"
    what += f" of {described(label, names)}" if label is not None else ""
    return f"{what} in {time.perf_counter() - start:.1f} s ({about}): {out}"


def save_images(
    session: Any,
    seeds: list[int],
    folder: Path,
    batch: int = 16,
    label: int | str | None = None,
    psi: float | None = None,
) -> int:
    """One PNG for each seed: FOLDER/seed0000.png."""
    from fastgan.report.images import save_png
    from fastgan.runtime import generate

    points = generate.points(session, seeds, label)
    images = generate.images(session, points, batch, **_controls(psi))
    for path, image in zip(_seed_files(seeds, folder), images, strict=True):
        with _as_write_error(path):
            save_png(_rgb(image), path)
    return len(seeds)


def _controls(psi: float | None) -> dict[str, float]:
    return {} if psi is None else {"truncation_psi": psi}


def _seed_files(seeds: list[int], folder: Path) -> list[Path]:
    digits = max(4, len(str(max(seeds))))
    return [folder / f"seed{seed:0{digits}d}.png" for seed in seeds]


def save_sheet(
    session: Any,
    seeds: list[int],
    path: Path,
    batch: int = 16,
    label: int | str | None = None,
    psi: float | None = None,
) -> int:
    """All seeds in one PNG, row by row; at most MAX_GRID."""
    import numpy as np

    from fastgan.report.images import save_grid
    from fastgan.runtime import generate

    points = generate.points(session, seeds, label)
    if len(seeds) > MAX_GRID:
        raise UsageError(f"seeds: expected at most {MAX_GRID:,} for one grid, got {len(seeds):,}")
    images = np.stack(list(generate.images(session, points, batch, **_controls(psi)))).transpose(0, 3, 1, 2)
    with _as_write_error(path):
        save_grid(images, path, scale=_scale(images.shape[-1]))
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
    label: int | str | None = None,
    interpolate: str = "spherical",
    psi: float | None = None,
) -> int:
    """A video of a latent walk from seed to seed, see generate.walk.

    interpolate: "spherical" or "linear", between latents: all of it is of one class, `label` or that of the first seed,
    because labels cannot be interpolated. "w": between the styles of a StylePair, each of its own seed's class.
    """
    import numpy as np

    from fastgan.runtime import generate
    from fastgan.upscale.video.writer import VideoWriter

    points = list(generate.points(session, seeds, label))
    if len(seeds) < 2:
        raise UsageError(f"seeds: expected at least two to walk between, got {len(seeds)}")
    if interpolate == "w":
        if not hasattr(session, "styles"):
            raise UsageError("interpolate: w needs a generator with styles; of exported ones, those of export --pair")
        z, y = np.stack([z for z, _ in points]), np.array([one for _, one in points], np.int64)
        styles = session.styles(z, y if session.spec.classes else None, **_controls(psi))
        walk = generate.walk(list(np.asarray(styles)), frames, loop=loop, between=generate.lerp)
        images = generate.images(session.synthesis, ((w, 0) for w in walk), batch)
    else:
        label = points[0][1]
        walk = generate.walk([z for z, _ in points], frames, loop=loop, between=generate.BETWEEN[interpolate])
        images = generate.images(session, ((z, label) for z in walk), batch, **_controls(psi))
    first = next(images)
    scale = _scale(first.shape[1])
    with VideoWriter(path, (first.shape[0] * scale, first.shape[1] * scale), fps) as writer:
        writer.write(_rgb(first).repeat(scale, 0).repeat(scale, 1))
        for image in images:
            writer.write(_rgb(image).repeat(scale, 0).repeat(scale, 1))
    return writer.frames


def _scale(width: int) -> int:
    """Small images are enlarged to at least 64 pixels: they are hard to see, and video codecs blur them."""
    return max(1, 64 // width)


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.shape[2] == 3 else image[:, :, :1].repeat(3, 2)


@contextmanager
def _as_write_error(path: Path) -> Iterator[None]:
    from fastgan._util.files import failure

    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise failure(path, error) from error
