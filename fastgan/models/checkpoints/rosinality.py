"""StyleGAN2 in the layout of rosinality's implementation: other names and shapes for the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import DataError, UsageError
from fastgan.models.checkpoints import stylegan
from fastgan.models.checkpoints.contents import State

#: Latents of which the average of w is taken where a file has none.
_AVERAGED = 10_000
#: Filters of files, which follow from the architecture: (1, 3, 3, 1) in both directions, sum 1 or 4.
_FILTER = re.compile(r".*\.kernel")
_TAPS = (1.0, 3.0, 3.0, 1.0)
#: Of a modulated convolution with its noise and bias: ending there, ending of NVIDIA's name.
_LAYER = (
    ("conv.weight", "weight"),
    ("conv.modulation.weight", "affine.weight"),
    ("conv.modulation.bias", "affine.bias"),
    ("noise.weight", "noise_strength"),
    ("activate.bias", "bias"),
)
_TO_RGB = (*_LAYER[:3], ("bias", "bias"))


def facts(state: State) -> dict[str, Any]:
    """Those of the same network in NVIDIA's layout."""
    return stylegan.facts(to_nvidia(state))


def build(state: State) -> nn.Module:
    """A Generator or Discriminator of fastgan.models.stylegan.

    The average of w, `latent_avg` in most files, is computed from 10,000 fixed latents where it is missing.
    """
    converted = to_nvidia(state)
    network: Any = stylegan.build(converted, optional=("mapping.w_avg",))
    if "style.1.weight" in state.tensors and "mapping.w_avg" not in converted.tensors:
        with torch.no_grad():
            z = torch.randn(_AVERAGED, network.latent, generator=torch.Generator().manual_seed(0))
            network.mapping.w_avg.copy_(network.mapping(z)[:, 0].mean(0))
    return network


def to_nvidia(state: State) -> State:
    """The same weights under NVIDIA's names. Raises DataError for names that have no counterpart."""
    _check_filters(state.tensors)
    names = _names(state.tensors)
    given = {key: value for key, value in state.tensors.items() if not _FILTER.fullmatch(key)}
    for key in given:
        if key not in names:
            raise DataError(f"{key} is not one of rosinality's names for a StyleGAN2 of these sizes")
    tensors = {names[key]: _reshaped(names[key], value) for key, value in given.items()}
    return State(tensors, defaults={"conv_clamp": None})


def from_nvidia(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of rosinality's network; `latent_avg` is beside it in its files, and here under that name.

    Raises UsageError for a StyleGAN2 of another architecture than the default one, or a conditional one.
    """
    found: dict[str, Tensor] = {}
    tops = [int(match[1]) for key in tensors if (match := re.fullmatch(r"(?:synthesis\.)?b(\d+)\..*", key))]
    back = {ours: theirs for theirs, ours in _table(max(tops, default=4), "synthesis.b4.const" in tensors, 64).items()}
    for key, value in tensors.items():
        if key.endswith(".resample_filter"):
            continue
        if key not in back:
            raise UsageError(f"layout: rosinality's has no counterpart of {key}")
        theirs = back[key]
        if (theirs.endswith(".conv.weight") and "affine" not in key) or theirs == "input.input":
            value = value[None]
        elif theirs.startswith("noises."):
            value = value[None, None]
        elif theirs.endswith(".noise.weight"):
            value = value.reshape(1)
        elif re.fullmatch(r"to_rgb.*\d\.bias", theirs):
            value = value.reshape(1, -1, 1, 1)
        found[theirs] = value.clone()
    taps = torch.tensor(_TAPS)
    kernel = taps[:, None] * taps / taps.sum() ** 2
    for key in list(found):
        if match := re.fullmatch(r"convs\.(\d+)\.conv\.weight", key):
            if int(match[1]) % 2 == 0:
                found[f"convs.{match[1]}.conv.blur.kernel"] = 4 * kernel
        elif match := re.fullmatch(r"(to_rgbs\.\d+)\.conv\.weight", key):
            found[f"{match[1]}.upsample.kernel"] = 4 * kernel
        elif match := re.fullmatch(r"(convs\.\d+\.(conv2|skip))\.1\.weight", key):
            found[f"{match[1]}.0.kernel"] = kernel
    return found


def _names(state: Mapping[str, Tensor]) -> dict[str, str]:
    generator = "conv1.conv.weight" in state
    pattern = r"to_rgbs\.(\d{1,2})\.bias" if generator else r"convs\.(\d{1,2})\.conv1\.0\.weight"
    count = len([key for key in state if re.fullmatch(pattern, key)])
    styles = len([key for key in state if re.fullmatch(r"style\.\d+\.weight", key)])
    if not 1 <= count <= 11 or styles > 64:
        raise DataError(f"has {count} levels above 4×4: expected 1 to 11 in a StyleGAN2")
    return _table(4 << count, generator, styles)


def _table(top: int, generator: bool, styles: int) -> dict[str, str]:
    """Their name → NVIDIA's, of a network of this resolution."""
    sides = [4 << i for i in range(1, (top // 4).bit_length())]
    found: dict[str, str] = {}

    def add(theirs: str, ours: str, parts: tuple[tuple[str, str], ...]) -> None:
        found.update({f"{theirs}.{one}": f"{ours}.{other}" for one, other in parts})

    if generator:
        found |= {"input.input": "synthesis.b4.const", "latent_avg": "mapping.w_avg"}
        for i in range(styles):
            add(f"style.{i + 1}", f"mapping.fc{i}", (("weight", "weight"), ("bias", "bias")))
        layers = [("conv1", "synthesis.b4.conv1")]
        for i, side in enumerate(sides):
            layers += [(f"convs.{2 * i + j}", f"synthesis.b{side}.conv{j}") for j in (0, 1)]
        for i, (theirs, ours) in enumerate(layers):
            add(theirs, ours, _LAYER)
            found[f"noises.noise_{i}"] = f"{ours}.noise_const"
        add("to_rgb1", "synthesis.b4.torgb", _TO_RGB)
        for i, side in enumerate(sides):
            add(f"to_rgbs.{i}", f"synthesis.b{side}.torgb", _TO_RGB)
        return found
    add("convs.0", f"b{top}.fromrgb", (("0.weight", "weight"), ("1.bias", "bias")))
    for i, side in enumerate(sides[::-1], 1):
        block = (("conv1.0.weight", "conv0.weight"), ("conv1.1.bias", "conv0.bias"), ("conv2.1.weight", "conv1.weight"),
                 ("conv2.2.bias", "conv1.bias"), ("skip.1.weight", "skip.weight"))  # fmt: skip
        add(f"convs.{i}", f"b{side}", block)
    add("final_conv", "b4.conv", (("0.weight", "weight"), ("1.bias", "bias")))
    add("final_linear.0", "b4.fc", (("weight", "weight"), ("bias", "bias")))
    add("final_linear.1", "b4.out", (("weight", "weight"), ("bias", "bias")))
    return found


def _reshaped(name: str, value: Tensor) -> Tensor:
    """A value in NVIDIA's shape: without dimensions of 1 where that has none."""
    if name.endswith("noise_strength"):
        return value.reshape(()) if value.numel() == 1 else value
    if name.endswith("noise_const"):
        return value[0, 0] if value.dim() == 4 else value
    if name.endswith("torgb.bias"):
        return value.flatten()
    batched = name.endswith(".const") or (name.startswith("synthesis.") and name.endswith((".weight",)))
    return value[0] if batched and value.dim() > 3 and value.shape[0] == 1 and "affine" not in name else value


def _check_filters(state: Mapping[str, Tensor]) -> None:
    taps = torch.tensor(_TAPS)
    expected = taps[:, None] * taps / taps.sum() ** 2
    for key, value in state.items():
        if _FILTER.fullmatch(key):
            value = value.float()
            if value.shape != expected.shape or not torch.allclose(value / value.sum(), expected, atol=1e-6):
                raise DataError(f"{key} is another filter than (1, 3, 3, 1), the only one supported in this layout")
