"""Samples against real images: figures with their protocol in their names, and in words what to make of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor
from fastgan.metrics.nearest import SAME
from fastgan.metrics.registry import METRICS, Row, Sides, select, short

#: Below this the customary figures are little but bias.
ENOUGH = 5000
#: Shares of repeated samples that are worth a warning: this, and three times what real images have.
_REPEATED = 0.01
_CONSTANT = 0.01
_SURE = 0.7
_BETTER = {"lower": "lower is better", "higher": "higher is better", "as real": "best as real"}


@dataclass(frozen=True)
class Evaluation:
    """rows: the figures. warnings: sentences. facts: what was compared with what, by what. pictures: uint8
    [N, C, H, W] by name, where a metric has something to show."""

    rows: list[Row]
    warnings: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, word: str) -> Row:
        """The first row whose name begins with that word and a number: `["fid"]`, `["copied"]`. KeyError without."""
        for row in self.rows:
            if re.match(rf"{re.escape(word)}\d", row.name):
                return row
        raise KeyError(word)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.facts, "rows": [asdict(row) for row in self.rows], "warnings": self.warnings}

    def describe(self) -> str:
        """A table of the figures, and the warnings below it."""
        parts = [f"  {name}" for row in self.rows for name in row.parts]
        width = max(map(len, [*(row.name for row in self.rows), *parts]))
        lines = []
        for row in self.rows:
            error = "" if row.error is None else f"± {row.error:.1g}"
            real = "" if row.real is None else f"(real: {row.real:.5g})"
            words = f"{row.name:{width}}  {_number(row.value):>10} {error:9} {_BETTER[row.better]:16} {real}"
            lines.append(words.rstrip())
            if row.note:
                lines.append(f"{'':{width}}  {row.note}")
            lines += [f"{'  ' + name:{width}}  {_number(part):>10}" for name, part in row.parts.items()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def evaluate(
    samples: ImageSet | np.ndarray,
    reference: ImageSet,
    extractor: Extractor | None = None,
    *,
    metrics: str | list[str] | None = None,
    n: int = ENOUGH,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Evaluation:
    """The figures of samples, uint8 [M, C, H, W], against a set of real images of the same size and channels.

    metrics: names of registry.METRICS; all that need not be asked for where None, without an extractor only those that
    need no network. n: at most this many images of either side, chosen by the seed. say: called with lines for the
    user. Raises UsageError for what does not fit together, DataError where features are not finite.
    """
    names = select(metrics)
    if extractor is None and metrics is None:
        names = [name for name in names if not METRICS[name].network or name == "copies"]
    given = samples.images if isinstance(samples, ImageSet) else samples
    _check(given, reference, n)
    chosen_fake, chosen_real = choose(len(given), n, seed), choose(len(reference), n, seed)
    labels = samples.labels if isinstance(samples, ImageSet) and samples.num_classes == reference.num_classes else None
    sides = Sides(
        real=np.ascontiguousarray(reference.images[chosen_real]),
        fake=np.ascontiguousarray(given[chosen_fake]),
        all_real=reference.images,
        real_labels=None if reference.labels is None else reference.labels[chosen_real],
        fake_labels=None if labels is None else labels[chosen_fake],
        class_names=reference.class_names or tuple(map(str, range(reference.num_classes))),
        extractor=extractor,
        seed=seed,
        same_order=len(given) == len(reference),
        say=say,
    )
    rows = [row for name in names for row in METRICS[name].compute(sides)]
    facts = {
        "samples": len(sides.fake),
        "reference": reference.name,
        "reference_images": len(sides.real),
        "reference_total": len(reference),
        "image": list(reference.images.shape[1:]),
        "seed": seed,
        "extractor": None if extractor is None else extractor.protocol,
        "extractor_about": None if extractor is None else extractor.about,
        "extractor_accuracy": None if extractor is None else extractor.accuracy,
        "extractor_weights": None if extractor is None else extractor.weights,
    }
    return Evaluation(rows, _warnings(sides, names), facts, sides.pictures)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def choose(count: int, n: int, seed: int) -> np.ndarray:
    """Which of `count` images are looked at: all, or n of them drawn by the seed; in their order."""
    if count <= n:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, n, replace=False))


def _check(given: np.ndarray, reference: ImageSet, n: int) -> None:
    if n < 2:
        raise UsageError(f"n: expected at least 2 images, got {n}")
    if given.dtype != np.uint8 or given.ndim != 4 or len(given) < 2:
        raise UsageError(
            f"samples: expected uint8 [N, C, H, W] with N at least 2, got {given.dtype} {list(given.shape)}"
        )
    if len(reference) < 2:
        raise UsageError(f"reference: expected at least 2 images, got {len(reference)} in {reference.name}")
    if given.shape[1:] != reference.images.shape[1:]:
        raise UsageError(
            f"samples: expected images {list(reference.images.shape[1:])} as in {reference.name},"
            f" got {list(given.shape[1:])}"
        )


def _warnings(s: Sides, names: list[str]) -> list[str]:
    found = []
    real, fake = len(s.real), len(s.fake)
    statistical = any(METRICS[name].network for name in names)
    if statistical and min(real, fake) < ENOUGH:
        found.append(
            f"{short(min(real, fake))} {'samples' if fake <= real else 'real images'} are few: FID and density lean on"
            f" their number; {ENOUGH:,} or more are customary, and KID, which has no bias, is the figure to look at"
        )
    if statistical and real != fake:
        found.append(f"{fake:,} samples against {real:,} real images: compare only with figures of the same counts")
    if s.extractor is not None and s.extractor.photographs:
        channels, height, width = s.real.shape[1:]
        strange = [
            *(["gray"] if channels == 1 else []),
            *(["smaller than 64 pixels"] if min(height, width) < 64 else []),
        ]
        if strange:
            found.append(
                f"{s.extractor.protocol} has learnt on photographs of objects, and these images are"
                f" {' and '.join(strange)}: its figures may rank models wrongly here"
                + ("; the extractor digits learns from the data themselves" if s.real_labels is not None else "")
            )
    if s.extractor is not None and s.extractor.accuracy is not None and s.extractor.accuracy < _SURE:
        found.append(f"{s.extractor.protocol} is right on {s.extractor.accuracy:.0%} of held-out images only")
    for side, images in (("samples", s.fake), ("real images", s.real)):
        flat = images.reshape(len(images), -1)
        constant = int((flat.min(1) == flat.max(1)).sum())
        if constant > _CONSTANT * len(images):
            found.append(f"{constant:,} of {len(images):,} {side} are of one gray level or color all over")
    if "copies" in names:
        for eye, seen in s.repeats.items():
            alike = f"(nearer than {SAME:g} of the usual distance of real neighbors; real images among each other:"
            for share, what in ((seen.doubles, "another sample"), (seen.copied, "a real image")):
                if share > max(_REPEATED, 3 * seen.real):
                    found.append(f"{share:.1%} of the samples repeat {what}, seen by {eye} {alike} {seen.real:.1%})")
    return found
