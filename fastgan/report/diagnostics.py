"""Diagnoses of a run from the rows of its metrics alone: rules on measured values, each with evidence and suggestions.

Every rule looks only at earlier rows, so that the page of a finished run shows what was logged during training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgan.report.text import figure, number

#: Diagnoses that `--on-collapse` acts on.
SEVERE = ("divergence", "mode collapse")
#: Rows after which a generator is no longer at its start.
LATE = 30

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Diagnosis:
    """A problem of a run: its name, its first and last step, the evidence, and what may help."""

    name: str
    since: int
    until: int
    evidence: str
    suggestions: tuple[str, ...]

    def sentence(self) -> str:
        """One line for a log."""
        return f"{self.name} since step {self.since}: {self.evidence}; try {', or '.join(self.suggestions)}"


@dataclass(frozen=True)
class _Rule:
    """holds(table): for each row whether it looks bad. after: the number of consecutive such rows for a diagnosis."""

    name: str
    after: int
    holds: Callable[[_Table], np.ndarray]
    evidence: Callable[[_Table, int], str]
    suggestions: tuple[str, ...]


class _Table:
    """Columns of the rows as float arrays, NaN where a row has no such value."""

    def __init__(self, rows: Rows, unbounded: bool):
        self.length = len(rows)
        self.unbounded = unbounded
        self._rows = rows

    def __call__(self, name: str) -> np.ndarray:
        values = (number(row.get(name)) for row in self._rows)
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def ratio(self, above: str, below: str) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self(above) / self(below)


def diagnoses(rows: Rows, unbounded: bool = False) -> list[Diagnosis]:
    """All diagnoses of a run, past and present, in the order in which they were made.

    rows: those of metrics.jsonl, under the keys of today (`fastgan.report.legacy.modernized_row`). unbounded: whether
    the adversarial loss has no lower bound (`AdversarialLoss.unbounded`), so that a large value shows no divergence.
    """
    return [*_before_rollbacks(rows), *_found(rows, unbounded)]


def current(rows: Rows, unbounded: bool = False) -> list[Diagnosis]:
    """The diagnoses that hold at the last row, in the order of RULES, the most severe first."""
    if not rows:
        return []
    order = [rule.name for rule in RULES]
    now = [diagnosis for diagnosis in _found(rows, unbounded) if diagnosis.until == int(rows[-1]["step"])]
    return sorted(now, key=lambda diagnosis: order.index(diagnosis.name))


def last_healthy_step(rows: Rows, unbounded: bool = False) -> int:
    """The last step before the rows that look severe now, even if too few for a diagnosis; 0 if none is left."""
    table, bad = _Table(rows, unbounded), 0
    for rule in RULES:
        if rule.name in SEVERE and (found := _stretches(_bad(rule, table))) and found[-1][1] == table.length - 1:
            bad = max(bad, table.length - found[-1][0])
    return int(rows[-1 - bad]["step"]) if bad < table.length else 0


def _found(rows: Rows, unbounded: bool) -> list[Diagnosis]:
    table = _Table(rows, unbounded)
    found: list[tuple[int, Diagnosis]] = []
    for rule in RULES:
        for first, last in _stretches(_bad(rule, table)):
            if last - first + 1 >= rule.after:
                at = first + rule.after - 1
                steps = int(rows[first]["step"]), int(rows[last]["step"])
                found.append((at, Diagnosis(rule.name, *steps, rule.evidence(table, last), rule.suggestions)))
    return [diagnosis for _, diagnosis in sorted(found, key=lambda pair: pair[0])]


def _before_rollbacks(rows: Rows) -> list[Diagnosis]:
    """Diagnoses that made the run go back to an earlier step. Their rows are gone; the next row after lists them."""
    rollbacks: list[dict[str, Any]] = next((row["rollbacks"] for row in reversed(rows) if "rollbacks" in row), [])
    return [
        Diagnosis(
            past["name"], past["since"], past["until"],
            f"{past['evidence']}; at step {past['from_step']} the run went back to step {past['to_step']}",
            tuple(past["suggestions"]),
        )
        for past in rollbacks
    ]  # fmt: skip


def _bad(rule: _Rule, table: _Table) -> np.ndarray:
    return np.nan_to_num(rule.holds(table).astype(np.float64)).astype(bool)


def _stretches(bad: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _peak(values: np.ndarray) -> np.ndarray:
    """The highest value so far, of the medians of three rows: a single outlier is no peak."""
    padded = np.concatenate([values[:1], values[:1], values])
    return np.fmax.accumulate(np.sort(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)[1])


def _variety(t: _Table) -> np.ndarray:
    """Distance of a fake to its nearest neighbor in the batch, relative to the same among real images."""
    return t.ratio("nearest/fake", "nearest/real")


def _latent_distance(t: _Table) -> np.ndarray:
    """Distance between the images of two latents, relative to the distance between two real images."""
    return t.ratio("latent/distance", "spread/real")


def _latent_evidence(t: _Table, i: int) -> str:
    if not np.isfinite(_latent_distance(t)[i]):  # a generator that maps images to images has no latents
        return ""
    return f", images of two latents {figure(_latent_distance(t)[i])} times as far apart as two real images"


def _effective_modes(t: _Table) -> np.ndarray:
    """The number of classes of equal size that would have the measured entropy."""
    return np.exp(t("modes/entropy"))


def _modes_evidence(t: _Table, i: int) -> str:
    if not np.isfinite(t("modes/count")[i]):
        return ""
    modes = _effective_modes(t)
    return (
        f"; {figure(t('modes/count')[i])} classes generated, with the entropy of {figure(modes[i])} equal ones"
        f" (at most {figure(_peak(modes)[i])} before)"
    )


def _collapsed(t: _Table) -> np.ndarray:
    variety, distance, modes = _variety(t), _latent_distance(t), _effective_modes(t)
    # The images of a generator at its start are all alike too. It is a collapse if they were different before, or if
    # they are still alike after LATE rows.
    fallen = (variety < 0.45 * _peak(variety)) & (variety < 0.45) | (distance < 0.35 * _peak(distance)) & (
        distance < 0.35
    )
    fallen |= modes < 0.4 * _peak(modes)
    late = np.arange(t.length) >= LATE
    return fallen | late & ((variety < 0.25) | (distance < 0.25))


def _diverged(t: _Table) -> np.ndarray:
    loss, gradient = np.abs(t("loss/discriminator")), t("gradient/discriminator")
    # A discriminator that is trained later (--task.start) has no gradient before.
    begun = int(np.argmax(gradient > 0)) if len(gradient) else 0
    grown = (loss > 50 * (1 + _early(loss[begun:]))) | (gradient > 1000 * _early(gradient[begun:]))
    # A loss without a lower bound, such as a Wasserstein distance, is as large as its images are far apart.
    return grown if t.unbounded else grown | (loss > 100)


def _early(values: np.ndarray) -> float:
    """The median of the first rows without the very first, which holds the start of training."""
    first = values[1:6]
    return float(np.nanmedian(first)) if np.isfinite(first).any() else np.nan


def _too_strong(t: _Table) -> np.ndarray:
    # The limits are those of losses of probabilities or margins: a Wasserstein discriminator is meant to separate as
    # well as it can.
    return (t("auroc/real_fake") > 0.995) & (t("loss/generator") > 5) & (t("loss/discriminator") < 0.1)


def _vanishing(t: _Table) -> np.ndarray:
    gradient = t("gradient/generator")
    return gradient < 1e-3 * _peak(gradient)


def _skipped(t: _Table) -> np.ndarray:
    """Updates that were skipped since the row before."""
    total = t("skipped/generator") + t("skipped/discriminator")
    return np.diff(total, prepend=0.0)


def _mismatch(t: _Table) -> np.ndarray:
    real = np.fmax(np.abs(t("range/real_min")), np.abs(t("range/real_max")))
    fake = np.fmax(np.abs(t("range/fake_min")), np.abs(t("range/fake_max")))
    return (real > 2.5 * fake) & (np.arange(t.length) >= LATE / 2)


RULES = (
    _Rule(
        "non-finite", 1,
        lambda t: _skipped(t) > 0,
        lambda t, i: f"{figure(_skipped(t)[i])} updates had a loss or gradient that was not finite",
        ("lower learning rates", "a gradient penalty (--r1-weight)", "--precision bf16 or fp32 instead of fp16"),
    ),
    _Rule(
        "divergence", 1, _diverged,
        lambda t, i: (
            f"the discriminator's loss is {figure(t('loss/discriminator')[i])} and the norm of its gradient"
            f" {figure(t('gradient/discriminator')[i])}, far above their values in the first rows"
        ),
        ("lower learning rates", "a gradient penalty (--r1-weight)", "--d-norm spectral"),
    ),
    _Rule(
        "mode collapse", 4, _collapsed,
        lambda t, i: (
            f"the distance of a fake to its nearest neighbor is {figure(_variety(t)[i])} times that of real images"
            f" (at most {figure(_peak(_variety(t))[i])} before){_latent_evidence(t, i)}{_modes_evidence(t, i)}"
        ),
        ("a higher learning rate of the discriminator than of the generator", "a gradient penalty (--r1-weight)",
         "--loss hinge with --d-norm spectral"),
    ),
    _Rule(
        "discriminator too strong", 10, _too_strong,
        lambda t, i: (
            f"its AUROC of real against fake images is {t('auroc/real_fake')[i]:.4f}, the generator's loss is"
            f" {figure(t('loss/generator')[i])}"
        ),
        ("a lower learning rate of the discriminator (--lr-d)", "a gradient penalty (--r1-weight)",
         "--d-norm spectral"),
    ),
    _Rule(
        "vanishing generator gradient", 5, _vanishing,
        lambda t, i: (
            f"its norm is {figure(t('gradient/generator')[i])} and was {figure(_peak(t('gradient/generator'))[i])}"
        ),
        ("a non-saturating loss", "a gradient penalty (--r1-weight)", "a lower learning rate of the discriminator"),
    ),
    _Rule(
        "range mismatch", 5, _mismatch,
        lambda t, i: (
            f"real values range from {figure(t('range/real_min')[i])} to {figure(t('range/real_max')[i])}, the"
            f" generator's from {figure(t('range/fake_min')[i])} to {figure(t('range/fake_max')[i])}"
        ),
        ("scaling the batches to [-1, 1]", "another last activation of the generator"),
    ),
    _Rule(
        "overfitting discriminator", 5,
        lambda t: t("auroc/train_held_out") > 0.75,
        lambda t, i: f"its AUROC of training against held-out images is {t('auroc/train_held_out')[i]:.2f}",
        ("more images", "augmentation", "a smaller discriminator or a higher --r1-weight"),
    ),
    _Rule(
        "plateau", 10,
        lambda t: t("update/generator") < 2e-6,
        lambda t, i: f"an update changes the generator's weights by {figure(t('update/generator')[i])} of their norm",
        ("a higher learning rate", "ending the run here"),
    ),
)  # fmt: skip
