"""Checks the diagnoses of fastgan.report.diagnostics on 30 short trainings whose outcome is known by construction.

    python benchmarks/diagnostics.py [--only SUBSTRING] [--out benchmarks/results/diagnostics.csv]

Ten trainings are healthy, ten collapse (the generator's learning rate is ten times the discriminator's, or its latents
are scaled toward 0), ten diverge (no penalty where one is needed, learning rates far too high, from the start or from
the middle on). The rules were written with other runs: rings of 8 Gaussians and images, seeds 0 to 2, without the
least-squares loss, the grid, and changes in the middle.
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
from table import write
from torch import Tensor, nn

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import NonFiniteError
from fastgan.losses import ADVERSARIAL
from fastgan.report.diagnostics import diagnoses

COLUMNS = ("run", "outcome", "diagnoses", "right", "first_at", "steps", "seconds")
EXPECTED = {"healthy": set(), "collapse": {"mode collapse"}, "divergence": {"divergence", "non-finite"}}


@dataclass(frozen=True)
class Run:
    """A training and its outcome.

    latent_scale: factor on the generator's latents. from_half: what changes after half of the steps.
    """

    name: str
    outcome: str
    loss: str
    data: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    latent_scale: float = 1.0
    from_half: dict[str, float] = field(default_factory=dict)


def _healthy(data: str) -> dict[str, Any]:
    """Settings with which these trainings are healthy."""
    return {"lr_g": 1e-3, "lr_d": 1e-3, "r1_weight": 0.1} if data != "images" else {"lr_g": 4e-4, "lr_d": 4e-4}


#: Of all trainings, instead of the defaults of their losses.
COMMON = {"lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999, "d_steps": 1}
FAST = {"lr_g": 1e-2, "lr_d": 1e-3}
GP = {"beta1": 0.0, "beta2": 0.9, "d_steps": 2}
RUNS = [
    Run("grid", "healthy", "non-saturating", "grid", 101, _healthy("grid")),
    Run("grid hinge", "healthy", "hinge", "grid", 102, _healthy("grid")),
    Run("grid wgan-gp", "healthy", "wgan-gp", "grid", 103, {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}),
    Run("ring least squares", "healthy", "least-squares", "ring", 104, _healthy("ring")),
    Run("ring wgan-gp", "healthy", "wgan-gp", "ring", 105, {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}),
    Run("images, batch norm", "healthy", "non-saturating", "images", 106, {**_healthy("images"), "d_norm": "batch"}),
    Run("images, R1", "healthy", "non-saturating", "images", 107,
        {**_healthy("images"), "r1_weight": 1.0, "penalty_interval": 4}),
    Run("images hinge, spectral", "healthy", "hinge", "images", 108,
        {"lr_g": 2e-4, "lr_d": 4e-4, "d_norm": "spectral"}),
    Run("images wgan-gp", "healthy", "wgan-gp", "images", 109, {**_healthy("images"), **GP}),
    Run("images least squares, spectral", "healthy", "least-squares", "images", 110,
        {**_healthy("images"), "d_norm": "spectral"}),
    Run("grid, fast generator", "collapse", "non-saturating", "grid", 111, FAST),
    Run("grid hinge, fast generator", "collapse", "hinge", "grid", 112, FAST),
    Run("ring wgan-gp, fast generator", "collapse", "wgan-gp", "ring", 113, {**FAST, "gp_weight": 1.0}),
    Run("ring least squares, fast generator", "collapse", "least-squares", "ring", 114, FAST),
    Run("grid, latents ignored", "collapse", "non-saturating", "grid", 115, _healthy("grid"), latent_scale=0.01),
    Run("images, latents ignored", "collapse", "non-saturating", "images", 116,
        {**_healthy("images"), "r1_weight": 1.0}, latent_scale=0.003),
    Run("images hinge, latents ignored", "collapse", "hinge", "images", 117,
        {**_healthy("images"), "d_norm": "spectral"}, latent_scale=0.003),
    Run("ring wgan-gp, latents ignored from half", "collapse", "wgan-gp", "ring", 118,
        {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}, from_half={"latent_scale": 0.0}),
    Run("images, latents ignored from half", "collapse", "non-saturating", "images", 119,
        {**_healthy("images"), "r1_weight": 1.0}, from_half={"latent_scale": 0.0}),
    Run("images least squares, latents ignored from half", "collapse", "least-squares", "images", 120,
        {**_healthy("images"), "d_norm": "spectral"}, from_half={"latent_scale": 0.0}),
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
        {**_healthy("images"), "d_norm": "batch"}, from_half={"rate": 0.5}),
    Run("grid hinge, rates of 1 from half", "divergence", "hinge", "grid", 128,
        _healthy("grid"), from_half={"rate": 1.0}),
    Run("ring wgan-gp, rates of 1 from half", "divergence", "wgan-gp", "ring", 129,
        {**GP, "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0}, from_half={"rate": 1.0}),
    Run("images least squares, rates of 0.5 from half", "divergence", "least-squares", "images", 130,
        {**_healthy("images"), "d_norm": "none", "r1_weight": 1.0}, from_half={"rate": 0.5}),
]  # fmt: skip


class ScaledLatents(nn.Module):
    """A generator whose latents are multiplied by a number, which its copies share."""

    def __init__(self, generator: nn.Module, scale: list[float]):
        super().__init__()
        self.generator = generator
        self.scale = _Shared(scale)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z * self.scale.value[0])


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
    """The rows that the run logs."""
    config = Config(
        loss=run.loss, seed=run.seed, steps=steps, log_every=steps // 60,
        sample_every=10**9, checkpoint_every=10**9, compile="off", latent=32,
        **COMMON | run.options,
    )  # fmt: skip
    generator, discriminator = networks(run, config)
    scale = [run.latent_scale]
    trainer = Trainer(ScaledLatents(generator, scale), discriminator, run.loss, config)

    def change() -> None:
        scale[0] = run.from_half.get("latent_scale", scale[0])
        for update in trainer.updates.values():
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

    with contextlib.suppress(NonFiniteError):  # the guard stops a run before its last row is logged
        trainer.fit(batches())
    return trainer.state.rows


def check(run: Run) -> dict[str, object]:
    steps = 480 if run.data == "images" else 1800
    start = time.perf_counter()
    rows = train(run, steps)
    found = diagnoses(rows, ADVERSARIAL[run.loss].unbounded)
    names = [diagnosis.name for diagnosis in found]
    expected = EXPECTED[run.outcome]
    # A run that diverged may also have collapsed; one that only collapsed has not diverged.
    wrong = {"divergence", "non-finite"} & set(names) if run.outcome == "collapse" else set()
    right = not names if run.outcome == "healthy" else bool(expected & set(names)) and not wrong
    return {
        "run": run.name, "outcome": run.outcome, "diagnoses": "; ".join(dict.fromkeys(names)) or "healthy",
        "right": right, "first_at": next((diagnosis.since for diagnosis in found if diagnosis.name in expected), ""),
        "steps": steps, "seconds": f"{time.perf_counter() - start:.0f}",
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only runs whose outcome or name contains this")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    options = parser.parse_args()
    rows = []
    for run in RUNS:
        if options.only in f"{run.outcome} {run.name}":
            rows.append(check(run))
            print(
                "{outcome:10} {run:45} {diagnoses} {first_at}".format(**rows[-1]), "" if rows[-1]["right"] else "WRONG"
            )
            if options.out:
                write(options.out, rows, COLUMNS)
    right = sum(bool(row["right"]) for row in rows)
    false_alarms = sum("mode collapse" in str(row["diagnoses"]) for row in rows if row["outcome"] == "healthy")
    print(f"right: {right} of {len(rows)}; healthy runs with the diagnosis mode collapse: {false_alarms}")
    return 0 if right >= 0.9 * len(rows) and not false_alarms else 1


if __name__ == "__main__":
    sys.exit(main())
