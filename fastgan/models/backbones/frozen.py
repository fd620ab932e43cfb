"""Backbones for fixed features: inverted residuals whose norms are folded into the convolutions, and nothing to train.

Their tensors are buffers, so that no optimizer sees them and no gradient of a weight is computed; gradients flow to the
images. State dicts hold a checksum in place of the weights, which are the same in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import DataError, UsageError
from fastgan.models.backbones.weights import EFFICIENTNET, MOBILENET, Weights, fetch_weights, read_weights
from fastgan.ops import bias_act, conv2d, conv2d_bias_act

#: A convolution: the names of its weight and of its norm, kernel, stride, groups, whether ReLU6 follows.
_Layer = tuple[str, str, int, int, int, bool]


@dataclass(frozen=True)
class Architecture:
    """A network of inverted residuals (Sandler et al. 2018, arXiv:1801.04381).

    stages: blocks, kernel, stride of the first block, expansion and output channels of each. names: of the
    convolutions and norms of block i in the state dict, with or without the expanding one; -1 stands for the first
    convolution. same: whether padding is TensorFlow's, which has an odd pixel at the right and bottom. epsilon: of the
    norms. mean, std: of pixels in [0, 255]. weights: their package, None for random weights.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    names: Callable[[int, bool], list[tuple[str, str]]]
    same: bool
    epsilon: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Weights | None


def _efficientnet_names(i: int, expands: bool) -> list[tuple[str, str]]:
    if i < 0:
        return [("_conv_stem", "_bn0")]
    own = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    return [(f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}") for conv, norm in own[0 if expands else 1 :]]


def _mobilenet_names(i: int, expands: bool) -> list[tuple[str, str]]:
    if i < 0:
        return [("features.0.0", "features.0.1")]
    own, last = f"features.{i + 1}.conv", 2 if expands else 1
    return [*((f"{own}.{j}.0", f"{own}.{j}.1") for j in range(last)), (f"{own}.{last}", f"{own}.{last + 1}")]


_LITE0 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
_MOBILE2 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (3, 3, 2, 6, 32), (4, 3, 2, 6, 64), (3, 3, 1, 6, 96), (3, 3, 2, 6, 160),
    (1, 3, 1, 6, 320),
)  # fmt: skip
_127, _128 = (127.0,) * 3, (128.0,) * 3
#: By name. "random" is EfficientNet-lite0 with fixed random weights, of which nothing has to be downloaded.
BACKBONES = {
    "efficientnet": Architecture(_LITE0, _efficientnet_names, True, 1e-3, _127, _128, EFFICIENTNET),
    "mobilenet": Architecture(
        _MOBILE2, _mobilenet_names, False, 1e-5, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), MOBILENET
    ),
    "random": Architecture(_LITE0, _efficientnet_names, True, 1e-3, _127, _128, None),
}
_STEM = 32  # channels of the first convolution
#: The stages whose outputs are returned: the last ones of feature maps with a 4th, 8th, 16th and 32nd of the sides.
_RETURNED = (1, 2, 4, 6)


_without_weights = ContextVar("without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, backbones have shapes alone: for those who build a pair of networks and need the generator."""
    token = _without_weights.set(True)
    try:
        yield
    finally:
        _without_weights.reset(token)


class FrozenBackbone(nn.Module):
    """Images [N, 1 or 3, H, W] in [-1, 1] → four feature maps [N, channels[i], H / 2^(i + 2), W / 2^(i + 2)].

    name: one of BACKBONES; its package is downloaded if it is not in the cache. stages: whose outputs are returned, of
    0 to 6; 0 has H / 2 × W / 2 pixels. Raises UsageError for another name, and DataError where the weights cannot be
    had or are another network's.
    """

    sha256: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stages: tuple[int, ...] = _RETURNED):
        super().__init__()
        if name not in BACKBONES:
            raise UsageError(f"backbone: expected some of {', '.join(BACKBONES)}, joined by +, got {name!r}")
        self.name = name
        about = BACKBONES[name]
        self.channels = tuple(about.stages[i][-1] for i in stages)
        # On the meta device networks are built to know their size.
        meta = _without_weights.get() or torch.empty(()).is_meta
        if meta or about.weights is None:
            source = _random_state(about, meta)
        else:
            source = read_weights(fetch_weights(about.weights))
        self.blocks = nn.ModuleList()
        returned = []
        digest = hashlib.sha256()
        for i, shape in enumerate(_shapes(about)):
            layers = [_folded(source, layer, about, digest) for layer in shape.layers]
            self.blocks.append(_Block(layers, shape.skips))
            if shape.ends in stages:
                returned.append(i)
        self._returned = frozenset(returned)
        checksum = (
            torch.zeros(32, dtype=torch.uint8) if meta else torch.tensor(list(digest.digest()), dtype=torch.uint8)
        )
        self.register_buffer("sha256", checksum)
        for buffer, values in (("mean", about.mean), ("std", about.std)):
            self.register_buffer(buffer, torch.tensor(values).view(3, 1, 1) / 127.5, persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images.expand(-1, 3, -1, -1)
        x = (x + (1 - self.mean.to(x.dtype))) / self.std.to(x.dtype)
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._returned:
                found.append(x)
            if len(found) == len(self._returned):
                break
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}sha256")
        if stored is not None and not self.sha256.is_meta and not torch.equal(stored.cpu(), self.sha256.cpu()):
            raise DataError(
                f"{prefix.rstrip('.')}: the network was trained on the features of other weights than these of"
                f" {self.name} (its checksum differs)"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.name}, channels={list(self.channels)}"


@dataclass(frozen=True)
class _Shape:
    """A block: its convolutions, whether its input is added, its output channels, the stage that it ends or -1."""

    layers: list[_Layer]
    skips: bool
    outputs: int
    ends: int


def _shapes(about: Architecture) -> Iterator[_Shape]:
    (stem,) = about.names(-1, False)
    yield _Shape([(*stem, 3, 2, 1, True)], False, _STEM, -1)
    inputs, i = _STEM, 0
    for stage, (repeats, kernel, first, expansion, outputs) in enumerate(about.stages):
        for repeat in range(repeats):
            wide, stride, expands = inputs * expansion, first if repeat == 0 else 1, expansion > 1
            *before, project = about.names(i, expands)
            layers: list[_Layer] = [(*before[0], 1, 1, 1, True)] if expands else []
            layers += [(*before[-1], kernel, stride, wide, True), (*project, 1, 1, 1, False)]
            yield _Shape(layers, stride == 1 and inputs == outputs, outputs, stage if repeat == repeats - 1 else -1)
            inputs, i = outputs, i + 1


def _sizes(about: Architecture) -> Iterator[tuple[_Layer, tuple[int, int, int, int]]]:
    """The convolutions and the shapes of their weights."""
    inputs = 3
    for shape in _shapes(about):
        for layer in shape.layers:
            _, _, kernel, _, groups, acts = layer
            # Expanding ones are the only 1×1 convolutions that an activation follows.
            outputs = groups if groups > 1 else shape.outputs if not acts or kernel > 1 else 6 * inputs
            yield layer, (outputs, inputs // groups, kernel, kernel)
            inputs = outputs


def _random_state(about: Architecture, meta: bool) -> dict[str, Tensor]:
    """Weights with He's deviation, the same at every call, and norms that do nothing. meta: shapes alone."""
    state, source = {}, np.random.default_rng(0)
    device = "meta" if meta else "cpu"
    for (conv, norm, *_), shape in _sizes(about):
        if meta:
            state[f"{conv}.weight"] = torch.empty(shape, device=device)
        else:
            values = source.standard_normal(shape, dtype=np.float32) * sqrt(2 / (shape[1] * shape[2] * shape[3]))
            state[f"{conv}.weight"] = torch.from_numpy(values)
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            state[f"{norm}.{name}"] = torch.full((shape[0],), value, device=device)
    return state


def _folded(state: dict[str, Tensor], layer: _Layer, about: Architecture, digest: Any) -> _Convolution:
    """A convolution with its norm folded into weight and bias. Raises DataError where the weights are missing."""
    conv, norm, kernel, stride, groups, acts = layer
    try:
        tensors = [state[f"{conv}.weight"], *(state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean"))]
        weight, gamma, beta, mean = (tensor.double() for tensor in tensors)
        variance = state[f"{norm}.running_var"]
    except KeyError as error:
        raise DataError(f"backbone: the file of weights has no {error}") from None
    if weight.shape[2] != kernel:
        raise DataError(f"backbone: expected a kernel of {kernel}×{kernel} in {conv}.weight, got {list(weight.shape)}")
    if not weight.is_meta:
        for tensor in (*tensors, variance):
            digest.update(tensor.contiguous().numpy().tobytes())
    factor = gamma / (variance.double() + about.epsilon).sqrt()
    folded = (weight * factor.view(-1, 1, 1, 1)).float(), (beta - mean * factor).float()
    return _Convolution(*folded, stride, groups, acts, about.same)


class _Block(nn.Module):
    def __init__(self, layers: list[_Convolution], skips: bool):
        super().__init__()
        self.layers, self._skips = nn.ModuleList(layers), skips

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x + y if self._skips else y


class _Convolution(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int, acts: bool, same: bool):
        super().__init__()
        # In which libraries convolve faster; oneDNN would reorder another layout in each call.
        weight = weight.contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self._stride, self._groups, self._acts, self._same = stride, groups, acts, same

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.weight.shape[2], self._stride
        padding = kernel // 2
        if self._same and stride > 1:
            sides = []
            for side in x.shape[:1:-1]:
                total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
                sides += [total // 2, total - total // 2]
            x, padding = F.pad(x, sides), 0
        options = {"stride": stride, "padding": padding, "groups": self._groups}
        if not self._acts:
            return bias_act(conv2d(x, self.weight, **options), self.bias, "linear")
        return conv2d_bias_act(x, self.weight, self.bias, "relu", clamp=6.0, **options)
