"""Checkpoints: safetensors files with checksums, written aside and renamed, so that there is never half a one.

checkpoints/00001000/{generator,ema,discriminator,optimizer}.safetensors; state.json, which names the step and the
states of all random generators; SHA256SUMS over them all, as `sha256sum --check` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from fastgan._util.files import amount, free, remove, sync
from fastgan._util.schema import read_json_file, table
from fastgan._util.weight_files import read_safetensors
from fastgan.errors import CheckpointError, DataError
from fastgan.train.run_schema import STATE

_logger = logging.getLogger(__name__)

PARTS = ("generator", "ema", "discriminator", "optimizer")
TENSORS = [f"{part}.safetensors" for part in PARTS]
SUMS = "SHA256SUMS"


def save(
    directory: Path,
    step: int,
    parts: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    keep: int,
    protect: Collection[int] = (),
) -> Path:
    """Write checkpoint `step` below `directory`, then delete all but the newest `keep`. Returns its folder.

    protect: the newest one up to each of these steps stays too.

    At every instant the newest checkpoint of before is whole, or this one is. Raises CheckpointError where it cannot be
    written, with nothing left of it.
    """
    final = directory / f"{step:08d}"
    aside = directory / f".{step:08d}.part"
    clean(directory)
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            sync(directory.parent)
        aside.mkdir()
        for part in PARTS:
            # Cloned: two names may share memory (tied weights), which the format refuses.
            dense = {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in parts[part].items()}
            save_file(dense, aside / f"{part}.safetensors")
        (aside / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        names = [*TENSORS, "state.json"]
        (aside / SUMS).write_text("".join(f"{_sha256(aside / name)}  {name}\n" for name in names))
        for name in (*names, SUMS, "."):
            sync(aside / name)
        if final.exists():
            # Not deleted before the new one has its name: it may be the only one.
            shutil.rmtree(_displaced(final), ignore_errors=True)
            os.replace(final, _displaced(final))
        os.replace(aside, final)
        sync(directory)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(_not_written(directory, step, parts, error)) from error
        raise
    prune(directory, step, keep, protect)
    for displaced in directory.glob(".*.old"):
        _remove(displaced)
    return final


def prune(directory: Path, step: int, keep: int, protect: Collection[int] = ()) -> None:
    """Delete the checkpoints of all steps but those that `save` keeps."""
    # Later steps than this belong to a future that a resumed run has left (their checkpoints were damaged).
    steps = steps_in(directory)
    kept = {s for last in ([s for s in steps if s <= up_to] for up_to in protect) for s in last[-1:]}
    kept |= set([s for s in steps if s <= step][-keep:])
    for old in [s for s in steps if s > step] + [s for s in steps if s <= step and s not in kept]:
        _remove(directory / f"{old:08d}")


def _not_written(directory: Path, step: int, parts: dict[str, dict[str, Tensor]], error: BaseException) -> str:
    needed = sum(t.numel() * t.element_size() for tensors in parts.values() for t in tensors.values())
    kept = steps_in(directory)
    return (
        f"checkpoint {step} could not be written to {directory}: {error}; it takes {amount(needed)} and"
        f" {free(directory)} free there" + (f"; the checkpoint of step {kept[-1]} is whole" if kept else "")
    )


def clean(directory: Path) -> None:
    """Delete what a process that was killed had begun to write, or to delete."""
    for left in directory.glob(".*.part"):
        with contextlib.suppress(OSError):
            remove(left)


def _remove(folder: Path) -> None:
    # Out of sight first: half deleted, it would look like a damaged one.
    gone = folder.with_name(f".{folder.name.strip('.')}.gone.part")
    with contextlib.suppress(FileNotFoundError):  # where all that is left of a step is a displaced one
        os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _displaced(final: Path) -> Path:
    """Where a checkpoint is while another of the same step takes its name."""
    return final.with_name(f".{final.name}.old")


def steps_in(directory: Path) -> list[int]:
    """The steps of which a checkpoint is there, ascending."""
    found = (
        re.fullmatch(r"(\d{8,})|\.(\d{8,})\.old", path.name, re.ASCII) for path in directory.glob("*") if path.is_dir()
    )
    return sorted({int(name[1] or name[2]) for name in found if name})


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint, after all its files were checked against their sums. Raises CheckpointError."""
    name = SUMS
    try:
        if (folder / SUMS).exists():
            sums, names = _read_sums(folder), [*TENSORS, "state.json"]
        else:
            # Before 0.2 the sums stood in state.json, and nothing protected that.
            name = "state.json"
            sums, names = read_json_file(folder / name, table({})).get("sha256"), TENSORS
            if sums is None:
                raise CheckpointError(f"checkpoint {folder}: {SUMS} is missing")
        for name in names:
            if _sha256(folder / name) != sums.get(name):
                raise CheckpointError(f"checkpoint {folder}: {name} is damaged (its checksum differs)")
        name = "state.json"
        return read_json_file(folder / name, STATE)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {folder}: {name} is missing") from None
    except (OSError, ValueError, AttributeError) as error:  # the last where it is JSON, but not ours
        raise CheckpointError(f"checkpoint {folder}: {name} is not readable: {error}") from error


def _read_sums(folder: Path) -> dict[str, str]:
    """{name: sum}; a line that is none raises ValueError."""
    return {name: value for value, name in (line.split("  ") for line in (folder / SUMS).read_text().splitlines())}


def newest(directory: Path, before: int | None = None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that verifies, and its state. Damaged ones are passed over with a warning.

    before: of those of earlier steps than that. Raises CheckpointError where there is none.
    """
    steps = [step for step in steps_in(directory) if before is None or step < before]
    if not steps:
        raise CheckpointError(f"no checkpoint in {directory}" + (f" from before step {before}" if before else ""))
    problems = []
    finals = [directory / f"{step:08d}" for step in reversed(steps)]
    for folder in (f for final in finals for f in (final, _displaced(final)) if f.exists()):
        try:
            return folder, read_state(folder)
        except CheckpointError as error:
            problems.append(str(error))
            _logger.warning("%s; trying the one before", error)
    raise CheckpointError(f"no whole checkpoint in {directory}: {problems[0]}")


def load_part(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part, on the CPU. Raises CheckpointError where they cannot be read."""
    try:
        return read_safetensors(folder / f"{part}.safetensors")
    except (DataError, OSError) as error:
        raise CheckpointError(f"checkpoint {folder}: {part}: {error}") from error


def load_network(network: nn.Module, folder: Path, part: str) -> None:
    """Fill a network. Raises CheckpointError, before anything is changed, when the tensors are another network's."""
    stored, own = load_part(folder, part), network.state_dict()
    for name in sorted(stored.keys() | own.keys()):
        if name not in stored or name not in own or stored[name].shape != own[name].shape:
            theirs, mine = (list(d[name].shape) if name in d else "nothing" for d in (stored, own))
            raise CheckpointError(
                f"checkpoint {folder} is of another network: {part} has {theirs} for {name!r}, this one has {mine}"
            )
        if stored[name].is_floating_point() != own[name].is_floating_point() or stored[name].is_complex():
            raise CheckpointError(
                f"checkpoint {folder} is of another network: {part} has {stored[name].dtype} for {name!r}, this one has"
                f" {own[name].dtype}"
            )
    network.load_state_dict(stored)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: `prefix.index.name`."""
    states = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": value for i, state in states.items() for name, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """The inverse of `optimizer_tensors`; learning rates and the like stay as the optimizer has them.

    Raises ValueError where they are those of other weights.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, index, name = key.split(".", 2)
        if owner == prefix:
            if value.dim() and value.shape != weights[int(index)].shape:
                raise ValueError(f"{key} has shape {list(value.shape)}, its weights {list(weights[int(index)].shape)}")
            states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
