"""Back to where a run was well: what is done about a collapse where `on_collapse` says "restore".

The run goes on from its newest checkpoint of before the trouble, and differently: with other random numbers, and with
the batches that come next. The same ones would end the same way; large language models are brought past spikes of their
loss like this (Chowdhery et al. 2022, arXiv:2204.02311). After a divergence both learning rates are halved; after a
mode collapse the generator's is, so that the discriminator keeps up (two time scales, Heusel et al. 2017, arXiv:1706.08500).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fastgan.errors import CheckpointError, UsageError
from fastgan.report.diagnostics import Diagnosis, last_healthy_step
from fastgan.train import checkpoint, rng_state, state

if TYPE_CHECKING:
    from fastgan.train.rundir import Metrics
    from fastgan.train.trainer import Trainer

Say = Callable[[str], None]

#: How often a run goes back before it stops.
TIMES = 3
#: Whose learning rate is halved, by verdict.
SLOWED = {"mode collapse": ("generator",), "divergence": ("generator", "discriminator")}
_GO_ON, _STOP = -2, -1


class Decision(NamedTuple):
    """What all ranks do: stop, or go back to a step (None: neither), because of the verdict of that name."""

    stop: bool = False
    to: int | None = None
    name: str = ""


class Restore:
    """history: how often the run went back and why, in plain values; a part of every checkpoint."""

    def __init__(self, trainer: Trainer):
        if trainer.config.on_collapse == "restore" and trainer.out is None:
            raise UsageError("on_collapse: 'restore' goes back to a checkpoint, and without `out` there are none")
        self._trainer = trainer
        self.history: list[dict[str, Any]] = []

    def decide(self, verdict: Diagnosis | None) -> Decision:
        """What to do about a verdict, or about none. Called on all ranks."""
        trainer = self._trainer
        if trainer.config.on_collapse != "restore":
            # One for all: a rank that was resumed does not know the lines that the first one has read.
            return Decision(trainer.world.any(verdict is not None and trainer.config.on_collapse == "stop"))
        # To which step follows from all the lines, so the first rank says it.
        step, name = (_GO_ON, 0) if verdict is None else (self._step_before(verdict), list(SLOWED).index(verdict.name))
        said = torch.tensor([step, name], device=trainer.device)
        trainer.world.broadcast_([said])
        step, name = said.tolist()
        return Decision(step == _STOP, step if step >= 0 else None, list(SLOWED)[name])

    def _step_before(self, verdict: Diagnosis) -> int:
        trainer = self._trainer
        assert trainer.out is not None
        if len(self.history) >= TIMES or trainer.world.rank > 0:
            return _STOP
        try:
            return checkpoint.newest(trainer.out / "checkpoints", before=verdict.since)[1]["step"]
        except CheckpointError:
            return _STOP

    def why_not(self) -> str:
        """Why a run that may go back stops, as the end of a sentence, or ""."""
        if self._trainer.config.on_collapse != "restore":
            return ""
        if len(self.history) >= TIMES:
            return f"; it has gone back {TIMES} times already"
        return "; there is no whole checkpoint from before that (--checkpoint-every)"

    def sound(self) -> int | None:
        """Up to which step the newest checkpoint must stay, whatever the next lines say; None: any may go."""
        return (
            last_healthy_step(self._trainer.monitor.rows, self._trainer.game.unbounded)
            if self._trainer.config.on_collapse == "restore"
            else None
        )

    def told(self) -> dict[str, Any]:
        """What the first line after going back says beside its figures: from the lines alone the report is made."""
        if not self.history or any(row["step"] > self.history[-1]["to"] for row in self._trainer.monitor.rows):
            return {}
        return {"restored": self.history}

    def go_back(
        self, decision: Decision, verdict: Diagnosis | None, batches: Any, metrics: Metrics | None, say: Say
    ) -> None:
        """Be at that step again, go on differently from there, and let the checkpoint of that step be of this moment.

        The batches go on where they are. Called on all ranks.
        """
        trainer, step = self._trainer, decision.to
        assert trainer.out is not None
        assert step is not None
        left, seconds = trainer.step, trainer.seconds
        state.put_back(trainer, *checkpoint.newest(trainer.out / "checkpoints", before=step + 1))
        trainer.seconds = seconds  # they were spent
        self._go_on_differently(left, decision, verdict)
        trainer.guard.begin()
        trainer.monitor.forget(step)
        trainer.world.barrier()  # until nobody reads the checkpoint that is replaced now
        if metrics is not None:
            # In this order: where the run is killed between the two, it drops the lines itself when it is resumed.
            state.save(trainer, batches, metrics)
            metrics.back_to(step)
        rates = ", ".join(f"{player} × {rate:g}" for player, rate in self._rates.items())
        say(f"went back from step {left} to step {step}, with other random numbers; learning rates: {rates}")

    def _go_on_differently(self, left: int, decision: Decision, verdict: Diagnosis | None) -> None:
        trainer = self._trainer
        # Counted too: the second time the checkpoint may be the first time's.
        entropy = (trainer.config.seed, trainer.step, len(self.history) + 1)
        (mixed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        seed = int(mixed >> np.uint64(1))
        rng_state.seed(seed)
        trainer.noise.random.manual_seed(seed)
        trainer.world.part_random(seed, trainer.step)
        slowed = SLOWED[decision.name]
        rates = {player: rate / 2 if player in slowed else rate for player, rate in self._rates.items()}
        # Only the first rank's is written down.
        found = dataclasses.asdict(verdict or Diagnosis(decision.name, left, left, "", ()))
        self.load([*self.history, {"left": left, "to": trainer.step, "rates": rates, **found}])

    @property
    def _rates(self) -> dict[str, float]:
        """The learning rates as parts of what they would be had the run never gone back."""
        return self.history[-1]["rates"] if self.history else dict.fromkeys(self._trainer.updates, 1.0)

    def load(self, history: list[dict[str, Any]]) -> None:
        """Go on with another history."""
        now = self._rates
        self.history = history
        for player, rate in self._rates.items():
            self._trainer.updates[player].back_off(rate / now[player])
