"""What a user names on the command line as a network: a run, a checkpoint, a pretrained network, weights or code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def open_source(source: str) -> tuple[nn.Module, tuple[int, ...] | None, dict[str, Any]]:
    """The network, the shape of its latents where a run gives it, and facts for an exported file.

    source: a run directory (its averaged generator), RUN/checkpoints/STEP, the name of a pretrained network, or what
    `fastgan.export.source.open_network` opens. Raises what opening raises.
    """
    path = Path(source)
    if (run := run_of(path)) is None:
        from fastgan.export.source import open_network
        from fastgan.upscale import pretrained

        file: str | Path = pretrained.fetch(source) if source in pretrained.KNOWN and not path.exists() else source
        return open_network(file, names=pretrained.KNOWN), None, {"source": path.name}
    from fastgan.train.networks import load_generator

    trained = load_generator(run, None if path == run else path)
    facts = trained.facts
    about = {"step": trained.step, "dataset": facts["dataset"]["name"], "model": trained.config.model.family}
    if names := facts["dataset"].get("class_names"):
        about["class_names"] = names
    return trained.generator, trained.latent_shape, about


def run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is a checkpoint of; None where the path is no directory."""
    if not path.is_dir():
        return None
    return path.parent.parent if path.parent.name == "checkpoints" else path
