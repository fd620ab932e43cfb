"""fastgan augment: a labeled set, enlarged by generated images that a classifier has accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import parse
from fastgan.cli._source import code, run_of
from fastgan.errors import DataError, FastganError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fastgan.data import ImageSet
    from fastgan.train.networks import Trained


@dataclass
class _Augment:
    """Bring every class of a labeled set up to N images with those of a run, accepted by a classifier of the real
    ones."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run of a class-conditional generator or of the task variation, or RUN/checkpoints/STEP"""
    data: str
    """the labeled images: a name or path as for fastgan train --data"""
    out: Path
    """folder to write: DIR/CLASS/real*.png and generated*.png, and augment.json"""
    per_class: int
    """images that each class has afterwards, real and generated; a class with more keeps all of its own"""
    confidence: float = 0.9
    """least probability, by the classifier, of the class that was asked for"""
    near: float = 0.2
    """an image this near to a real or an earlier one is a copy: in multiples of the usual distance between real ones"""
    far: float = 2.0
    """an image farther than this from all real ones of its class is rejected, in the same unit"""
    tries: int = 10
    """images that are drawn for each one asked for, before a class is left with fewer"""
    prove: Annotated[int, tyro.conf.arg(metavar="SEEDS")] = 0
    """train classifiers with and without the generated images, so many of each, and compare them on --held-out"""
    held_out: str | None = None
    """labeled images that neither the run nor --data has, for --prove"""
    flips: bool = False
    """the classical augmentation that --prove compares with mirrors images too; not for digits and letters"""
    steps: int = 600
    """optimizer steps of every classifier"""
    seed: int = 0
    """of latents and of the classifier that filters"""
    grid: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """picture of real, accepted and rejected images, a row for each class"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    device: str = "auto"
    """cpu, cuda or cuda:N"""
    overwrite: bool = False
    """replace an earlier result"""


def augment(argv: list[str]) -> None:
    """fastgan augment RUN --data LABELED --out DIR --per-class N [--prove 5 --held-out SOURCE] [--grid FILE.png] ..."""
    options = parse(_Augment, argv, "augment")
    _check(options)
    import numpy as np

    from fastgan._util.progress import Progress
    from fastgan.augmentation import Filter, Thresholds, folder, generate
    from fastgan.augmentation.shown import picture, table
    from fastgan.train.device import resolve_device
    from fastgan.train.networks import load_generator

    thresholds = Thresholds(options.confidence, options.near, options.far)
    device = resolve_device(options.device)
    run = run_of(options.source)
    if run is None:
        raise UsageError(f"run: expected the directory of a run, got {options.source}")
    trained = load_generator(run, None if run == options.source else options.source, code(options.network))
    real = _real(options.data, trained)
    assert real.labels is not None
    draw = drawing(trained, real, options.seed, device)
    counts = np.bincount(real.labels, minlength=real.num_classes)
    if options.per_class <= counts.min():
        raise UsageError(
            f"per_class: expected more than the {counts.min()} images that the smallest class has, got"
            f" {options.per_class}"
        )
    held_out = _held_out(options.held_out, real) if options.prove else None

    images = Filter(real, thresholds, steps=options.steps, seed=options.seed, device=device)
    print(
        f"filter: a classifier with an accuracy of {images.accuracy:.1%} on {images.held_out:,} images of {real.name}"
        " that it was not trained on"
    )
    wanted = [max(0, options.per_class - int(count)) for count in counts]
    progress = Progress("accepting", sum(wanted))
    made = generate(draw, wanted, images, tries=options.tries, on_accepted=progress.add)
    progress.close()

    classes = real.class_names or tuple(map(str, range(real.num_classes)))
    folders = folder.names_of(classes)
    rows = [
        {
            "class": name, "folder": into, "real": int(count), "generated": len(one.images), "missing": one.missing,
            "drawn": one.drawn, "rejected": one.rejected,
        }
        for name, into, count, one in zip(classes, folders, counts, made, strict=True)
    ]  # fmt: skip
    generated = (
        np.concatenate([one.images for one in made]),
        np.repeat(np.arange(len(made)), [len(one.images) for one in made]),
    )
    report: dict[str, Any] = {
        "run": str(options.source), "step": trained.step, "data": options.data, "per_class": options.per_class,
        "seed": options.seed, "steps": options.steps,
        "filter": {
            **dataclasses.asdict(thresholds), "accuracy": images.accuracy, "held_out": images.held_out,
            "distances": images.distances.tolist(),
        },
        "classes": rows,
    }  # fmt: skip
    parts = {folder.REAL: (real.images, real.labels), folder.GENERATED: generated}
    folder.write(options.out, folders, parts, report)
    print(table(rows))
    print(f"{len(real):,} real and {len(generated[0]):,} generated images: {options.out}")
    if options.grid is not None:
        print(f"picture: {picture(real, made, options.grid)}")
    if held_out is not None:
        report["proof"] = _prove((real.images, real.labels), generated, held_out, options, device)
        folder.write_report(options.out, report)
    if short := [f"{row['class']!r} ({row['missing']} of {wanted[i]})" for i, row in enumerate(rows) if row["missing"]]:
        raise FastganError(
            f"per_class: images are missing after {options.tries} tries for each, of {', '.join(short)}; train the run"
            " for longer, raise --tries, or loosen --confidence, --near and --far. What was accepted is written"
        )


def _check(options: _Augment) -> None:
    """Raise UsageError for options out of range, before any work."""
    for name, least in (("per_class", 1), ("tries", 1), ("steps", 10)):
        if getattr(options, name) < least:
            raise UsageError(f"{name}: expected a number >= {least}, got {getattr(options, name)}")
    if options.seed < 0:
        raise UsageError(f"seed: expected a number >= 0, got {options.seed}")
    if options.prove and (options.prove < 2 or options.held_out is None):
        if options.prove < 2:
            raise UsageError(f"prove: expected at least 2 seeds, for an interval, got {options.prove}")
        raise UsageError(
            "held_out: --prove needs labeled images that neither the run nor --data has; give them as --held-out SOURCE"
        )
    for name in ("held_out", "flips"):
        if getattr(options, name) and not options.prove:
            raise UsageError(f"{name}: it belongs to --prove SEEDS, which is not given")
    not_a_source(options.out, options.source, options.data)
    from fastgan.augmentation import folder

    folder.check(options.out, options.overwrite)
    if options.grid is not None:
        if options.grid.suffix.lower() != ".png":
            raise UsageError(f"grid: expected a .png, got {options.grid}")
        if options.grid.resolve().is_relative_to(options.out.resolve()):
            raise UsageError(f"grid: {options.grid} would be an image of the set; choose a place outside of --out")
        overwritable(options.grid, options.overwrite, argument="grid")


def _real(source: str, trained: Trained) -> ImageSet:
    """The labeled images as the run's networks take them."""
    import numpy as np

    from fastgan.data import open_source

    data = trained.config.data
    real = open_source(source, resolution=data.resolution, channels=data.channels)
    if real.labels is None:
        why = f", as {real.why_unlabeled}" if real.why_unlabeled else ""
        raise UsageError(
            f"data: expected labeled images, such as a folder for each class; {real.name} has no labels{why}"
        )
    real = real.with_classes(trained.class_names) if trained.class_names else real
    assert real.labels is not None
    names = real.class_names or tuple(map(str, range(real.num_classes)))
    if trained.classes not in (0, real.num_classes):
        raise UsageError(f"data: expected the {trained.classes} classes of the run, {real.name} has {real.num_classes}")
    counts = np.bincount(real.labels, minlength=real.num_classes)
    if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
        raise DataError(f"data: expected images of each class, {real.name} has none of {', '.join(map(repr, empty))}")
    return real


def _held_out(source: str | None, real: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels to test classifiers with, without those that are among the real ones."""
    import numpy as np

    from fastgan.data import open_source

    height, width = real.resolution
    square = height if height == width else None
    found = open_source(source or "", resolution=square, channels=real.channels)
    if found.labels is None:
        raise UsageError(f"held_out: expected labeled images, {found.name} has no labels")
    if found.images.shape[1:] != real.images.shape[1:]:
        raise UsageError(
            f"held_out: expected images {[*real.images.shape[1:]]} as --data has, got {[*found.images.shape[1:]]}"
        )
    found = found.with_classes(real.class_names) if real.class_names else found
    labels = found.labels
    assert labels is not None
    if labels.max() >= real.num_classes:
        raise UsageError(f"held_out: expected labels below {real.num_classes}, as --data has, got {labels.max()}")
    known = {image.tobytes() for image in real.images}
    new = np.array([image.tobytes() not in known for image in found.images])
    if not new.any():
        raise UsageError(f"held_out: all of its {len(new):,} images are in --data; give others")
    if not new.all():
        print(f"held out: {int((~new).sum()):,} of {len(new):,} images are in --data as well, and are left out")
    return found.images[new], labels[new]


def drawing(trained: Trained, real: ImageSet, seed: int, device: torch.device) -> Callable[[int, int, int], np.ndarray]:
    """draw(label, first, n) of a run: images of a class uint8 [n, C, H, W], the same whatever was drawn before.

    Raises UsageError for a run that makes no images of given classes, and where the real ones are of another size.
    """
    import numpy as np
    import torch

    from fastgan.report.images import to_uint8
    from fastgan.tasks.networks import source_channels

    assert real.labels is not None
    varies = source_channels(trained.generator) > 0
    if not varies and not trained.classes:
        raise UsageError(
            f"run: expected a class-conditional generator (fastgan train --condition projection), or one of the task"
            f" variation; {trained.folder} makes images without classes"
        )
    shape = (int(getattr(trained.generator, "latent", 0)),) if varies else trained.latent_shape
    generator, (low, high) = trained.generator.to(device), trained.range
    members = [np.flatnonzero(real.labels == label) for label in range(real.num_classes)]

    @torch.no_grad()
    def draw(label: int, first: int, n: int) -> np.ndarray:
        z = np.stack(
            [
                np.random.default_rng((seed, label, i)).standard_normal(shape, np.float32)
                for i in range(first, first + n)
            ]
        )
        given = torch.from_numpy(z).to(device)
        if varies:
            sources = real.images[members[label][np.arange(first, first + n) % len(members[label])]]
            pixels = torch.from_numpy(np.array(sources)).to(device).float() / 255 * (high - low) + low
            images = generator(pixels, given)
        else:
            images = generator(given, torch.full((n,), label, device=device))
        if not bool(images.isfinite().all()):
            raise DataError("run: its generator returns images that are NaN or infinite")
        return to_uint8(((images.float() - low) * (2 / (high - low)) - 1).cpu().numpy())

    if (came := draw(0, 0, 1).shape[1:]) != real.images.shape[1:]:
        raise UsageError(f"data: expected images {[*came]} as the run makes, got {[*real.images.shape[1:]]}")
    return draw


def _prove(
    real: tuple[np.ndarray, np.ndarray],
    generated: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    options: _Augment,
    device: torch.device,
) -> dict[str, object]:
    from fastgan._util.progress import Progress
    from fastgan.augmentation import prove
    from fastgan.augmentation.proof import ROWS

    progress = Progress("training classifiers", options.prove * len(ROWS), unit="classifiers")
    found = prove(
        real, generated, held_out, seeds=options.prove, steps=options.steps, flips=options.flips, device=device,
        on_classifier=progress.add,
    )  # fmt: skip
    progress.close()
    print(f"{found.tested:,} held-out images, {found.steps:,} steps of every classifier; classical: {found.classical}")
    print(found.table())
    print(found.sentence())
    return found.to_json()
