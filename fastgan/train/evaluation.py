"""FID or KID of a run's samples while it trains: logged, the best checkpoint kept, and a stop when nothing improves.

Drawing the samples changes nothing that is trained, random numbers included.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import torch

from fastgan._util import random as rng
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.extractors import open_extractor
from fastgan.metrics.features import Extractor
from fastgan.report.images import to_uint8
from fastgan.tasks.generation import Generation
from fastgan.tasks.sample_grids import images_of
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Samples drawn at a time.
_BATCH = 100


class Evaluation:
    """Evaluates the averaged generator every `eval_every` steps, and at the last one.

    reference: the real images; labels are needed by the extractor digits. Rank 0 computes; the others wait for it where
    they next exchange something. What was found is read from the rows of metrics, so a resumed run goes on from there.
    """

    def __init__(self, state: TrainState, reference: ImageSet | None):
        self._state, self._reference = state, reference
        self._config = state.config.evaluation
        self._extractor: Extractor | None = None
        self._pattern = re.compile(rf"eval/{self._config.eval_metric}\d")
        self._seen, self._latest = 0, ""
        if not self._config.eval_every:
            return
        if type(state.task) is not Generation:
            kind = type(state.task).__name__
            raise UsageError(f"eval_every: samples are drawn from latents, and the task is {kind}; leave it out")
        if reference is None:
            raise UsageError("eval_every: samples are compared with real images; give fit(reference=images) too")

    def open(self) -> None:
        """Open the extractor, before the first step: it can be missing, or has to be trained."""
        if self._config.eval_every and self._state.world.rank == 0 and self._extractor is None:
            assert self._reference is not None
            with rng.preserved(self._state.device):
                wanted, samples = list(self._reference.images.shape[1:]), self._samples(1)
                if samples is not None and list(samples.shape[1:]) != wanted:
                    raise UsageError(
                        f"reference: expected images like the generator's, {list(samples.shape[1:])}, got {wanted}"
                    )
                self._extractor = open_extractor(self._config.eval_extractor, self._reference, self._state.device)
            _logger.info("evaluating with %s", self._extractor.about)

    def measure(self) -> dict[str, float]:
        """The metric for this step's row, where one is due, on rank 0."""
        state, config = self._state, self._config
        due = config.eval_every and (state.step % config.eval_every == 0 or state.step == state.config.steps)
        if not due or self._extractor is None or self._reference is None:
            return {}
        with rng.preserved(state.device):
            samples = self._samples(config.eval_n)
            if samples is None:
                _logger.warning("step %d: no %s, samples are not finite", state.step, config.eval_metric)
                return {}
            found = evaluate(
                samples, self._reference, self._extractor, metrics=config.eval_metric, n=config.eval_n,
                seed=state.config.seed,
            )  # fmt: skip
        row = found[config.eval_metric]
        return {} if row.value is None else {f"eval/{row.name}": row.value}

    @torch.no_grad()
    def _samples(self, n: int) -> np.ndarray | None:
        """Images of the averaged generator, uint8 [n, C, H, W], of the same latents each time; None: not finite."""
        state, task = self._state, self._state.task
        assert isinstance(task, Generation)
        latents = np.random.default_rng(state.config.seed).standard_normal((n, *task.latent_shape), dtype=np.float32)
        z, parts = torch.from_numpy(latents).to(state.device), []
        labels = torch.arange(len(z), device=state.device) % max(1, task.classes)
        for chosen, of in zip(z.split(_BATCH), labels.split(_BATCH), strict=True):
            images = task.enlarge(images_of(state.ema.module, chosen, of)).float().cpu().numpy()
            if not np.isfinite(images).all():
                return None
            parts.append(to_uint8(images))
        return np.concatenate(parts)

    @property
    def history(self) -> list[tuple[int, float]]:
        """(step, value) of the evaluations so far, of the name that the latest has: others cannot be compared."""
        name = self._name()
        return [(row["step"], row[name]) for row in self._state.rows if name in row]

    @property
    def best(self) -> dict[str, Any] | None:
        """Step, name and value of the best evaluation so far; None before the first one, and on ranks other than 0."""
        if not (history := self.history):
            return None
        step, value = min(history, key=lambda found: found[1])
        return {"step": step, "name": self._name().removeprefix("eval/"), "value": value}

    @property
    def is_best(self) -> bool:
        """Whether this step's evaluation is the best one."""
        return self.best is not None and self.best["step"] == self._state.step

    @property
    def gave_up(self) -> str:
        """Why the run is to stop early, or ""."""
        if not (patience := self._config.eval_patience) or (best := self.best) is None:
            return ""
        history = self.history
        since = sum(step > best["step"] for step, _ in history)
        if since < patience or history[-1][0] != self._state.step:
            return ""
        return (
            f"the last {since} evaluations are not better than {best['name']} {best['value']:.5g} at step"
            f" {best['step']} (--eval-patience)"
        )

    def report(self) -> None:
        """Log the best value, at the end of a run."""
        if best := self.best:
            where = f" ({self._state.out}/checkpoints/{best['step']:08d})" if self._state.out else ""
            _logger.info("best %s: %.5g at step %d%s", best["name"], best["value"], best["step"], where)

    def _name(self) -> str:
        """The metric's key in the latest row that has one, or ""; rows are looked through once."""
        rows = self._state.rows
        if len(rows) < self._seen:  # the run went back
            self._seen, self._latest = 0, ""
        for row in rows[self._seen :]:
            self._latest = next((key for key in row if self._pattern.match(key)), self._latest)
        self._seen = len(rows)
        return self._latest
