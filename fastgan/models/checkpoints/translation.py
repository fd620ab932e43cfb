"""Weights of pix2pix, CycleGAN and pix2pixHD: their sizes and options follow from names and shapes."""

from __future__ import annotations

import functools
import re
from typing import Any

from torch import Tensor, nn

from fastgan.errors import DataError
from fastgan.models import translation
from fastgan.models.checkpoints.build import built
from fastgan.models.checkpoints.contents import State

#: Files of PyTorch before 0.4.1 do not have it.
_OPTIONAL = ("num_batches_tracked",)
#: Running statistics of instance norms, which files of PyTorch before 0.4 have and no network uses.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Channels of the images that a discriminator sees beside their sources, where the file does not say.
_COLORS = 3
#: Levels, halvings, scales and layers of a discriminator; far above those of any public network.
_MOST = 16


def facts(state: State) -> dict[str, Any]:
    """The network's class and its arguments."""
    make = _constructor(_named(state))
    return {"network": getattr(make.func, "__name__", ""), **make.keywords}


def build(state: State) -> nn.Module:
    """The network. Raises DataError for other weights than it has."""
    state = _named(state)
    return built(_constructor(state), _without_statistics(state.tensors), _OPTIONAL)


def _constructor(state: State) -> functools.partial[nn.Module]:
    kind, sizes = _sizes(state)
    return functools.partial(kind, **{**sizes, **_hidden(sizes, state.arguments)})


def _hidden(sizes: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What names and shapes do not show, where the file has the arguments that `fastgan.models.save` writes."""
    found: dict[str, Any] = {name: given[name] for name in ("dropout", "padding") if name in sizes and name in given}
    if sizes["norm"] == "instance" and given.get("norm") == "none":
        found["norm"] = "none"
    split = [given.get(name) for name in ("channels", "source_channels")]
    whole = "source_channels" in sizes and all(isinstance(value, int) for value in split)
    if whole and sum(split) == sizes["channels"] + sizes["source_channels"]:  # type: ignore[arg-type]
        found |= {"channels": split[0], "source_channels": split[1]}
    return found


def _sizes(state: State) -> tuple[type[nn.Module], dict[str, Any]]:
    names = state.tensors
    if "model.model.0.weight" in names:
        return translation.UNetGenerator, _unet(state)
    if any(".conv_block." in name for name in names):
        return translation.ResNetGenerator, _resnet(state)
    if "net.0.weight" in names:
        return translation.PixelDiscriminator, _pixel(state)
    if "scale0_layer0.0.weight" in names:
        return translation.MultiScaleDiscriminator, _multi_scale(state)
    return translation.PatchDiscriminator, _patch(state)


def _unet(state: State) -> dict[str, Any]:
    width, channels = state.shape("model.model.0.weight", 4)[:2]
    norm = _norm(state, "model.model.0", "model.model.1.model.2")
    return {
        "channels": channels,
        "out_channels": state.shape("model.model.3.weight", 4)[1],
        # The name of the innermost level's weight: model.model.1.model.3.model...
        "levels": _few(max(name.count("model.") for name in state.tensors) - 1, "levels"),
        "width": width,
        "norm": norm,
        "dropout": norm == "batch",  # it has no weights; pix2pix has it, networks with instance norm mostly not
    }


def _resnet(state: State) -> dict[str, Any]:
    width, channels = state.shape("model.1.weight", 4)[:2]
    found = [re.fullmatch(r"model\.(\d{1,4})\.conv_block\.(\d)\.weight", name) for name in state.tensors]
    places = {(int(match[1]), int(match[2])) for match in found if match and len(state.tensors[match[0]].shape) == 4}
    blocks = sorted({block for block, _ in places})
    if not blocks or (first := blocks[0]) < 7 or (first - 4) % 3:
        expected = "expected convolutions in conv_block from model.10 on (7, 13 or 16 in pix2pixHD)"
        raise DataError(f"has residual blocks {blocks[:8]}: {expected}, and no layers for antialiasing")
    downsamplings = _few((first - 4) // 3, "halvings")
    convolutions = sorted(place for block, place in places if block == first)
    padding = "zeros" if convolutions[0] == 0 else "reflect"
    last = f"model.{first + len(blocks) + 3 * downsamplings + 1}.weight"
    return {
        "channels": channels,
        "out_channels": state.shape(last, 4)[0],
        "blocks": len(blocks),
        "width": width,
        "norm": _norm(state, "model.1", "model.2"),
        "dropout": convolutions[-1] - convolutions[0] == (4 if padding == "zeros" else 5),
        "padding": padding,
        "downsamplings": downsamplings,
        "bias": "model.1.bias" in state.tensors,
    }


def _patch(state: State) -> dict[str, Any]:
    width, inputs = state.shape("model.0.weight", 4)[:2]
    convolutions = _few(sum(value.dim() == 4 for value in state.tensors.values()), "convolutions")
    return {**_inputs(inputs), "layers": convolutions - 2, "width": width, "norm": _norm(state, "model.2", "model.3")}


def _pixel(state: State) -> dict[str, Any]:
    width, inputs = state.shape("net.0.weight", 4)[:2]
    return {**_inputs(inputs), "width": width, "norm": _norm(state, "net.2", "net.3")}


def _multi_scale(state: State) -> dict[str, Any]:
    width, inputs = state.shape("scale0_layer0.0.weight", 4)[:2]
    found = [re.match(r"scale(\d{1,2})_layer(\d{1,2})\.", name) for name in state.tensors]
    scales, layers = (
        _few(len({match[i] for match in found if match}), what) for i, what in ((1, "scales"), (2, "layers"))
    )
    # All convolutions have a bias, so that a network without norms is that with instance norm.
    norm = "batch" if "scale0_layer1.1.weight" in state.tensors else "instance"
    return {**_inputs(inputs), "scales": scales, "layers": layers - 2, "width": width, "norm": norm}


def _few(number: int, what: str) -> int:
    if number > _MOST:
        raise DataError(f"has {number} {what}: expected at most {_MOST}")
    return number


def _inputs(inputs: int) -> dict[str, int]:
    """Channels of images and of their sources, of which only the sum is known."""
    if inputs in (1, _COLORS):
        return {"channels": inputs, "source_channels": 0}
    channels = _COLORS if inputs > _COLORS else 1
    return {"channels": channels, "source_channels": inputs - channels}


def _norm(state: State, convolution: str, norm: str) -> str:
    """From the layer after a convolution, and the bias that convolutions before an instance norm have."""
    if f"{norm}.weight" in state.tensors:
        return "batch"
    return "instance" if f"{convolution}.bias" in state.tensors else "none"


def _without_statistics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    def of_instance_norm(name: str) -> bool:
        layer, _, last = name.rpartition(".")
        return last in _STATISTICS and f"{layer}.weight" not in tensors

    return {name: value for name, value in tensors.items() if not of_instance_norm(name)}


def _named(state: State) -> State:
    """pix2pixHD's discriminator without access to its features: layer0.5.weight is scale0_layer2.0.weight there."""
    if "layer0.0.weight" not in state.tensors:
        return state
    tensors = {}
    for name, value in state.tensors.items():
        if match := re.fullmatch(r"layer(\d{1,2})\.(\d{1,2})\.(\w+)", name):
            place = int(match[2])
            layer, inner = (0, place) if place < 2 else ((place - 2) // 3 + 1, (place - 2) % 3)
            name = f"scale{match[1]}_layer{layer}.{inner}.{match[3]}"
        tensors[name] = value
    return State(tensors, state.class_name, state.positional, state.arguments, state.defaults)
