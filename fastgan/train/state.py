"""The state of a run, which the trainer's collaborators share, and how a checkpoint keeps and restores it."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan._util import random as rng
from fastgan._util.random import Random
from fastgan.errors import CheckpointError, UsageError
from fastgan.nn.spectral import SpectralNorm
from fastgan.report.legacy import modernized_row
from fastgan.tasks.base import Batch, Noise, Task
from fastgan.train import checkpoint
from fastgan.train.config import Config
from fastgan.train.distributed import World
from fastgan.train.ema import Ema
from fastgan.train.growth import Growth
from fastgan.train.optim import Update
from fastgan.train.schedule import factor

_logger = logging.getLogger(__name__)

#: What values raise that are not those of this version.
_DIFFERENT = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)


@dataclass
class TrainState:
    """The state of a run at a step.

    updates: of "generator" and "discriminator". out: the run directory, or None. about: facts for `config.json`, among
    them how the steps are computed. loss: the name of the adversarial loss, or of a task of one's own. step, images,
    seconds: done so far; images are those of all ranks. batch: of the last discriminator step. noise: of the last step
    of each network. held_out: a batch that is not trained on. channels_last: whether networks and batches are in that
    memory format. back_off: the learning rates as a part of the configured ones, lowered while updates are skipped;
    skipped: how many were. rollbacks: where the run went back, in plain values. rows: the lines of metrics so far, on
    rank 0.
    """

    config: Config
    task: Task
    ema: Ema
    updates: dict[str, Update]
    random: Random
    world: World
    device: torch.device
    growth: Growth
    out: Path | None
    about: dict[str, Any]
    loss: str = ""
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    batch: Batch = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)
    held_out: Batch | None = None
    channels_last: bool = False
    back_off: float = 1.0
    skipped: int = 0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Generator, averaged generator and discriminator, by the names of a checkpoint's parts."""
        return {"generator": self.task.generator, "ema": self.ema.module, "discriminator": self.task.discriminator}

    @property
    def run(self) -> Path | None:
        """The run directory where this process is the one that writes it."""
        return self.out if self.world.rank == 0 else None

    @property
    def decisions(self) -> dict[str, Any]:
        """The part of `about` that holds how the steps are computed: one for each level of growing networks."""
        return self.growth.decisions(self.about)

    @property
    def rollback_rates(self) -> dict[str, float]:
        """The learning rates as parts of what they would be without rollbacks."""
        return self.rollbacks[-1]["rates"] if self.rollbacks else dict.fromkeys(self.updates, 1.0)

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates of the update after `step` ones: as configured, times schedule, back-off and rollbacks."""
        optim = self.config.optim
        part = factor(optim, step, self.config.steps) * self.back_off
        configured = {"generator": optim.lr_g or 0.0, "discriminator": optim.lr_d or 0.0}
        return {name: rate * part * self.rollback_rates[name] for name, rate in configured.items()}

    def set_rates(self) -> None:
        """Hand the learning rates to the optimizers: after what they follow from has changed."""
        for name, rate in self.rates(self.step).items():
            self.updates[name].set_rate(rate, self.config.optim.scheduled)

    def draw(self, network: str, batch: Batch) -> Noise:
        """The noise of the next step of a network, on the device."""
        noise = self.task.draw(network, batch, self.random, self.step)
        return {n: value.to(self.device) if isinstance(value, Tensor) else value for n, value in noise.items()}


def check_batches(batches: Any) -> None:
    """Raise UsageError where no checkpoint can hold the batches' state: before the first one, not at it."""
    state = _state_of(batches)
    try:
        same = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError) as error:
        raise UsageError(f"batches: their state_dict() cannot be written as JSON: {error}") from error
    if not same:
        raise UsageError(
            "batches: their state_dict() does not come back from JSON as it was;"
            " expected strings as keys, and lists instead of tuples"
        )


def save(state: TrainState, batches: Any, protect: Collection[int] = ()) -> None:
    """Write a checkpoint of this moment, between two steps. protect: the newest up to each of these steps stays too."""
    assert state.out is not None
    check_batches(batches)
    optimizer: dict[str, Tensor] = {}
    for name, update in state.updates.items():
        optimizer |= checkpoint.optimizer_tensors(update.optimizer, name)
        optimizer |= {f"update.{name}.{key}": value for key, value in update.tensors().items()}
    optimizer |= {f"task.state.{key}": value for key, value in state.task.tensors().items()}
    parts = {**{part: network.state_dict() for part, network in state.networks.items()}, "optimizer": optimizer}
    facts = {
        "images": state.images,
        "seconds": state.seconds,
        "skipped": state.skipped,
        "back_off": state.back_off,
        "rollbacks": state.rollbacks,
        "iterated": {part: _iterated(network) for part, network in state.networks.items()},
        "random": {name: rng.encode(source) for name, source in _generators(state).items()},
        "global_random": rng.encode_global(),
        "batches": _state_of(batches),
    }
    keep = state.config.logging.keep_checkpoints
    checkpoint.save(state.out / "checkpoints", state.step, parts, facts, keep, protect)


def prune(state: TrainState, protect: Collection[int] = ()) -> None:
    """Delete the checkpoints that `save` would, after a run that was killed before it had."""
    assert state.out is not None
    checkpoint.prune(state.out / "checkpoints", state.step, state.config.logging.keep_checkpoints, protect)


def load(state: TrainState, batches: Any) -> None:
    """Continue from the newest checkpoint that verifies; where the run had not come to its first one, begin anew."""
    assert state.out is not None
    directory = state.out / "checkpoints"
    if not checkpoint.steps_in(directory):
        if state.step:
            raise UsageError(f"resume: {state.out} has no checkpoint, and this Trainer has trained; make a new one")
        _logger.info("%s has no checkpoint yet: it begins anew at step 0", state.out)
        return
    folder, facts = checkpoint.newest(directory)
    restore(state, folder, facts)
    # "restored" in older versions, with other keys.
    past: dict[str, Any] = {name: facts[name] for name in ("rollbacks", "restored") if name in facts}
    try:
        state.rollbacks = modernized_row(past).get("rollbacks", [])
        state.set_rates()
        _load_random(state, facts)
    except _DIFFERENT as error:
        raise _another_version(folder, error) from error
    if facts.get("batches") is not None and hasattr(batches, "load_state_dict"):
        batches.load_state_dict(facts["batches"])
    elif state.step < state.config.steps:
        _logger.info("the batches cannot be restored: they start anew (give them state_dict and load_state_dict)")
    _logger.info("resumed %s at step %d", state.out, state.step)


def restore(state: TrainState, folder: Path, facts: dict[str, Any]) -> None:
    """Networks, average, optimizers and counters as a checkpoint has them; random numbers and batches go on."""
    try:
        _restore(state, folder, facts)
    except _DIFFERENT as error:
        raise _another_version(folder, error) from error


def _restore(state: TrainState, folder: Path, facts: dict[str, Any]) -> None:
    for part, network in state.networks.items():
        checkpoint.load_network(network, folder, part)
        # Older versions did not keep it: there the norms iterate once more.
        _set_iterated(network, facts.get("iterated", {}).get(part, []))
    tensors = checkpoint.load_part(folder, "optimizer")
    for name, update in state.updates.items():
        checkpoint.load_optimizer(update.optimizer, tensors, name)
        update.match_strides()
        # An older version may have kept less.
        update.load_tensors({key: tensors.get(f"update.{name}.{key}", now) for key, now in update.tensors().items()})
    # "remedy.state." in older versions.
    own = {
        key.removeprefix(prefix): value
        for prefix in ("remedy.state.", "task.state.")
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    state.task.load_tensors(own)
    state.step, state.images, state.seconds = facts["step"], facts["images"], facts["seconds"]
    state.skipped = facts.get("skipped", 0)
    state.back_off = facts.get("back_off", 1.0)
    state.set_rates()


def whole_checkpoint(out: Path | None) -> str:
    """Which checkpoint a run can go on from, for a message, or ""."""
    try:
        return f"; the checkpoint of step {checkpoint.newest(out / 'checkpoints')[1]['step']} is whole" if out else ""
    except CheckpointError:
        return ""


def _another_version(folder: Path, error: Exception) -> CheckpointError:
    # Whole, as its checksum says: what is missing or does not fit, another version wrote so.
    return CheckpointError(f"checkpoint {folder}: state.json is of another version: {error!r:.300}")


def _load_random(state: TrainState, facts: dict[str, Any]) -> None:
    for name, source in _generators(state).items():
        if name in facts["random"]:
            rng.decode(source, facts["random"][name])
        elif name.count(":") == 0:
            source.manual_seed(state.config.seed + facts["step"])
            _logger.info(
                "the checkpoint is from another device or an older version: %s goes on with fresh random numbers", name
            )
    if "global_random" in facts:  # not kept by older versions
        rng.decode_global(facts["global_random"])


def _generators(state: TrainState) -> dict[str, torch.Generator]:
    """Every random generator that a step may draw from: the default ones too, for dropout and the like."""
    device = state.device
    sources = {
        f"latents.{device.type}": state.random.generator,
        "host": state.random.host,
        "default.cpu": torch.default_generator,
    }
    if device.type == "cuda":
        own = device.index if device.index is not None else torch.cuda.current_device()
        for i, source in enumerate(torch.cuda.default_generators):
            # The run's own has no number, as a run may go on on another device.
            sources["default.cuda" if i == own else f"default.cuda:{i}"] = source
    return sources


def _iterated(network: nn.Module) -> list[str]:
    """The spectral norms with every="step" that have iterated since their optimizer's last step."""
    return [name for name, norm in network.named_modules() if isinstance(norm, SpectralNorm) and norm.slot.fresh]


def _set_iterated(network: nn.Module, names: list[str]) -> None:
    for name, norm in network.named_modules():
        if isinstance(norm, SpectralNorm):
            norm.slot.fresh = name in names


def _state_of(batches: Any) -> Any:
    return batches.state_dict() if hasattr(batches, "state_dict") else None
