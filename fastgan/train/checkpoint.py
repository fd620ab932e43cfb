"""Checkpoints: safetensors files with checksums, written aside and renamed, so that there is never half a one.

checkpoints/00001000/{generator,ema,discriminator,optimizer}.safetensors and state.json, which names the step, the
states of all random generators, and the sha256 of each file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastgan.errors import CheckpointError

PARTS = ("generator", "ema", "discriminator", "optimizer")


def save(directory: Path, step: int, parts: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int) -> Path:
    """Write checkpoint `step` below `directory`, then delete all but the newest `keep`. Returns its folder."""
    final = directory / f"{step:08d}"
    aside = directory / f".{step:08d}.part"
    for left in directory.glob(".*.part"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        checksums = {}
        for part in PARTS:
            path = aside / f"{part}.safetensors"
            # Cloned: two names may share memory (tied weights), which the format refuses.
            dense = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in parts[part].items()}
            save_file(dense, path)
            checksums[path.name] = _sha256(path)
            _sync(path)
        (aside / "state.json").write_text(json.dumps({"step": step, **state, "sha256": checksums}, indent=1))
        _sync(aside / "state.json")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        _sync(directory)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(f"checkpoint {step} could not be written to {directory}: {error}") from error
        raise
    # Later steps than this belong to a future that a resumed run has left (their checkpoints were damaged).
    steps = steps_in(directory)
    for old in [s for s in steps if s > step] + [s for s in steps if s <= step][:-keep]:
        shutil.rmtree(directory / f"{old:08d}")
    return final


def steps_in(directory: Path) -> list[int]:
    """The steps of which a checkpoint is there, ascending."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint, after all its files were checked against their sums. Raises CheckpointError."""
    try:
        state = json.loads((folder / "state.json").read_text())
        for name, expected in state["sha256"].items():
            if _sha256(folder / name) != expected:
                raise CheckpointError(f"checkpoint {folder}: {name} is damaged (its checksum differs)")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {folder} is not readable: {error}") from error
    return state


def newest(directory: Path, warn: Any = None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that verifies, and its state. Damaged ones are passed over, told to `warn(sentence)`."""
    if not steps_in(directory):
        raise CheckpointError(f"no checkpoint in {directory}")
    problems = []
    for step in reversed(steps_in(directory)):
        folder = directory / f"{step:08d}"
        try:
            return folder, read_state(folder)
        except CheckpointError as error:
            problems.append(str(error))
            if warn is not None:
                warn(f"{error}; trying the one before")
    raise CheckpointError(f"no whole checkpoint in {directory}: {problems[0]}")


def load_part(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part, on the CPU."""
    return load_file(folder / f"{part}.safetensors")


def load_network(network: nn.Module, folder: Path, part: str) -> None:
    """Fill a network. Raises CheckpointError, before anything is changed, when the tensors are another network's."""
    stored, own = load_part(folder, part), network.state_dict()
    for name in sorted(stored.keys() | own.keys()):
        if name not in stored or name not in own or stored[name].shape != own[name].shape:
            theirs, mine = (list(d[name].shape) if name in d else "nothing" for d in (stored, own))
            raise CheckpointError(
                f"checkpoint {folder} is of another network: {part} has {theirs} for {name!r}, this one has {mine}"
            )
    network.load_state_dict(stored)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: `prefix.index.name`."""
    states = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": value for i, state in states.items() for name, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """The inverse of `optimizer_tensors`; learning rates and the like stay as the optimiser has them."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, index, name = key.split(".")
        if owner == prefix:
            states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def encode_random(random: torch.Generator) -> str:
    """The state of a random generator as text."""
    return base64.b64encode(random.get_state().numpy().tobytes()).decode()


def decode_random(random: torch.Generator, text: str) -> None:
    """Put a random generator into a state that `encode_random` gave."""
    random.set_state(torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
