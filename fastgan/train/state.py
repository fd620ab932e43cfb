"""Everything that a run is at a step, into a checkpoint and back.

Networks, average, both optimisers, loss scales, random generators, the position in the data, counters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastgan.train import checkpoint

if TYPE_CHECKING:
    from fastgan.train.loop import Trainer


def save(trainer: Trainer, batches: Any) -> None:
    """Write a checkpoint of this moment, between two steps."""
    assert trainer.out is not None
    optimizer: dict[str, torch.Tensor] = {}
    for player, update in trainer.updates.items():
        optimizer |= checkpoint.optimizer_tensors(update.optimizer, player)
        optimizer |= {f"update.{player}.{name}": value for name, value in update.tensors().items()}
    parts = {
        "generator": trainer.generator.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
        "optimizer": optimizer,
    }
    state = {
        "images": trainer.images,
        "seconds": trainer.seconds,
        "skipped": trainer.skipped,
        "back_off": trainer.back_off,
        "random": {name: checkpoint.encode_random(r) for name, r in random_sources(trainer).items()},
        "batches": batches.state_dict() if hasattr(batches, "state_dict") else None,
    }
    checkpoint.save(trainer.out / "checkpoints", trainer.step, parts, state, trainer.config.keep_checkpoints)


def load(trainer: Trainer, batches: Any, say: Callable[[str], None]) -> None:
    """Continue from the newest checkpoint that verifies."""
    assert trainer.out is not None
    folder, state = checkpoint.newest(trainer.out / "checkpoints", say)
    networks = {"generator": trainer.generator, "ema": trainer.ema.module, "discriminator": trainer.discriminator}
    for part, network in networks.items():
        checkpoint.load_network(network, folder, part)
    tensors = checkpoint.load_part(folder, "optimizer")
    for player, update in trainer.updates.items():
        checkpoint.load_optimizer(update.optimizer, tensors, player)
        own = {name: tensors[f"update.{player}.{name}"] for name in update.tensors()}
        update.load_tensors(own)
    for name, source in random_sources(trainer).items():
        if name in state["random"]:
            checkpoint.decode_random(source, state["random"][name])
        else:
            source.manual_seed(trainer.config.seed + state["step"])
            say(f"the checkpoint is from another device: {name} goes on with fresh random numbers")
    trainer.step, trainer.images, trainer.seconds = state["step"], state["images"], state["seconds"]
    trainer.skipped = state["skipped"]
    trainer.set_back_off(state["back_off"])
    if state["batches"] is not None and hasattr(batches, "load_state_dict"):
        batches.load_state_dict(state["batches"])
    elif trainer.step < trainer.config.steps:
        say("the batches cannot be restored: they start anew (give them state_dict and load_state_dict)")
    say(f"resumed {trainer.out} at step {trainer.step}")


def random_sources(trainer: Trainer) -> dict[str, torch.Generator]:
    """Every random generator that a step may draw from: the default ones too, for dropout and the like."""
    device = trainer.device
    sources = {f"latents.{device.type}": trainer.noise.random, "default.cpu": torch.default_generator}
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        sources["default.cuda"] = torch.cuda.default_generators[index]
    return sources


def folder_of(out: Path | None) -> str:
    """Where the newest checkpoint lies, for a message, or ""."""
    kept = checkpoint.steps_in(out / "checkpoints") if out is not None else []
    return f"; the checkpoint of step {kept[-1]} is whole" if kept else ""
