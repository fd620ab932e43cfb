"""Weights to start a run from: those of another run, of a checkpoint, or of a safetensors file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan.errors import DataError, UsageError
from fastgan.train import checkpoint

if TYPE_CHECKING:
    from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)


def start_from(state: TrainState, source: str | Path) -> None:
    """Fill the networks of a run that has not begun.

    source: a run directory (its newest whole checkpoint) or RUN/checkpoints/STEP, which fill generator, discriminator
    and averaged generator; or a safetensors file with the state dict of one network, which fills the generator and its
    average, or the discriminator: the one whose names and shapes it has. Optimizers, counters and random numbers stay.
    Raises UsageError where `source` is none of these or holds other networks, naming the first tensor that differs,
    CheckpointError or DataError where it is damaged; nothing is changed then.
    """
    path = Path(source).expanduser()
    networks = state.networks
    if path.is_dir():
        folder = _checkpoint_of(path)
        found = {part: checkpoint.load_part(folder, part) for part in networks}
        about = f"checkpoint {folder}"
    elif path.is_file():
        found = _parts_of_file(path, networks)
        about = f"{' and '.join(found)} from {path}; the other weights are fresh"
    else:
        raise UsageError(f"init_from: expected a run, a checkpoint or a safetensors file, {path} does not exist")
    for part, tensors in found.items():
        if why := _difference(networks[part], tensors):
            raise UsageError(f"init_from: {path} holds another {part}: {why}")
    for part, tensors in found.items():
        networks[part].load_state_dict(tensors)
    _logger.info("starting from the weights of %s", about)


def _checkpoint_of(path: Path) -> Path:
    """The checkpoint that a folder is, or the newest whole one of the run that it is."""
    if (path / "state.json").is_file():
        checkpoint.read_state(path)
        return path
    if not (path / "checkpoints").is_dir():
        raise UsageError(f"init_from: expected a run or a checkpoint, {path} is another folder")
    return checkpoint.newest(path / "checkpoints")[0]


def _parts_of_file(path: Path, networks: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The parts of a run that a file with one network fills."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is no readable safetensors file ({error}); write one with"
            " safetensors.torch.save_file(network.state_dict(), PATH)"
        ) from error
    if not _difference(networks["discriminator"], tensors) and _difference(networks["generator"], tensors):
        return {"discriminator": tensors}
    return {"generator": tensors, "ema": tensors}


def _difference(network: nn.Module, tensors: dict[str, Tensor]) -> str:
    """The first tensor by which a state dict is another network's, in words, or ""."""
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        theirs, mine = (list(d[name].shape) if name in d else "nothing" for d in (tensors, own))
        if theirs != mine:
            return f"{theirs} for {name!r}, this one has {mine}"
    return ""
