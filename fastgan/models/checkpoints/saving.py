"""Saves networks as plain weights with the names of public layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastgan._util.files import overwritable, write_whole
from fastgan.errors import UsageError
from fastgan.models.checkpoints import rosinality, taming
from fastgan.models.checkpoints.contents import State
from fastgan.models.checkpoints.layouts import CYCLEGAN, DISCRIMINATOR, TAMING, layout_of
from fastgan.models.checkpoints.reading import ARGUMENTS, NETWORKS

#: Layout → names of the networks in its PyTorch files, by ours.
_ENTRIES = {
    "rosinality": {"G": "g", "D": "d", "G_ema": "g_ema"},
    "basicsr": {"G": "params", "D": "params", "G_ema": "params_ema"},
}


def save(
    networks: nn.Module | Mapping[str, nn.Module],
    file: str | Path,
    layout: str | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write networks as weights with the names of a public layout; `load` opens the file again.

    networks: a generator, or networks by the names G, D and G_ema (of CycleGAN G_A, G_B, D_A and D_B), such as what
    `load` returns. file: .safetensors, .pth or .pt. layout: "stylegan2" or "stylegan3" (NVIDIA's names; the executable
    pickle in which NVIDIA's code reads them is not written), "rosinality" (StyleGAN2), "r3gan", "biggan-pytorch",
    "basicsr" (super-resolution and its discriminators), "cyclegan-pix2pix", "pix2pixhd" (the networks of
    fastgan.models.translation), "taming" (autoencoders with their discriminator, as the state dict of a Lightning
    file); None means the first of these that fits. overwrite: replace an existing file. Raises
    UsageError for networks or sizes that the layout does not have, and another suffix.
    """
    path = Path(file)
    if path.suffix.lower() not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"file: expected a name that ends in .safetensors, .pth or .pt, got {path}")
    overwritable(path, overwrite, argument="file")
    given = {"": networks} if isinstance(networks, nn.Module) else dict(networks)
    if unknown := [name for name in given if name and name not in NETWORKS]:
        raise UsageError(f"networks: expected the names {', '.join(NETWORKS)}, got {unknown[0]!r}")
    if not given:
        raise UsageError("networks: expected at least one, got none")
    states: dict[str, dict[str, Tensor]] = {}
    arguments: dict[str, Any] = {}
    found = layout or ("stylegan3" if _has_stylegan3(given.values()) else "")
    for name, network in given.items():
        own, states[name], arguments[name] = _converted(network, found or None)
        found = own
    arguments = {name: values for name, values in arguments.items() if values}
    if found == "basicsr" and path.suffix.lower() != ".safetensors":
        _check_entries(states)
    write_whole(path, _content(path.suffix.lower(), states, arguments, found))


def _check_entries(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise UsageError for networks that cannot be in one file of BasicSR."""
    if "D" in states and len(states) > 1:
        raise UsageError(
            f"networks: basicsr has a file of its own for the discriminator, got {', '.join(states)}; save D by itself,"
            " or as .safetensors"
        )


def _has_stylegan3(networks: Iterable[nn.Module]) -> bool:
    """Whether a generator of StyleGAN3 is among the networks, whose discriminator is that of StyleGAN2."""
    return any("synthesis.input.freqs" in network.state_dict() for network in networks)


def _converted(network: nn.Module, layout: str | None) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """The layout, the weights in it, and the constructor's arguments that readers of this file may need."""
    from fastgan.models import r3gan
    from fastgan.models.biggan import networks as biggan
    from fastgan.models.biggan import to_biggan_pytorch
    from fastgan.models.checkpoints.r3gan import to_r3gan
    from fastgan.models.checkpoints.stylegan import arguments_of
    from fastgan.models.translation import PatchDiscriminator, ResNetGenerator

    own = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    known = layout_of(State(own))
    states: dict[str, Callable[[], dict[str, Tensor]]] = {}
    if isinstance(network, r3gan.Generator | r3gan.Discriminator):
        states["r3gan"] = lambda: to_r3gan(network)
    elif isinstance(network, biggan.Generator | biggan.Discriminator):
        states["biggan-pytorch"] = lambda: to_biggan_pytorch(network)
    elif known is not None:  # the names of its weights are those of the layout
        states[known.name] = lambda: own
        if known.name == "stylegan2":
            states["rosinality"] = lambda: rosinality.from_nvidia(own)
            if known.kind == DISCRIMINATOR:  # StyleGAN3 has the same
                states["stylegan3"] = lambda: own
        if known.name == CYCLEGAN and isinstance(network, ResNetGenerator) and network.arguments["bias"]:
            states["pix2pixhd"] = lambda: own  # its global generator with two halvings
        if isinstance(network, PatchDiscriminator) and not network.source_channels:
            states[TAMING] = lambda: own
    if not states:
        raise UsageError(f"networks: a {type(network).__name__} has no public layout")
    name = layout or next(iter(states))
    if name not in states:
        raise UsageError(
            f"layout: expected {' or '.join(states)} for a {type(network).__name__} of this family, got {layout!r}"
        )
    state = {key: value.detach().cpu().contiguous() for key, value in states[name]().items()}
    if name in ("stylegan2", "stylegan3"):
        return name, state, arguments_of(network)
    if name == "basicsr":  # a bicubic downsampling at the end has no weights
        return name, state, {"scale": network.scale} if getattr(network, "reduce", None) is not None else {}
    return name, state, dict(getattr(network, "arguments", {})) if name in (CYCLEGAN, "pix2pixhd", TAMING) else {}


def _is_generator(state: dict[str, Tensor]) -> bool:
    layout = layout_of(State(state))
    return layout is None or layout.kind != DISCRIMINATOR


def _content(suffix: str, states: dict[str, dict[str, Tensor]], arguments: dict[str, Any], layout: str) -> bytes:
    import torch

    averages = [state.pop("latent_avg") for state in states.values() if "latent_avg" in state]
    if suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        tensors = {
            f"{name}.{key}" if name else key: value for name, state in states.items() for key, value in state.items()
        }
        return to_bytes(tensors, {ARGUMENTS: json.dumps(arguments)} if arguments else None)
    entries = _ENTRIES.get(layout, {})
    # A generator by itself is the averaged one.
    lone = "G_ema" if "" not in states or _is_generator(states[""]) else "D"
    content: dict[str, Any] = {entries.get(name or lone, name): state for name, state in states.items()}
    if layout == TAMING:
        content = {"state_dict": taming.whole(states)}
    elif "" in content:
        content = content[""]
    elif averages:
        content["latent_avg"] = averages[-1]
    if arguments and content is not states.get(""):
        content[ARGUMENTS] = arguments
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()
