"""The monitor: once a log interval it measures a run closely, and says when it collapses or diverges.

It changes nothing that is trained, and random numbers are restored after it.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan._util import random as rng
from fastgan._util.options import named
from fastgan.nn.spectral import SpectralNorm, TorchParametrization
from fastgan.report.diagnostics import SEVERE, Diagnosis, current
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Losses that the progress bar shows, by their short names.
_SHOWN = {"D": "loss/discriminator", "G": "loss/generator"}


class Monitor:
    """layers: a row for each weight, of the last look. diagnoses: of the last line, the most severe first."""

    def __init__(self, state: TrainState):
        self._state = state
        self.layers: list[dict[str, float | str]] = []
        self.diagnoses: list[Diagnosis] = []

    def measure(self) -> dict[str, float]:
        """Figures for this interval's line, and `layers`. Waits for the device. Called on all ranks."""
        state = self._state
        found: dict[str, Tensor] = {}
        with rng.preserved(state.device), torch.no_grad():
            for name, update in state.updates.items():
                found[f"skipped/{name}"] = update.skipped
                if update.watched is not None:
                    total = update.watched.square().sum(1).sqrt()
                    found[f"update/{name}"] = total[2] / total[1]
            averaged = state.task.with_generator(state.ema.module)
            found |= averaged.measures(state.batch, self._held_out(), state.step)
            self.layers = self._layers()
        values = torch.stack([value.float() for value in found.values()])
        state.world.mean_([values])
        # JSON has no word for the others.
        return {name: value for name, value in zip(found, values.tolist(), strict=True) if math.isfinite(value)}

    def diagnose(self, row: dict[str, Any]) -> Diagnosis | None:
        """Mode collapse or divergence, as of this line of metrics. Each diagnosis is logged once."""
        rows = self._state.rows
        rows.append(row)
        before = {(diagnosis.name, diagnosis.since) for diagnosis in self.diagnoses}
        self.diagnoses = current(rows, self._state.task.unbounded)
        for diagnosis in self.diagnoses:
            if (diagnosis.name, diagnosis.since) not in before:
                _logger.warning("step %d: %s", row["step"], named(diagnosis.sentence()))
        return next((diagnosis for diagnosis in self.diagnoses if diagnosis.name in SEVERE), None)

    def summary(self, row: dict[str, Any]) -> str:
        """A line of metrics for the progress bar: speed, peak memory, what is wrong, and losses."""
        losses = (f"{short} {row[name]:+.3f}" for short, name in _SHOWN.items() if name in row)
        wrong = ", ".join(diagnosis.name for diagnosis in self.diagnoses) or "healthy"
        speed = row["speed/images_per_second"]
        memory = [f"{row['memory/peak_gb']:.1f} GB"] if "memory/peak_gb" in row else []
        return "  ".join([f"{speed:.0f} images/s", f"{1000 / speed:.3g} sec/kimg", *memory, wrong, *losses])

    def _held_out(self) -> dict[str, Tensor] | None:
        """The held-out batch in the size of networks that grow."""
        state = self._state
        if state.held_out is None:
            return None
        real = state.task.real
        return state.held_out | {real: state.growth.averaged(state.held_out[real])}

    def _layers(self) -> list[dict[str, float | str]]:
        """For each weight: its norm, its gradient's, the last change's, and the spectral norm where there is one."""
        rows: list[dict[str, float | str]] = []
        for network, update in self._state.updates.items():
            if update.watched is None:
                continue
            norms = _spectral_norms(self._state.networks[network])
            for name, (gradient, weight, change) in zip(update.names, update.watched.T.tolist(), strict=True):
                row: dict[str, float | str] = {"weight": f"{network}.{name}", "norm": weight, "gradient": gradient}
                row["change"] = change / weight if weight else 0.0
                if name in norms:
                    row["spectral_norm"] = norms[name]
                rows.append(row)
        return rows


@torch.no_grad()
def _spectral_norms(network: nn.Module) -> dict[str, float]:
    """Largest singular values, as the spectral norms' own vectors give them, by the name of the weight."""
    found: dict[str, Tensor] = {}
    for name, chain in network.named_modules():
        if isinstance(chain, parametrize.ParametrizationList) and isinstance(
            chain[0], SpectralNorm | TorchParametrization
        ):
            norm = chain[0]
            matrix = chain.original.movedim(norm.dim, 0).flatten(1)
            found[f"{name}.original"] = torch.dot(norm._u, torch.mv(matrix, norm._v))
    values = torch.stack(list(found.values())).tolist() if found else []
    return dict(zip(found, values, strict=True))
