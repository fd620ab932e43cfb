"""Evaluates samples against real images: results with the protocol in their names, and warnings about their use."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor
from fastgan.metrics.neighbors import DUPLICATE
from fastgan.metrics.registry import METRICS, Comparison, Row, select, short

#: With fewer samples FID and other biased metrics are mostly bias.
ENOUGH = 5000
#: Warn about a fraction of duplicated or copied samples above this and above three times that of real images.
_DUPLICATES = 0.01
#: Warn about a fraction of constant images above this.
_CONSTANT = 0.01
#: Warn about an extractor with an accuracy below this.
_MIN_ACCURACY = 0.7
_BETTER = {"lower": "lower is better", "higher": "higher is better", "as real": "best as real"}


@dataclass(frozen=True)
class Evaluation:
    """rows: the results. warnings: sentences for the user. facts: numbers of images, reference, extractor, seed.
    pictures: images that metrics made for the user, uint8 [N, C, H, W] by name.
    """

    rows: list[Row]
    warnings: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, word: str) -> Row:
        """The first row with a name of this word and a number, such as `["fid"]`. Raises KeyError if there is none."""
        for row in self.rows:
            if re.match(rf"{re.escape(word)}\d", row.name):
                return row
        raise KeyError(word)

    def to_json(self) -> dict[str, Any]:
        """The facts, rows and warnings as plain values, for JSON."""
        return {**self.facts, "rows": [asdict(row) for row in self.rows], "warnings": self.warnings}

    def describe(self) -> str:
        """A table of the results as text, with the warnings below."""
        parts = [f"  {name}" for row in self.rows for name in row.parts]
        width = max(map(len, [*(row.name for row in self.rows), *parts]))
        lines = []
        for row in self.rows:
            error = "" if row.error is None else f"± {row.error:.1g}"
            real = "" if row.real is None else f"(real: {row.real:.5g})"
            line = f"{row.name:{width}}  {_number(row.value):>10} {error:9} {_BETTER[row.better]:16} {real}"
            lines.append(line.rstrip())
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
) -> Evaluation:
    """Compute metrics of samples, uint8 [M, C, H, W], with real images of the same size and channels as reference.

    metrics: names in registry.METRICS; None means the default ones, and without an extractor those of them that need
    no network. n: at most this many samples and real images are used, chosen by the seed. Raises UsageError for images
    that do not match and metrics that are unknown or lack an extractor, DataError if features are NaN or infinite.
    """
    names = select(metrics)
    if extractor is None and metrics is None:
        names = [name for name in names if not METRICS[name].network or name == "copies"]
    if isinstance(samples, ImageSet) and sorted(samples.class_names or ()) == sorted(reference.class_names or ()):
        reference = reference.with_classes(samples.class_names or ())  # the same class has the same number
    given = samples.images if isinstance(samples, ImageSet) else samples
    _check_images(given, reference, n)
    chosen_fake, chosen_real = choose(len(given), n, seed), choose(len(reference), n, seed)
    labels = samples.labels if isinstance(samples, ImageSet) and samples.num_classes == reference.num_classes else None
    comparison = Comparison(
        real=np.ascontiguousarray(reference.images[chosen_real]),
        fake=np.ascontiguousarray(given[chosen_fake]),
        all_real=reference.images,
        real_labels=None if reference.labels is None else reference.labels[chosen_real],
        fake_labels=None if labels is None else labels[chosen_fake],
        class_names=reference.class_names or tuple(map(str, range(reference.num_classes))),
        extractor=extractor,
        seed=seed,
        same_order=len(given) == len(reference),
    )
    rows = [row for name in names for row in METRICS[name].compute(comparison)]
    facts = {
        "samples": len(comparison.fake),
        "reference": reference.name,
        "reference_images": len(comparison.real),
        "reference_total": len(reference),
        "image": list(reference.images.shape[1:]),
        "seed": seed,
        "extractor": None if extractor is None else extractor.protocol,
        "extractor_about": None if extractor is None else extractor.about,
        "extractor_accuracy": None if extractor is None else extractor.accuracy,
        "extractor_weights": None if extractor is None else extractor.weights,
    }
    return Evaluation(rows, _warnings(comparison, names), facts, comparison.pictures)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def choose(count: int, n: int, seed: int) -> np.ndarray:
    """Indices of the images to use, ascending: all of `count`, or n of them drawn with the seed."""
    if count <= n:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, n, replace=False))


def _check_images(given: np.ndarray, reference: ImageSet, n: int) -> None:
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


def _warnings(c: Comparison, names: list[str]) -> list[str]:
    found = []
    real, fake = len(c.real), len(c.fake)
    statistical = any(METRICS[name].network for name in names)
    if statistical and min(real, fake) < ENOUGH:
        found.append(
            f"{short(min(real, fake))} {'samples' if fake <= real else 'real images'} are few: FID and density depend"
            f" on the number; use {ENOUGH:,} or more, or KID, which is unbiased"
        )
    if statistical and real != fake:
        found.append(f"{fake:,} samples against {real:,} real images: compare only with results for the same numbers")
    if c.extractor is not None and c.extractor.photographs:
        channels, height, width = c.real.shape[1:]
        unusual = [
            *(["gray"] if channels == 1 else []),
            *(["smaller than 64 pixels"] if min(height, width) < 64 else []),
        ]
        if unusual:
            found.append(
                f"{c.extractor.protocol} was trained on photographs, and these images are"
                f" {' and '.join(unusual)}: its results may rank models wrongly"
                + ("; the extractor digits is trained on the real images" if c.real_labels is not None else "")
            )
    if c.extractor is not None and c.extractor.accuracy is not None and c.extractor.accuracy < _MIN_ACCURACY:
        found.append(f"{c.extractor.protocol} has an accuracy of only {c.extractor.accuracy:.0%} on held-out images")
    for side, images in (("samples", c.fake), ("real images", c.real)):
        flat = images.reshape(len(images), -1)
        constant = int((flat.min(1) == flat.max(1)).sum())
        if constant > _CONSTANT * len(images):
            found.append(f"{constant:,} of {len(images):,} {side} are of a single gray level or color")
    if "copies" in names:
        for space, duplicates in c.duplicates.items():
            for share, text in (
                (duplicates.among_fake, "duplicate another sample"),
                (duplicates.copied, "copy a real image"),
            ):
                if share > max(_DUPLICATES, 3 * duplicates.among_real):
                    found.append(
                        f"{share:.1%} of the samples {text} by {space} (distance below {DUPLICATE:g} times the median"
                        " of real nearest neighbors; fraction of real images that duplicate another one:"
                        f" {duplicates.among_real:.1%})"
                    )
    return found
