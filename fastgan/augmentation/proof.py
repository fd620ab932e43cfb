"""Whether a classifier gains by generated images: the same training with and without them, over several seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastgan.augmentation.classifiers import accuracy, fit
from fastgan.errors import UsageError

#: The 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; for more the last one, which is a little wide.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
ROWS = ("real", "real, classical", "real + generated", "real + generated, classical")


@dataclass(frozen=True)
class Proof:
    """accuracies: for each of ROWS one for each seed, on held-out images, the mean over classes. classical: what
    classical augmentation is. steps: optimizer steps of every classifier. tested: how many held-out images."""

    accuracies: dict[str, list[float]]
    classical: str
    steps: int
    tested: int

    def interval(self, row: str, minus: str | None = None) -> tuple[float, float]:
        """Mean accuracy and the half width of its 95 % confidence interval over seeds; of the difference to the row
        `minus` for the same seeds, where it is given."""
        values = np.array(self.accuracies[row])
        if minus is not None:
            values = values - np.array(self.accuracies[minus])
        n = len(values)
        return float(values.mean()), float(_T[min(n, len(_T) + 1) - 2] * values.std(ddof=1) / n**0.5)

    @property
    def helps(self) -> bool:
        """Whether the 95 % interval of the gain over the same training with classical augmentation is above 0."""
        gain, half = self.interval(ROWS[3], ROWS[1])
        return gain > half

    def sentence(self) -> str:
        """What the table says about generated images."""
        gain, half = self.interval(ROWS[3], ROWS[1])
        figures = f"{100 * gain:+.2f} ± {100 * half:.2f} points of accuracy beside classical augmentation alone"
        if self.helps:
            return f"The generated images help: {figures}."
        alone, width = self.interval(ROWS[2], ROWS[0])
        if gain < -half:
            return f"The generated images do harm: {figures}; leave them out."
        without = f" (without classical augmentation they help: {100 * alone:+.2f} ± {100 * width:.2f})" * (
            alone > width
        )
        return f"The generated images do not help: {figures}{without}."

    def table(self) -> str:
        """A line for each row: mean accuracy, its 95 % interval, and the difference to the row of real images alone."""
        seeds = len(self.accuracies[ROWS[0]])
        lines = [f"{'trained on':28} accuracy (95 % interval, {seeds} seeds)   against real images alone"]
        for row in ROWS:
            mean, half = self.interval(row)
            line = f"{row:28} {100 * mean:6.2f} % ± {100 * half:.2f}"
            if row != ROWS[0]:
                gain, width = self.interval(row, ROWS[0])
                line = f"{line:62} {100 * gain:+.2f} ± {100 * width:.2f}"
            lines.append(line)
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """For the report."""
        rows = [
            {
                "trained_on": row,
                "accuracies": values,
                "mean": self.interval(row)[0],
                "half_width": self.interval(row)[1],
            }
            for row, values in self.accuracies.items()
        ]
        return {
            "rows": rows, "classical": self.classical, "steps": self.steps, "tested": self.tested,
            "helps": self.helps, "sentence": self.sentence(),
        }  # fmt: skip


def prove(
    real: tuple[np.ndarray, np.ndarray],
    generated: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    *,
    seeds: int = 5,
    steps: int = 600,
    flips: bool = False,
    device: torch.device | None = None,
    on_classifier: Callable[[], None] | None = None,
) -> Proof:
    """Trains a classifier for each of ROWS and seeds 0 .. seeds − 1, and tests it on held-out images.

    real, generated, held_out: images uint8 [N, C, H, W] and labels int64 [N]. All classifiers take the same number of
    steps, with batches of equally likely classes; those of one seed begin with the same weights. flips: classical
    augmentation mirrors images beside shifting them. The interval is over seeds of the classifiers, for one generator
    and one set of real images. Raises UsageError for fewer than 2 seeds, and held-out labels that no real image has.
    """
    if seeds < 2:
        raise UsageError(f"prove: expected at least 2 seeds, for an interval, got {seeds}")
    classes = int(real[1].max()) + 1
    if held_out[1].max() >= classes:
        raise UsageError(f"held_out: expected labels below {classes}, as the real images have, got {held_out[1].max()}")
    both = tuple(np.concatenate(parts) for parts in zip(real, generated, strict=True))
    found: dict[str, list[float]] = {row: [] for row in ROWS}
    for seed in range(seeds):
        for row in ROWS:
            images, labels = both if "generated" in row else real
            classical = row.endswith("classical")
            network = fit(
                images, labels, classes, steps=steps, seed=seed, device=device, shifts=classical,
                flips=classical and flips,
            )  # fmt: skip
            found[row].append(accuracy(network, *held_out))
            if on_classifier is not None:
                on_classifier()
    return Proof(found, "shifts and flips" if flips else "shifts", steps, len(held_out[1]))
