"""Everything that a run is at a step, into a checkpoint and back.

Networks, average, both optimizers, loss scales, remedies, random generators, the position in the data, counters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastgan.errors import CheckpointError, UsageError
from fastgan.nn.spectral import SpectralNorm
from fastgan.train import checkpoint, rng_state

if TYPE_CHECKING:
    from fastgan.train.rundir import Metrics
    from fastgan.train.trainer import Trainer


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


def save(trainer: Trainer, batches: Any, metrics: Metrics | None) -> None:
    """Write a checkpoint of this moment, between two steps."""
    assert trainer.out is not None
    if metrics is not None:
        metrics.sync()
    check_batches(batches)
    optimizer: dict[str, torch.Tensor] = {}
    for player, update in trainer.updates.items():
        optimizer |= checkpoint.optimizer_tensors(update.optimizer, player)
        optimizer |= {f"update.{player}.{name}": value for name, value in update.tensors().items()}
    optimizer |= {f"remedy.state.{name}": value for name, value in trainer.remedies.tensors().items()}
    networks = _networks(trainer)
    parts = {**{part: network.state_dict() for part, network in networks.items()}, "optimizer": optimizer}
    state = {
        "images": trainer.images,
        "seconds": trainer.seconds,
        "skipped": trainer.guard.skipped,
        "back_off": trainer.guard.back_off,
        "restored": trainer.restore.history,
        "iterated": {part: _iterated(network) for part, network in networks.items()},
        "random": {name: rng_state.encode(source) for name, source in random_sources(trainer).items()},
        "global_random": rng_state.encode_global(),
        "batches": _state_of(batches),
    }
    keep, sound = trainer.config.keep_checkpoints, trainer.restore.sound()
    checkpoint.save(trainer.out / "checkpoints", trainer.step, parts, state, keep, sound)


def load(trainer: Trainer, batches: Any, say: Callable[[str], None]) -> None:
    """Continue from the newest checkpoint that verifies; where the run had not come to its first one, begin anew."""
    assert trainer.out is not None
    directory = trainer.out / "checkpoints"
    if not checkpoint.steps_in(directory):
        if trainer.step:
            raise UsageError(f"resume: {trainer.out} has no checkpoint, and this Trainer has trained; make a new one")
        say(f"{trainer.out} has no checkpoint yet: it begins anew at step 0")
        return
    folder, state = checkpoint.newest(directory, say)
    put_back(trainer, folder, state)
    try:
        _load_random(trainer, state, say)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _another_version(folder, error) from error
    trainer.restore.load(state.get("restored", []))
    if state.get("batches") is not None and hasattr(batches, "load_state_dict"):
        batches.load_state_dict(state["batches"])
    elif trainer.step < trainer.config.steps:
        say("the batches cannot be restored: they start anew (give them state_dict and load_state_dict)")
    say(f"resumed {trainer.out} at step {trainer.step}")


def put_back(trainer: Trainer, folder: Path, state: dict[str, Any]) -> None:
    """Networks, average, optimizers and counters as a checkpoint has them; random numbers and batches go on."""
    for part, network in _networks(trainer).items():
        checkpoint.load_network(network, folder, part)
        # Older versions did not keep it: there the norms iterate once more.
        _set_iterated(network, state.get("iterated", {}).get(part, []))
    tensors = checkpoint.load_part(folder, "optimizer")
    for player, update in trainer.updates.items():
        checkpoint.load_optimizer(update.optimizer, tensors, player)
        update.lay_out()
        # An older version may have kept less.
        own = {name: tensors.get(f"update.{player}.{name}", now) for name, now in update.tensors().items()}
        update.load_tensors(own)
    mine = "remedy.state."
    trainer.remedies.load_tensors({n.removeprefix(mine): t for n, t in tensors.items() if n.startswith(mine)})
    try:
        trainer.step, trainer.images, trainer.seconds = state["step"], state["images"], state["seconds"]
    except KeyError as error:
        raise _another_version(folder, error) from error
    trainer.guard.skipped = state.get("skipped", 0)
    trainer.guard.set_back_off(state.get("back_off", 1.0))


def _another_version(folder: Path, error: Exception) -> CheckpointError:
    # Whole, as its checksum says: what is missing or does not fit, another version wrote so.
    return CheckpointError(f"checkpoint {folder}: state.json is of another version: {error!r}")


def _load_random(trainer: Trainer, state: dict[str, Any], say: Callable[[str], None]) -> None:
    for name, source in random_sources(trainer).items():
        if name in state["random"]:
            rng_state.decode(source, state["random"][name])
        elif name.count(":") == 0:
            source.manual_seed(trainer.config.seed + state["step"])
            say(f"the checkpoint is from another device: {name} goes on with fresh random numbers")
    if "global_random" in state:  # not kept by older versions
        rng_state.decode_global(state["global_random"])


def random_sources(trainer: Trainer) -> dict[str, torch.Generator]:
    """Every random generator that a step may draw from: the default ones too, for dropout and the like."""
    device = trainer.device
    sources = {f"latents.{device.type}": trainer.noise.random, "default.cpu": torch.default_generator}
    if device.type == "cuda":
        own = device.index if device.index is not None else torch.cuda.current_device()
        for i, source in enumerate(torch.cuda.default_generators):
            # The run's own has no number, as a run may go on on another device.
            sources["default.cuda" if i == own else f"default.cuda:{i}"] = source
    return sources


def _networks(trainer: Trainer) -> dict[str, nn.Module]:
    return {"generator": trainer.generator, "ema": trainer.ema.module, "discriminator": trainer.discriminator}


def _iterated(network: nn.Module) -> list[str]:
    """The spectral norms with every="step" that have iterated since their optimizer's last step."""
    return [name for name, norm in network.named_modules() if isinstance(norm, SpectralNorm) and norm.slot.fresh]


def _set_iterated(network: nn.Module, names: list[str]) -> None:
    for name, norm in network.named_modules():
        if isinstance(norm, SpectralNorm):
            norm.slot.fresh = name in names


def _state_of(batches: Any) -> Any:
    return batches.state_dict() if hasattr(batches, "state_dict") else None


def folder_of(out: Path | None) -> str:
    """Which checkpoint a run can go on from, for a message, or ""."""
    try:
        return f"; the checkpoint of step {checkpoint.newest(out / 'checkpoints')[1]['step']} is whole" if out else ""
    except CheckpointError:
        return ""
