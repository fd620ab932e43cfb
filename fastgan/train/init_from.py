"""Weights to start a run from: those of another run, of a checkpoint, or of a safetensors file."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan import models
from fastgan._util.options import option
from fastgan.errors import DataError, FastganError, UsageError
from fastgan.train import checkpoint
from fastgan.train.public_networks import load_folder, parts_of

if TYPE_CHECKING:
    from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)


def start_from(state: TrainState, source: str | Path) -> None:
    """Fill the networks of a run that has not begun.

    source: a run directory (its newest whole checkpoint) or RUN/checkpoints/STEP, which fill generator, discriminator
    and averaged generator; or a safetensors file with the state dict of one network, which fills the generator and its
    average, or the discriminator: the one whose names and shapes it has; or another file that `fastgan.models.load`
    opens, such as NVIDIA's .pkl; or a folder of CycleGAN, pix2pix or CUT, with a file for each network
    (latest_net_G_A.pth, 200_net_D.pth). Of several generators a file with one fills "a_to_b". Optimizers, counters and
    random numbers stay. StyleGAN's networks, whose layers are named after their resolutions, take over every tensor of
    the same name and shape from networks of another resolution or other labels, if these are at least half of the
    parameters; which ones they take and which stay fresh is logged. Of
    autoencoders whose encoder is frozen the weights before the latents are taken over alone.
    Raises UsageError where `source` is none of these or holds other networks, naming the first tensor that differs,
    CheckpointError or DataError where it is damaged; nothing is changed then.
    """
    path = Path(source).expanduser()
    networks = state.networks
    if path.is_dir() and (public := load_folder(path)):
        found = parts_of(public, networks)
        about = f"{', '.join(public)} in {path}; the other weights are fresh"
    elif path.is_dir():
        folder = _checkpoint_of(path)
        found = {part: checkpoint.load_part(folder, part) for part in networks}
        about = f"checkpoint {folder}"
    elif path.is_file():
        plain = path.suffix == ".safetensors"
        found = _parts_of_file(path, networks) if plain else _parts_of_public_file(path, networks)
        about = f"{' and '.join(found)} from {path}; the other weights are fresh"
    else:
        raise UsageError(f"init_from: expected a run, a checkpoint or a safetensors file, {path} does not exist")
    if only := getattr(networks["generator"], "init_from", ()):
        # Averaged ones, which latents are made with. The rest, and the discriminator, begin anew.
        averaged = _beginning(found.get("ema") or found.get("generator") or {}, only)
        found = {"generator": averaged, "ema": averaged}
        about += f", of which {' and '.join(name.rstrip('.') for name in only)} are taken"
    for part, tensors in found.items():
        if why := _misfit(networks[part], tensors, only):
            raise UsageError(f"init_from: {path} holds another {part}: {why}{_other_sizes(networks[part], path)}")
    for part, tensors in found.items():
        own = networks[part].state_dict()
        taken = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
        networks[part].load_state_dict({**own, **taken})
        if len(taken) < len(own) or len(taken) < len(tensors):
            _logger.info("%s: %s", part, _taken_over(networks[part], own, tensors, taken))
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
    generator, discriminator = networks["generator"], networks["discriminator"]
    if _misfit(generator, tensors):
        if not _misfit(discriminator, tensors):
            return {"discriminator": tensors}
        with suppress(FastganError):  # several networks, or names of another program
            return _parts_of_public_file(path, networks)
    return {"generator": tensors, "ema": tensors}


def _parts_of_public_file(path: Path, own: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The parts of a run that a file of another program fills. own: the run's networks."""
    networks = models.load(path)
    if isinstance(own["generator"], nn.ModuleDict):
        return parts_of(networks, own)
    # A file of a discriminator alone, such as latest_net_D.pth or net_d_latest.pth, has none.
    generator = networks.generator if any(name.startswith("G") for name in networks) else None
    found = {"generator": networks.get("G") or generator, "ema": generator, "discriminator": networks.get("D")}
    return {part: network.state_dict() for part, network in found.items() if network is not None}


def _beginning(tensors: Mapping[str, Tensor], only: tuple[str, ...]) -> dict[str, Tensor]:
    """Those whose names begin so."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(only)}


def _misfit(network: nn.Module, tensors: dict[str, Tensor], only: tuple[str, ...] = ()) -> str:
    """Why a network cannot take over the tensors, or "". only: the beginnings of the names of those that it must.

    All of them have to be there in its shapes. StyleGAN's networks are excepted: their blocks b4, b8, ... may be more
    or fewer, and labels change mapping network and logits. Of the blocks that both have, and of the mapping network if
    both have one, at least half of the parameters must fit, by their number and by their size.
    """
    why, own = _difference(network, tensors, only), network.state_dict()
    if only:
        return why
    if not why:
        return ""
    parts = {name: match[0] for name in own if (match := re.match(r"mapping\.|(.*\.)?b\d+\.", name))}
    rest = [name for name in own if name not in parts]
    common = {parts[name] for name in tensors if name in parts}
    if not common or any(name not in tensors or tensors[name].shape != own[name].shape for name in rest):
        return why
    weights = {n: w for n, w in network.named_parameters() if n in rest or parts[n] in common}
    taken = [w for n, w in weights.items() if n in tensors and tensors[n].shape == w.shape]
    fitting, every = (sum(weight.numel() for weight in some) for some in (taken, weights.values()))
    if 2 * len(taken) >= len(weights) and 2 * fitting >= every:
        return ""
    return (
        f"only {len(taken)} of {len(weights)} tensors of its layers have the same name and shape, {fitting:,} of"
        f" {every:,} parameters ({why})"
    )


def _other_sizes(network: nn.Module, path: Path) -> str:
    """By which of its constructor's arguments a file has another network, and the flags that build that one; or ""."""
    own: dict[str, Any] = getattr(network, "arguments", {})
    try:
        found = list(models.describe(path)["networks"].values()) if own and path.is_file() else []
    except FastganError:
        return ""
    kinds = [about["network"] for about in found if "network" in about]
    if kinds and type(network).__name__ not in kinds:
        return f"; it has a {kinds[0]}, this run a {type(network).__name__}"
    for about in found:
        flags = {name: about[name] for name in own if about.get(name, own[name]) != own[name]}
        if flags and about["network"] == type(network).__name__:
            plain = ("width", "channels")  # those of all families
            given = ", ".join(
                option(name if name in plain else f"model.{name}", value) for name, value in flags.items()
            )
            return f"; its network is built with {given}"
    return ""


def _taken_over(
    network: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], taken: Mapping[str, Tensor]
) -> str:
    """What of a network is taken over from given tensors, in words: by layers, and single tensors of mixed ones."""
    fresh, unused = [n for n in own if n not in taken], [n for n in given if n not in taken]
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    share = sum(size for name, size in sizes.items() if name in taken) / sum(sizes.values())
    parts = [f"{len(taken)} of {len(own)} tensors taken over, {share:.0%} of the parameters"]
    if fresh:
        parts.append(f"fresh: {_grouped(fresh, own)}")
    if unused:
        parts.append(f"not used: {_grouped(unused, given)}")
    return "; ".join(parts)


def _grouped(names: list[str], every: Mapping[str, Tensor]) -> str:
    """Names, of which those of a whole block such as synthesis.b128 are one."""
    found: dict[str, None] = {}
    for name in names:
        block = re.match(r"(.*?\bb\d+)\.", name)
        whole = block is not None and all(n in names for n in every if n.startswith(f"{block[1]}."))
        found[block[1] if block is not None and whole else name] = None
    return ", ".join(found)


def _difference(network: nn.Module, tensors: dict[str, Tensor], only: tuple[str, ...] = ()) -> str:
    """The first tensor by which a state dict is another network's, in words, or ""."""
    own: Mapping[str, Tensor] = network.state_dict()
    own = _beginning(own, only) if only else own
    for name in sorted(own.keys() | tensors.keys()):
        theirs, mine = (list(d[name].shape) if name in d else "nothing" for d in (tensors, own))
        if theirs != mine:
            return f"{theirs} for {name!r}, this one has {mine}"
    return ""
