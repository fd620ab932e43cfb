"""Does the monitor tell the truth? Runs 30 short trainings whose outcome is known by construction, and asks it.

    python benchmarks/diagnostics.py [--only SUBSTRING] [--out benchmarks/results/diagnostics.csv]

Ten train well, ten collapse (a generator ten times as fast as its discriminator, or one that stops hearing its latents), ten
diverge (no penalty where one is needed, learning rates far too high, from the start or from the middle on). The rules
of fastgan/report/diagnostics.py were written looking at other runs: rings of 8 Gaussians and images, seeds 0 to 2, without
the least-squares game, the grid and everything that begins in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from run import write
from torch import Tensor, nn

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import NonFiniteError
from fastgan.report.diagnostics import verdicts

COLUMNS = ("run", "outcome", "said", "right", "first_said_at", "steps", "seconds")
SAID = {"healthy": set(), "collapse": {"mode collapse"}, "divergence": {"divergence", "non-finite"}}


@dataclass(frozen=True)
class Run:
    """A training and how it must end. from_half: what changes when half of its steps are done."""

    name: str
    outcome: str
    game: str
    data: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    hears: float = 1.0
    from_half: dict[str, float] = field(default_factory=dict)


def _fine(data: str) -> dict[str, Any]:
    """Settings under which these games learn."""
    return {"lr_g": 1e-3, "lr_d": 1e-3, "r1_weight": 0.1} if data != "images" else {"lr_g": 4e-4, "lr_d": 4e-4}


#: Of all games, whatever they are usually optimized with.
ALIKE = {"lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999, "d_steps": 1}
FAST = {"lr_g": 1e-2, "lr_d": 1e-3}
GP = {"beta1": 0.0, "beta2": 0.9, "d_steps": 2}
RUNS = [
    Run("grid", "healthy", "non-saturating", "grid", 101, _fine("grid")),
    Run("grid hinge", "healthy", "hinge", "grid", 102, _fine("grid")),
    Run("grid wgan-gp", "healthy", "wgan-gp", "grid", 103, {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}),
    Run("ring least squares", "healthy", "least-squares", "ring", 104, _fine("ring")),
    Run("ring wgan-gp", "healthy", "wgan-gp", "ring", 105, {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}),
    Run("images, batch norm", "healthy", "non-saturating", "images", 106, {**_fine("images"), "d_norm": "batch"}),
    Run("images, R1", "healthy", "non-saturating", "images", 107,
        {**_fine("images"), "r1_weight": 1.0, "penalty_interval": 4}),
    Run("images hinge, spectral", "healthy", "hinge", "images", 108,
        {"lr_g": 2e-4, "lr_d": 4e-4, "d_norm": "spectral"}),
    Run("images wgan-gp", "healthy", "wgan-gp", "images", 109, {**_fine("images"), **GP}),
    Run("images least squares, spectral", "healthy", "least-squares", "images", 110,
        {**_fine("images"), "d_norm": "spectral"}),
    Run("grid, fast generator", "collapse", "non-saturating", "grid", 111, FAST),
    Run("grid hinge, fast generator", "collapse", "hinge", "grid", 112, FAST),
    Run("ring wgan-gp, fast generator", "collapse", "wgan-gp", "ring", 113, {**FAST, "gp_weight": 1.0}),
    Run("ring least squares, fast generator", "collapse", "least-squares", "ring", 114, FAST),
    Run("grid, deaf", "collapse", "non-saturating", "grid", 115, _fine("grid"), hears=0.01),
    Run("images, deaf", "collapse", "non-saturating", "images", 116,
        {**_fine("images"), "r1_weight": 1.0}, hears=0.003),
    Run("images hinge, deaf", "collapse", "hinge", "images", 117,
        {**_fine("images"), "d_norm": "spectral"}, hears=0.003),
    Run("ring wgan-gp, deaf from half", "collapse", "wgan-gp", "ring", 118,
        {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}, from_half={"hears": 0.0}),
    Run("images, deaf from half", "collapse", "non-saturating", "images", 119,
        {**_fine("images"), "r1_weight": 1.0}, from_half={"hears": 0.0}),
    Run("images least squares, deaf from half", "collapse", "least-squares", "images", 120,
        {**_fine("images"), "d_norm": "spectral"}, from_half={"hears": 0.0}),
    Run("images wgan, no penalty", "divergence", "wgan-gp", "images", 121,
        {"lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 0.0}),
    Run("images wgan, no penalty, 3 discriminator steps", "divergence", "wgan-gp", "images", 122,
        {"lr_g": 5e-4, "lr_d": 2e-3, "gp_weight": 0.0, "d_steps": 3}),
    Run("grid wgan, no penalty", "divergence", "wgan-gp", "grid", 123,
        {"lr_g": 2e-2, "lr_d": 2e-2, "gp_weight": 0.0, "d_steps": 3}),
    Run("grid, rates of 0.3", "divergence", "non-saturating", "grid", 124, {"lr_g": 0.3, "lr_d": 0.3}),
    Run("ring least squares, rates of 0.3", "divergence", "least-squares", "ring", 125, {"lr_g": 0.3, "lr_d": 0.3}),
    Run("images hinge, rates of 0.2", "divergence", "hinge", "images", 126, {"lr_g": 0.2, "lr_d": 0.2}),
    Run("images, rates of 0.1 from half", "divergence", "non-saturating", "images", 127,
        {**_fine("images"), "d_norm": "batch"}, from_half={"rate": 0.5}),
    Run("grid hinge, rates of 1 from half", "divergence", "hinge", "grid", 128, _fine("grid"), from_half={"rate": 1.0}),
    Run("ring wgan-gp, rates of 1 from half", "divergence", "wgan-gp", "ring", 129,
        {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}, from_half={"rate": 1.0}),
    Run("images least squares, rates of 0.5 from half", "divergence", "least-squares", "images", 130,
        {**_fine("images"), "d_norm": "none", "r1_weight": 1.0}, from_half={"rate": 0.5}),
]  # fmt: skip


class Hearing(nn.Module):
    """A generator that hears its latents so loud. Copies of it share the loudness."""

    def __init__(self, generator: nn.Module, loudness: list[float]):
        super().__init__()
        self.generator = generator
        self.loudness = _Shared(loudness)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z * self.loudness.value[0])


class _Shared:
    def __init__(self, value: list[float]):
        self.value = value

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


def points(data: str, seed: int) -> Iterator[Tensor]:
    """Batches of 64 points of a mixture of Gaussians: 12 on a ring, or 5 × 5 on a grid, within [-1, 1]."""
    source = torch.Generator().manual_seed(seed)
    while True:
        if data == "ring":
            angle = torch.randint(0, 12, (64,), generator=source) * (2 * math.pi / 12)
            centers = torch.stack([angle.cos(), angle.sin()], 1)
        else:
            centers = torch.randint(0, 5, (64, 2), generator=source) / 2 - 1
        yield centers + 0.03 * torch.randn(64, 2, generator=source)


def networks(run: Run, config: Config) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(run.seed)
    if run.data == "images":
        return models.build("dcgan", resolution=28, channels=1, latent=32, width=12, d_norm=config.d_norm)
    generator = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    discriminator = nn.Sequential(
        nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
    )
    return generator, discriminator


def train(run: Run, steps: int) -> list[dict[str, Any]]:
    """The lines that the run logs."""
    config = Config.from_flags(
        game=run.game, seed=run.seed, steps=steps, log_every=steps // 60,
        sample_every=10**9, checkpoint_every=10**9, compile="off", latent=32,
        **ALIKE | run.options,
    )  # fmt: skip
    generator, discriminator = networks(run, config)
    loudness = [run.hears]
    trainer = Trainer(Hearing(generator, loudness), discriminator, run.game, config)

    def change() -> None:
        loudness[0] = run.from_half.get("hears", loudness[0])
        for update in trainer.state.updates.values():
            for group in update.optimizer.param_groups:
                group["lr"] = run.from_half.get("rate", group["lr"])

    source: Iterator[Tensor] = (
        BatchStream(open_source("embedded"), 32, run.seed, torch.device("cpu"))
        if run.data == "images"
        else points(run.data, run.seed)
    )

    def batches() -> Iterator[Tensor]:
        for i in itertools.count():
            if run.from_half and i == steps // 2 * config.d_steps:
                change()
            yield next(source)

    with contextlib.suppress(NonFiniteError):  # the guard stops a run before its last line is logged
        trainer.fit(batches())
    return trainer.state.rows


def judge(run: Run) -> dict[str, object]:
    steps = 480 if run.data == "images" else 1800
    start = time.perf_counter()
    rows = train(run, steps)
    found = verdicts(rows)
    said = [verdict.name for verdict in found]
    wanted = SAID[run.outcome]
    # A run that has blown up may well be collapsed too; one that only collapsed has not blown up.
    wrong = {"divergence", "non-finite"} & set(said) if run.outcome == "collapse" else set()
    right = not said if run.outcome == "healthy" else bool(wanted & set(said)) and not wrong
    first = next((verdict.since for verdict in found if verdict.name in wanted), "")
    return {
        "run": run.name, "outcome": run.outcome, "said": "; ".join(dict.fromkeys(said)) or "nothing", "right": right,
        "first_said_at": first, "steps": steps, "seconds": f"{time.perf_counter() - start:.0f}",
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only runs whose outcome or name contains this")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    options = parser.parse_args()
    rows = []
    for run in RUNS:
        if options.only in f"{run.outcome} {run.name}":
            rows.append(judge(run))
            print(
                "{outcome:10} {run:45} {said} {first_said_at}".format(**rows[-1]), "" if rows[-1]["right"] else "WRONG"
            )
            if options.out:
                write(options.out, rows, COLUMNS)
    right = sum(bool(row["right"]) for row in rows)
    called = sum("mode collapse" in str(row["said"]) for row in rows if row["outcome"] == "healthy")
    print(f"right: {right} of {len(rows)}; healthy runs called collapsed: {called}")
    return 0 if right >= 0.9 * len(rows) and not called else 1


if __name__ == "__main__":
    sys.exit(main())
