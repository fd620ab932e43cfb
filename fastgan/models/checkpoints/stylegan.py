"""StyleGAN2 and StyleGAN3 with the public names of their weights: their arguments, where a file has none, by shapes."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import torch
from torch import nn

from fastgan._util.schema import shown
from fastgan.errors import DataError
from fastgan.models.checkpoints.build import built
from fastgan.models.checkpoints.contents import State

#: Arguments that the constructors take by position, in this order.
_GENERATOR = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
_DISCRIMINATOR = ("c_dim", "img_resolution", "img_channels")
#: What `facts` says, by the names of the constructors' arguments.
_FACTS = {"resolution": "img_resolution", "channels": "img_channels", "z": "z_dim", "w": "w_dim", "classes": "c_dim"}
#: Arguments that choose how the official code computes, and change no value in full precision.
_IGNORED = ("fused_modconv_default",)
#: The largest values of arguments, far above those of any public network.
_LIMITS = {"num_layers": 100, "img_resolution": 1 << 13, "filter_size": 100, "lrelu_upsampling": 16, "conv_kernel": 100}
_LIMITS |= {"margin_size": 1 << 10, "num_critical": 100}
_LARGEST = 1 << 24
#: Buffers that follow from the arguments: files converted from other layouts do not have all of them.
_DERIVED = (".resample_filter", ".noise_const")


def facts(state: State) -> dict[str, Any]:
    """Resolution, channels, z, w, classes, and the other arguments of the constructor."""
    given = arguments(state)
    found = {name: given.pop(theirs) for name, theirs in _FACTS.items() if theirs in given}
    return {**found, "arguments": given}


def build(state: State, optional: tuple[str, ...] = ()) -> nn.Module:
    """A Generator, Generator3 or Discriminator of fastgan.models.stylegan. optional: names that may be missing."""
    return built(constructor(state), state.tensors, (*_DERIVED, *optional))


def arguments_of(network: nn.Module) -> dict[str, Any]:
    """The constructor's arguments of a network; of another class with the same weights, as far as those show them."""
    found = getattr(network, "arguments", None)
    return dict(found) if isinstance(found, dict) else arguments(State(network.state_dict()))


def constructor(state: State) -> functools.partial[nn.Module]:
    """What makes the network, without its weights. Raises DataError for arguments that it does not take."""
    from fastgan.models import stylegan

    kind: type[nn.Module] = stylegan.Discriminator if _is_discriminator(state) else stylegan.Generator
    if "synthesis.input.freqs" in state.tensors:
        kind = stylegan.Generator3
    given = {key: value for key, value in arguments(state).items() if key not in _IGNORED}
    _check_limits(given)
    known = inspect.signature(kind.__init__).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        for name in given:
            if name not in known:
                raise DataError(f"has a network with the argument {name}={given[name]!r}, which is not supported here")
    return functools.partial(kind, **given)


def arguments(state: State) -> dict[str, Any]:
    """The constructor's arguments by their official names: from the file, else from names and shapes."""
    if not (state.positional or state.arguments):
        if _is_discriminator(state):
            return {**state.defaults, **_of_discriminator(state)}
        if "synthesis.input.freqs" in state.tensors:
            return _of_generator3(state)
        return {**state.defaults, **_of_generator(state)}
    names = _DISCRIMINATOR if _is_discriminator(state) else _GENERATOR
    found = dict(zip(names, state.positional, strict=False)) | state.arguments
    # stylegan2-ada-pytorch hands these on in a dict, StyleGAN3's repository as arguments.
    inner = found.pop("synthesis_kwargs", {})
    if not isinstance(inner, dict):
        raise DataError("its arguments are damaged: expected a table for synthesis_kwargs")
    return {**state.defaults, **found, **inner}


def _check_limits(given: dict[str, Any]) -> None:
    """Raise DataError for arguments with which a network would take for ever to build, even without its weights."""
    for name, value in given.items():
        limit = _LIMITS.get(name, _LARGEST)
        if isinstance(value, dict):
            _check_limits(value)
        elif isinstance(value, list) and (len(value) > _LIMITS["filter_size"] or any(map(_is_beyond, value))):
            raise DataError(f"has a network with the argument {name} of {len(value)} values: expected a few numbers")
        elif _is_beyond(value, limit):
            raise DataError(f"has a network with the argument {name}={shown(value)}: expected at most {limit:,}")


def _is_beyond(value: Any, limit: int = _LARGEST) -> bool:
    return isinstance(value, int | float) and not -limit <= value <= limit


def _is_discriminator(state: State) -> bool:
    return "b4.out.weight" in state.tensors


def _of_generator(state: State) -> dict[str, Any]:
    sides = _sides(state, r"synthesis\.b(\d{1,5})\.conv1\.weight")
    top = sides[-1]
    sizes = [state.shape(f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides]
    found = _mapping(state, state.shape("synthesis.b4.conv1.affine.weight", 2)[1])
    found |= {"img_resolution": top, "img_channels": state.shape(f"synthesis.b{top}.torgb.weight", 4)[0]}
    found |= _channels(sides, sizes)
    if "synthesis.b8.skip.weight" in state.tensors:
        found["architecture"] = "resnet"
    elif len(sides) > 1 and "synthesis.b4.torgb.weight" not in state.tensors:
        found["architecture"] = "orig"
    return found


def _of_discriminator(state: State) -> dict[str, Any]:
    sides = [4, *_sides(state, r"b(\d{1,5})\.conv0\.weight")]
    top, last = sides[-1], state.shape("b4.conv.weight", 4)
    sizes = [last[0], *(state.shape(f"b{side}.conv0.weight", 4)[0] for side in sides[1:])]
    found: dict[str, Any] = {
        "c_dim": state.shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in state.tensors else 0,
        "img_resolution": top,
        "img_channels": state.shape(f"b{top}.fromrgb.weight", 4)[1],
        **_channels(sides, sizes),
    }
    if f"b{top}.skip.weight" not in state.tensors:
        found["architecture"] = "skip" if "b4.fromrgb.weight" in state.tensors else "orig"
    if found["c_dim"]:
        found["cmap_dim"] = state.shape("b4.out.weight", 2)[0]
    if last[1] != last[0] + 1:
        found["epilogue_kwargs"] = {"mbstd_num_channels": last[1] - last[0]}
    return found


def _of_generator3(state: State) -> dict[str, Any]:
    """Channels follow from base and maximum through the layers' frequencies: bases are tried until all names fit."""
    from fastgan.models.stylegan import Generator3

    names = {key.split(".")[1] for key in state.tensors if re.fullmatch(r"synthesis\.L\d+_\d+_\d+\.weight", key)}
    layers = sorted(tuple(map(int, name[1:].split("_"))) for name in names)
    if not layers or layers[-1][1] > 1 << 13:
        raise DataError("has no layers synthesis.L{index}_{size}_{channels} of a StyleGAN3")
    kernel = state.shape("synthesis.L{}_{}_{}.weight".format(*layers[0]), 4)[-1]
    found = _mapping(state, state.shape("synthesis.input.affine.weight", 2)[1])
    found |= {"img_resolution": layers[-1][1], "img_channels": layers[-1][2], "channel_max": layers[0][2]}
    if kernel == 1:  # configuration R
        found |= {"conv_kernel": 1, "use_radial_filters": True}
    for base in (1 << power for power in range(5, 21)):
        with torch.device("meta"):
            network = Generator3(**found, channel_base=base)
        if {key.split(".")[1] for key in network.state_dict() if ".L" in key} == names:
            return {**found, "channel_base": base}
    raise DataError("has layers of a StyleGAN3 with other arguments than their defaults; load the .pkl, which has them")


def _mapping(state: State, w_dim: int) -> dict[str, Any]:
    embedded, classes = state.shape("mapping.embed.weight", 2) if "mapping.embed.weight" in state.tensors else (0, 0)
    layers = len([key for key in state.tensors if re.fullmatch(r"mapping\.fc\d+\.weight", key)])
    found: dict[str, Any] = {
        "z_dim": state.shape("mapping.fc0.weight", 2)[1] - embedded,
        "c_dim": classes,
        "w_dim": w_dim,
    }
    return {**found, "mapping_kwargs": {"num_layers": layers}}


def _sides(state: State, pattern: str) -> list[int]:
    found = sorted(int(match[1]) for key in state.tensors if (match := re.fullmatch(pattern, key)))
    if not found or found[-1] > 1 << 13 or any(side & (side - 1) for side in found):
        raise DataError(f"expected blocks b4, b8, ... of a StyleGAN2, got {', '.join(f'b{n}' for n in found[:8])}")
    return found


def _channels(sides: list[int], sizes: list[int]) -> dict[str, int]:
    """channel_base and channel_max, of which the channels at a side are min(base // side, max)."""
    most = max(sizes)
    base = next((size * side for side, size in zip(sides, sizes, strict=True) if size < most), most * sides[-1])
    return {"channel_base": base, "channel_max": most}
