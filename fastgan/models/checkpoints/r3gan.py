"""State dicts of R3GAN's authors (arXiv:2501.05441)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import DataError
from fastgan.models import r3gan
from fastgan.models.checkpoints.build import built
from fastgan.models.checkpoints.contents import State

#: Of a residual block: the name here, theirs.
_BLOCK = (
    ("conv1.weight", "LinearLayer1.Layer.weight"),
    ("conv2.weight", "LinearLayer2.Layer.weight"),
    ("conv3.weight", "LinearLayer3.Layer.weight"),
    ("bias1", "NonLinearity1.Bias"),
    ("bias2", "NonLinearity2.Bias"),
)
_KERNEL = re.compile(r"MainLayers\.\d+\.Layers\.\d+\.Resampler\.Kernel")


def facts(state: State) -> dict[str, Any]:
    """Resolution, channels, z, width and classes."""
    stages = len({key.split(".")[1] for key in state.tensors if re.match(r"MainLayers\.\d{1,2}\.", key)})
    if not 2 <= stages <= 12:
        raise DataError(f"has {stages} stages: expected 2 to 12 in an R3GAN")
    found: dict[str, Any] = {"resolution": 4 << (stages - 1)}
    embedding, classes = state.shape("EmbeddingLayer.weight", 2) if "EmbeddingLayer.weight" in state.tensors else (0, 0)
    if "ExtractionLayer.Layer.weight" in state.tensors:
        found["channels"] = state.shape("ExtractionLayer.Layer.weight", 4)[1]
        widths = [_width(state, stage, 0) for stage in range(stages)][::-1]
        return {**found, "width": widths[0], "classes": classes, **_shape(state, widths, 0)}
    width, inputs = state.shape("MainLayers.0.Layers.0.LinearLayer.weight", 2)
    found["channels"] = state.shape("AggregationLayer.Layer.weight", 4)[0]
    widths = [_width(state, stage, 1) for stage in range(stages)]
    return {**found, "latent": inputs - embedding, "width": width, "classes": classes, **_shape(state, widths, 1)}


def _width(state: State, stage: int, block: int) -> int:
    """Channels of a stage, from its first block."""
    return state.shape(f"MainLayers.{stage}.Layers.{block}.NonLinearity1.Bias", 1)[0] // r3gan.EXPANSION


def _shape(state: State, widths: list[int], block: int) -> dict[str, Any]:
    """Channels from 4×4 on, and channels of a group; of the networks for ImageNet they do not follow from the width."""
    inner = state.shape(f"MainLayers.0.Layers.{block}.LinearLayer2.Layer.weight", 4)[1]
    group = inner // r3gan.EXPANSION
    if group < 1 or any(width < group or width % group for width in widths):
        raise DataError(f"has groups of {inner} channels in blocks of {widths}: expected divisors")
    return {"widths": widths, "group": group}


def build(state: State) -> nn.Module:
    """The network. Raises DataError for other numbers of blocks or kernels than `fastgan.models.r3gan` has."""
    sizes = facts(state)
    for key, value in state.tensors.items():
        if _KERNEL.fullmatch(key):
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            expected = taps[:, None] * taps / 64
            if value.shape != (4, 4) or not torch.allclose(value.float(), expected, atol=1e-6):
                raise DataError(f"{key} is another filter than (1, 3, 3, 1), the only one supported here")
    kind = r3gan.Generator if "latent" in sizes else r3gan.Discriminator

    def make() -> nn.Module:
        return kind(**sizes)

    with torch.device("meta"):
        names = _names(make())
    given = {key: value for key, value in state.tensors.items() if not _KERNEL.fullmatch(key)}
    back = {theirs: ours for ours, theirs in names.items()}
    # A name that has no counterpart stays and is reported.
    return built(make, {back.get(key, key): value for key, value in given.items()})


def to_r3gan(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of an r3gan `Generator` or `Discriminator` with the names of R3GAN's authors."""
    own = network.state_dict()
    return {theirs: own[ours].clone() for ours, theirs in _names(network).items()} | _kernels(network)


def _names(network: nn.Module) -> dict[str, str]:
    """Name here → theirs. A stage there begins (in the discriminator ends) with the change of size."""
    generator = isinstance(network, r3gan.Generator)
    stages = _stages(network)
    names: dict[str, str] = {}
    for number, (blocks, resize) in enumerate(stages):
        first = 1 if generator else 0
        for i, block in enumerate(blocks):
            for ours, theirs in _BLOCK:
                names[f"stages.{block}.{ours}"] = f"MainLayers.{number}.Layers.{first + i}.{theirs}"
        if resize is not None:
            place = 0 if generator else len(blocks)
            names[f"stages.{resize}.weight"] = f"MainLayers.{number}.Layers.{place}.LinearLayer.Layer.weight"
    if generator:
        names |= {
            "basis": "MainLayers.0.Layers.0.Basis",
            "to_basis.weight": "MainLayers.0.Layers.0.LinearLayer.weight",
            "to_image.weight": "AggregationLayer.Layer.weight",
        }
    else:
        last = f"MainLayers.{len(stages) - 1}.Layers.{len(stages[-1][0])}"
        names |= {
            "from_image.weight": "ExtractionLayer.Layer.weight",
            "basis.weight": f"{last}.Basis.weight",
            "to_logit.weight": f"{last}.LinearLayer.weight",
        }
    if network.embed is not None:
        names["embed.weight"] = "EmbeddingLayer.weight"
    return names


def _stages(network: nn.Module) -> list[tuple[list[int], int | None]]:
    """For each stage there: the places of its blocks in `stages`, and of its 1×1 convolution, if it has one."""
    generator = isinstance(network, r3gan.Generator)
    found: list[tuple[list[int], int | None]] = [([], None)]
    resize = None
    for place, layer in enumerate(network.get_submodule("stages").children()):
        if isinstance(layer, r3gan.Block):
            found[-1][0].append(place)
        elif isinstance(layer, nn.Conv2d):
            if generator:
                resize = place
            else:  # it comes after the downsampling that ended the stage before
                found[-2] = (found[-2][0], place)
        else:
            found.append(([], resize))
            resize = None
    return found


def _kernels(network: nn.Module) -> dict[str, Tensor]:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel, stages = taps[:, None] * taps / 64, _stages(network)
    if isinstance(network, r3gan.Generator):
        return {f"MainLayers.{i}.Layers.0.Resampler.Kernel": kernel.clone() for i in range(1, len(stages))}
    return {
        f"MainLayers.{i}.Layers.{len(stages[i][0])}.Resampler.Kernel": kernel.clone() for i in range(len(stages) - 1)
    }
