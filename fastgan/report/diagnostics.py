"""Says in words how a run goes, from the lines of its metrics alone: rules on figures, each with evidence and remedies.

Every rule looks back only, so that the page of a finished run shows what was said while it ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgan.report.text import figure, number

#: Verdicts for which a run may be stopped.
GRAVE = ("divergence", "mode collapse")
#: Lines after which a generator is no longer a fresh one.
LATE = 30

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """Something that went wrong: its name, the steps from and to which it was so, what shows it, what may help."""

    name: str
    since: int
    until: int
    evidence: str
    remedies: tuple[str, ...]

    def sentence(self) -> str:
        """For a person, on one line."""
        return f"{self.name} since step {self.since}: {self.evidence}; try {', or '.join(self.remedies)}"


@dataclass(frozen=True)
class _Rule:
    """holds(table): for each line whether it looks bad. after: lines in a row that make a verdict."""

    name: str
    after: int
    holds: Callable[[_Table], np.ndarray]
    evidence: Callable[[_Table, int], str]
    remedies: tuple[str, ...]


class _Table:
    """Columns of the lines as float arrays, NaN where a line has no such figure."""

    def __init__(self, rows: Rows):
        self.length = len(rows)
        self._rows = rows

    def __call__(self, name: str) -> np.ndarray:
        values = (number(row.get(name)) for row in self._rows)
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def ratio(self, above: str, below: str) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self(above) / self(below)


def verdicts(rows: Rows) -> list[Verdict]:
    """Everything that was wrong at some time in a run, in the order in which it was noticed.

    rows: the lines of metrics.jsonl, as mappings.
    """
    return [*_left(rows), *_found(rows)]


def _found(rows: Rows) -> list[Verdict]:
    """What the rules find in the lines."""
    table = _Table(rows)
    found: list[tuple[int, Verdict]] = []
    for rule in RULES:
        for first, last in _stretches(_bad(rule, table)):
            if last - first + 1 >= rule.after:
                at = first + rule.after - 1
                steps = int(rows[first]["step"]), int(rows[last]["step"])
                found.append((at, Verdict(rule.name, *steps, rule.evidence(table, last), rule.remedies)))
    return [verdict for _, verdict in sorted(found, key=lambda pair: pair[0])]


def _left(rows: Rows) -> list[Verdict]:
    """What made the run go back to an earlier step: the lines that showed it are gone, the next line after tells it."""
    told: list[dict[str, Any]] = next((row["restored"] for row in reversed(rows) if "restored" in row), [])
    return [
        Verdict(
            past["name"], past["since"], past["until"],
            f"{past['evidence']}; at step {past['left']} the run went back to step {past['to']}",
            tuple(past["remedies"]),
        )
        for past in told
    ]  # fmt: skip


def current(rows: Rows) -> list[Verdict]:
    """What is wrong now: the verdicts that hold up to the last line, in the order of RULES, the gravest first."""
    if not rows:
        return []
    order = [rule.name for rule in RULES]
    now = [verdict for verdict in _found(rows) if verdict.until == int(rows[-1]["step"])]
    return sorted(now, key=lambda verdict: order.index(verdict.name))


def sound(rows: Rows) -> int:
    """The last step before everything that looks grave now, be it a verdict yet or not; 0 without such a line."""
    table, bad = _Table(rows), 0
    for rule in RULES:
        if rule.name in GRAVE and (found := _stretches(_bad(rule, table))) and found[-1][1] == table.length - 1:
            bad = max(bad, table.length - found[-1][0])
    return int(rows[-1 - bad]["step"]) if bad < table.length else 0


def _bad(rule: _Rule, table: _Table) -> np.ndarray:
    return np.nan_to_num(rule.holds(table).astype(np.float64)).astype(bool)


def _stretches(bad: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _peak(values: np.ndarray) -> np.ndarray:
    """The highest value so far, of the medians of three lines: one outlier is no peak."""
    padded = np.concatenate([values[:1], values[:1], values])
    return np.fmax.accumulate(np.sort(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)[1])


def _variety(t: _Table) -> np.ndarray:
    """How far a fake is from the fake most like it, as a part of the same among real images."""
    return t.ratio("nearest/fake", "nearest/real")


def _reach(t: _Table) -> np.ndarray:
    """How far apart images of two latents are, as a part of how far apart two real images are."""
    return t.ratio("latent/ends", "spread/real")


def _reached(t: _Table, i: int) -> str:
    if not np.isfinite(_reach(t)[i]):  # images are made of sources
        return ""
    return f", images of two latents {figure(_reach(t)[i])} times as far apart as two real ones"


def _modes(t: _Table) -> np.ndarray:
    """How many classes of one size would be as mixed as those that a classifier sees."""
    return np.exp(t("modes/entropy"))


def _counted(t: _Table, i: int) -> str:
    if not np.isfinite(t("modes/count")[i]):
        return ""
    peak = figure(_peak(_modes(t))[i])
    return f"; {figure(t('modes/count')[i])} classes seen, as mixed as {figure(_modes(t)[i])} even ones (once {peak})"


def _collapsed(t: _Table) -> np.ndarray:
    variety, reach, modes = _variety(t), _reach(t), _modes(t)
    # A fresh generator's images are all alike too. It is a collapse where they had been different before, or where they
    # still are alike after so many lines.
    fallen = (variety < 0.45 * _peak(variety)) & (variety < 0.45) | (reach < 0.35 * _peak(reach)) & (reach < 0.35)
    fallen |= modes < 0.4 * _peak(modes)
    late = np.arange(t.length) >= LATE
    return fallen | late & ((variety < 0.25) | (reach < 0.25))


def _diverged(t: _Table) -> np.ndarray:
    loss, gradient = np.abs(t("loss/discriminator")), t("gradient/discriminator")
    # A Wasserstein discriminator's loss is a distance, as large as images are far apart; no other loss is ever negative.
    wasserstein = np.fmin.accumulate(t("loss/discriminator")) < 0
    far = (loss > 50 * (1 + _early(loss))) | (gradient > 1000 * _early(gradient))
    return far | ~wasserstein & (loss > 100)


def _early(values: np.ndarray) -> float:
    """The median of the first lines, the first one left out: it holds the start."""
    first = values[1:6]
    return float(np.nanmedian(first)) if np.isfinite(first).any() else np.nan


def _too_strong(t: _Table) -> np.ndarray:
    # Where losses are of probabilities or margins: a Wasserstein discriminator is to separate as well as it can.
    return (t("auroc/real_fake") > 0.995) & (t("loss/generator") > 5) & (t("loss/discriminator") < 0.1)


def _vanishing(t: _Table) -> np.ndarray:
    gradient = t("gradient/generator")
    return gradient < 1e-3 * _peak(gradient)


def _skipped(t: _Table) -> np.ndarray:
    """Updates that were skipped since the line before."""
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
        ("lower learning rates", "a gradient penalty (--r1-weight)", "--precision bf16 or fp32 in place of fp16"),
    ),
    _Rule(
        "divergence", 1, _diverged,
        lambda t, i: (
            f"the discriminator's loss is {figure(t('loss/discriminator')[i])} and its gradient's norm"
            f" {figure(t('gradient/discriminator')[i])}, far beyond those of the beginning"
        ),
        ("lower learning rates", "a gradient penalty (--r1-weight)", "--d-norm spectral"),
    ),
    _Rule(
        "mode collapse", 4, _collapsed,
        lambda t, i: (
            f"fakes are {figure(_variety(t)[i])} times as far from the fake most like them as real images are"
            f" (at most {figure(_peak(_variety(t))[i])} before){_reached(t, i)}{_counted(t, i)}"
        ),
        ("a higher learning rate of the discriminator than of the generator", "a gradient penalty (--r1-weight)",
         "--game hinge with --d-norm spectral"),
    ),
    _Rule(
        "discriminator too strong", 10, _too_strong,
        lambda t, i: (
            f"it ranks {100 * t('auroc/real_fake')[i]:.1f} % of the pairs right, the generator's loss is"
            f" {figure(t('loss/generator')[i])}"
        ),
        ("a lower learning rate of the discriminator (--lr-d)", "a gradient penalty (--r1-weight)", "--d-norm spectral"),
    ),
    _Rule(
        "vanishing generator gradient", 5, _vanishing,
        lambda t, i: (
            f"its norm is {figure(t('gradient/generator')[i])} and was {figure(_peak(t('gradient/generator'))[i])}"
        ),
        ("a game that does not saturate", "a gradient penalty (--r1-weight)", "a lower learning rate of the discriminator"),
    ),
    _Rule(
        "range mismatch", 5, _mismatch,
        lambda t, i: (
            f"real values go from {figure(t('range/real_min')[i])} to {figure(t('range/real_max')[i])}, the generator's"
            f" from {figure(t('range/fake_min')[i])} to {figure(t('range/fake_max')[i])}"
        ),
        ("scaling the batches to [-1, 1]", "another last activation of the generator"),
    ),
    _Rule(
        "overfitting discriminator", 5,
        lambda t: t("auroc/train_held_out") > 0.75,
        lambda t, i: (
            f"images it was trained on beat images it never saw in {100 * t('auroc/train_held_out')[i]:.0f} % of the pairs"
        ),
        ("more images", "augmentation", "a smaller discriminator or a higher --r1-weight"),
    ),
    _Rule(
        "plateau", 10,
        lambda t: t("update/generator") < 2e-6,
        lambda t, i: f"an update changes the generator's weights by {figure(t('update/generator')[i])} of their norm",
        ("a higher learning rate", "ending the run here"),
    ),
)  # fmt: skip
