"""Rollback: what is done about mode collapse or divergence where `on_collapse` says "rollback".

The run goes on from its newest checkpoint of before the trouble, with other random numbers and with the batches that
come next: the same ones would end the same way. Training of large language models is brought past spikes of the loss
like this (Chowdhery et al. 2022, arXiv:2204.02311). After a divergence both learning rates are halved; after a mode
collapse the generator's is, so that the discriminator keeps up (two time-scale update rule, Heusel et al. 2017,
arXiv:1706.08500).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

import numpy as np
import torch

from fastgan._util import random as rng
from fastgan._util.options import option
from fastgan.errors import CheckpointError
from fastgan.report.diagnostics import Diagnosis, last_healthy_step
from fastgan.train import checkpoint
from fastgan.train import state as run_state
from fastgan.train.logging import Metrics
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: How often a run goes back before it stops.
TIMES = 3
#: Whose learning rate is halved, by diagnosis.
SLOWED = {"mode collapse": ("generator",), "divergence": ("generator", "discriminator")}
_GO_ON, _STOP = -2, -1


class Decision(NamedTuple):
    """What all ranks do: stop, or go back to step `to` (None: neither), because of the diagnosis of that name."""

    stop: bool = False
    to: int | None = None
    name: str = ""


def decide(state: TrainState, diagnosis: Diagnosis | None) -> Decision:
    """What to do about a diagnosis, or about none. Called on all ranks; rank 0 knows the lines it follows from."""
    on_collapse = state.config.logging.on_collapse
    if on_collapse != "rollback":
        return Decision(state.world.any(diagnosis is not None and on_collapse == "stop"))
    step, name = (
        (_GO_ON, 0) if diagnosis is None else (_step_before(state, diagnosis), list(SLOWED).index(diagnosis.name))
    )
    decided = torch.tensor([step, name], device=state.device)
    state.world.broadcast_([decided])
    step, name = decided.tolist()
    return Decision(step == _STOP, step if step >= 0 else None, list(SLOWED)[name])


def _step_before(state: TrainState, diagnosis: Diagnosis) -> int:
    assert state.out is not None
    if len(state.rollbacks) >= TIMES or state.world.rank > 0:
        return _STOP
    try:
        return checkpoint.newest(state.out / "checkpoints", before=diagnosis.since)[1]["step"]
    except CheckpointError:
        return _STOP


def why_not(state: TrainState) -> str:
    """Why a run that may go back stops, as the end of a sentence, or ""."""
    if state.config.logging.on_collapse != "rollback":
        return ""
    if len(state.rollbacks) >= TIMES:
        return f"; it has gone back {TIMES} times already"
    return f"; there is no whole checkpoint from before that ({option('checkpoint_every')})"


def protected_steps(state: TrainState) -> tuple[int, ...]:
    """Up to which step the newest checkpoint must stay, whatever the next lines say; none: any may go."""
    if state.config.logging.on_collapse != "rollback":
        return ()
    step = last_healthy_step(state.rows, state.task.unbounded)
    return () if step is None else (step,)


def in_row(state: TrainState) -> dict[str, Any]:
    """Fields added to the first line of metrics after a rollback, from which the report is made."""
    if not state.rollbacks or any(row["step"] > state.rollbacks[-1]["to_step"] for row in state.rows):
        return {}
    return {"rollbacks": state.rollbacks}


def go_back(
    state: TrainState, decision: Decision, diagnosis: Diagnosis | None, batches: Any, metrics: Metrics | None
) -> None:
    """Restore the checkpoint of that step, go on differently from there, and replace the checkpoint by this moment.

    The batches go on where they are. Called on all ranks.
    """
    step = decision.to
    assert state.out is not None
    assert step is not None
    left, seconds, history = state.step, state.seconds, state.rollbacks
    rates = state.rollback_rates
    run_state.restore(state, *checkpoint.newest(state.out / "checkpoints", before=step + 1))
    state.seconds = seconds  # they were spent
    # Counted too: the second time the checkpoint may be the first time's.
    entropy = (state.config.seed, state.step, len(history) + 1)
    (mixed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    seed = int(mixed >> np.uint64(1))
    rng.seed(seed)
    state.random.generator.manual_seed(seed)
    state.world.seed_rank(seed, state.step)
    slowed = SLOWED[decision.name]
    rates = {name: rate / 2 if name in slowed else rate for name, rate in rates.items()}
    # Only the first rank's is written down.
    found = dataclasses.asdict(diagnosis or Diagnosis(decision.name, left, left, "", ()))
    state.rollbacks = [*history, {"from_step": left, "to_step": state.step, "rates": rates, **found}]
    state.set_rates()
    state.rows[:] = [row for row in state.rows if row["step"] <= step]
    state.world.barrier()  # until nobody reads the checkpoint that is replaced now
    if metrics is not None:
        # In this order: where the run is killed between the two, it drops the lines itself when it is resumed.
        run_state.save(state, batches, protected_steps(state))
        metrics.back_to(step)
    said = ", ".join(f"{name} × {rate:g}" for name, rate in rates.items())
    _logger.warning(
        "went back from step %d to step %d, with other random numbers; learning rates: %s", left, step, said
    )
