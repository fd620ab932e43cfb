"""VGG-16, VGG-19 and AlexNet with fixed weights, from files in torchvision's layout: `features.N.weight`, `.bias`.

Their tensors are buffers outside of state dicts: no optimizer sees them, checkpoints do not hold them, and gradients
flow to the images alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import DataError, UsageError
from fastgan.ops import bias_act, conv2d_bias_act

#: Of ImageNet, for pixels in [-1, 1]: 2 · mean − 1 and 2 · deviation of those in [0, 1].
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class _Layer:
    """A convolution: its number in the file, output channels, kernel, stride, padding, whether pooling comes before."""

    number: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class _Architecture:
    """title: for messages. pool: kernel of max pooling with stride 2."""

    title: str
    layers: Mapping[str, _Layer]
    pool: int


def _vgg(title: str, *counts: int) -> _Architecture:
    """Simonyan and Zisserman 2014 (arXiv:1409.1556), configurations D and E: so many convolutions in each block."""
    layers, number = {}, 0
    for block, count in enumerate(counts):
        for i in range(count):
            layers[f"conv{block + 1}_{i + 1}"] = _Layer(number, min(64 << block, 512), pooled=block > 0 and i == 0)
            number += 2
        number += 1
    return _Architecture(title, layers, 2)


#: By name. The single-column AlexNet is that of Krizhevsky 2014 (arXiv:1404.5997).
ARCHITECTURES = {
    "vgg16": _vgg("VGG-16", 2, 2, 3, 3, 3),
    "vgg19": _vgg("VGG-19", 2, 2, 4, 4, 4),
    "alexnet": _Architecture(
        "AlexNet",
        {
            "conv1": _Layer(0, 64, 11, 4, 2),
            "conv2": _Layer(3, 192, 5, 1, 2, pooled=True),
            "conv3": _Layer(6, 384, pooled=True),
            "conv4": _Layer(8, 256),
            "conv5": _Layer(10, 256),
        },
        3,
    ),
}


def architecture_of(state: Mapping[str, Tensor]) -> str:
    """The name of the network that this state dict is of. Raises DataError for any other."""
    found = {name: tuple(value.shape) for name, value in state.items() if name.startswith("features.")}
    for name, about in ARCHITECTURES.items():
        inputs = 3
        wanted: dict[str, tuple[int, ...]] = {}
        for layer in about.layers.values():
            wanted[f"features.{layer.number}.weight"] = (layer.channels, inputs, layer.kernel, layer.kernel)
            wanted[f"features.{layer.number}.bias"] = (layer.channels,)
            inputs = layer.channels
        if found == wanted:
            return name
    names = ", ".join(about.title for about in ARCHITECTURES.values())
    if any(name.endswith("running_mean") for name in found):
        raise DataError(f"expected the weights of {names}, got those of a network with batch norm")
    raise DataError(
        f"expected the weights of {names} in torchvision's layout (features.0.weight, ...), got a file with"
        f" {', '.join(list(found or state)[:3]) or 'nothing in it'}"
    )


class FrozenVGG(nn.Module):
    """Images [N, 1 or 3, H, W] in [-1, 1] → the outputs of the named layers, each [N, C, h, w].

    state: of a file in torchvision's layout; entries other than `features.*` are left aside. layers: names such as
    conv5_4, the output before the activation, or relu5_4, that after it (conv1 to conv5 in AlexNet). What follows the
    last of them is not built. Raises DataError for weights of another network, UsageError for other names.
    """

    def __init__(self, state: Mapping[str, Tensor], layers: Sequence[str]):
        super().__init__()
        self.name = architecture_of(state)
        about = ARCHITECTURES[self.name]
        taps = [f"{kind}{number}" for number in (n.removeprefix("conv") for n in about.layers) for kind in _KINDS]
        for tap in layers:
            if tap not in taps:
                raise UsageError(f"layers: expected some of {', '.join(taps)} of {about.title}, got {tap!r}")
        if not layers:
            raise UsageError(f"layers: expected at least one of {', '.join(taps)}, got none")
        self.layers, self.pool = tuple(layers), about.pool
        names = list(about.layers)
        last = max(names.index(tap.replace("relu", "conv")) for tap in layers)
        self.convolutions = {name: about.layers[name] for name in names[: last + 1]}
        self.channels = tuple(about.layers[tap.replace("relu", "conv")].channels for tap in layers)
        for name, layer in self.convolutions.items():
            for part in ("weight", "bias"):
                value = state[f"features.{layer.number}.{part}"].detach().float().clone()
                if part == "weight":
                    # In which libraries convolve faster; oneDNN would reorder another layout in each call.
                    value = value.contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"{name}_{part}", value, persistent=False)
        for part, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(part, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.least = next(side for side in range(1, 512) if self._last_side(side) > 0)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.dim() != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < self.least:
            raise UsageError(
                f"images: expected [N, 1 or 3, H, W] with sides of at least {self.least} pixels for"
                f" {list(self.convolutions)[-1]} of {ARCHITECTURES[self.name].title}, got {list(images.shape)}"
            )
        mean, std = self.get_buffer("mean").to(images.dtype), self.get_buffer("std").to(images.dtype)
        x, found = (images.expand(-1, 3, -1, -1) - mean) / std, {}
        for name, layer in self.convolutions.items():
            if layer.pooled:
                x = F.max_pool2d(x, self.pool, 2)
            weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
            activated = name.replace("conv", "relu")
            before = name in self.layers
            x = conv2d_bias_act(
                x, weight, bias, "linear" if before else "relu", stride=layer.stride, padding=layer.padding
            )
            if before:
                found[name] = x
                if len(found) == len(set(self.layers)):
                    break
                x = bias_act(x, None, "relu")
            if activated in self.layers:
                found[activated] = x
        return [found[layer] for layer in self.layers]

    def extra_repr(self) -> str:
        return f"{self.name}, layers={list(self.layers)}"

    def _last_side(self, side: int) -> int:
        for layer in self.convolutions.values():
            if layer.pooled:
                side = (side - self.pool) // 2 + 1
            side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
            if side < 1:
                return 0
        return side


_KINDS = ("conv", "relu")
