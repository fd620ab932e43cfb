"""What a user names on the command line as a network: a run, a checkpoint, a pretrained network, weights or code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from fastgan.upscale.upscaler import Weights


def open_source(source: str, network: str | None = None) -> tuple[nn.Module, tuple[int, ...] | None, dict[str, Any]]:
    """The network, the shape of its latents where a run gives it, and facts for an exported file.

    source: a run directory (its averaged generator), RUN/checkpoints/STEP, either with :NAME behind it for one of
    several generators or a part of one (RUN:a_to_b, RUN:decoder), the name of a pretrained network, or what
    `fastgan.export.source.open_network` opens. network: the code of the generator of a run of the user's own networks,
    file.py:name. Raises what opening raises.
    """
    path, child = split_child(source)
    if (run := run_of(path)) is None:
        no_code(network, source)
        from fastgan.export.source import open_network
        from fastgan.upscale import pretrained

        known = source in pretrained.KNOWN and not Path(source).exists()
        file: str | Path = pretrained.fetch(source) if known else source
        return open_network(file, names=pretrained.KNOWN), None, {"source": path.name}
    from fastgan.train.networks import load_generator

    trained = load_generator(run, None if path == run else path, code(network), child)
    about: dict[str, Any] = {"step": trained.step}
    if network is None:
        dataset = trained.facts.get("dataset")
        # Of a run whose batches came from a user's own loader, or whose config.json was changed, there is no name.
        about |= {"dataset": dataset.get("name", "") if isinstance(dataset, dict) else ""}
        about |= {"model": trained.config.model.family}
    if trained.class_names:
        about["class_names"] = list(trained.class_names)
    return trained.generator, trained.latent_shape or None, about


def split_child(source: str) -> tuple[Path, str]:
    """The path and NAME of RUN:NAME, one of several networks of a run; "" and the whole path for anything else."""
    path, colon, name = source.rpartition(":")
    if colon and name.isidentifier() and Path(path).is_dir() and not Path(source).exists():
        return Path(path), name
    return Path(source), ""


def model_of(source: str) -> str | Weights:
    """The model of a run of a task that makes images from images; any other source as it is."""
    path, child = split_child(source)
    if (run := run_of(path)) is None:
        return source
    from fastgan.train import checkpoint
    from fastgan.upscale.upscaler import Weights

    folder = checkpoint.newest(run / "checkpoints")[0] if path == run else path
    name = "-".join(part for part in (run.name, folder.name, child) if part)
    return Weights((run / "config.json", folder / "ema.safetensors"), name, lambda: open_source(source)[0])


def run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is a checkpoint of; None where the path is no directory."""
    if not path.is_dir():
        return None
    return path.parent.parent if path.parent.name == "checkpoints" else path


def code(network: str | None) -> nn.Module | None:
    """The module that --network names, file.py:name or package.module:name. Raises UsageError for anything else."""
    if network is None:
        return None
    from fastgan.export.source import open_network

    if ":" not in network:
        raise UsageError(f"network: expected file.py:name or package.module:name, got {network!r}")
    return open_network(network)


def no_code(network: str | None, source: str) -> None:
    """Raise UsageError for --network beside anything but a run."""
    if network is not None:
        raise UsageError(f"network: it is the code of a run's generator, and {source} is no run; leave it out")
