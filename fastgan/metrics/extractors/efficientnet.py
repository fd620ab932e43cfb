"""EfficientNet-lite0 (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation): an ImageNet backbone whose
weights are a pip package. Its metrics can be compared with each other, not with published FIDs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.metrics.features import Backbone, Extractor, state_hash
from fastgan.models.backbones.weights import EFFICIENTNET, fetch_weights, load_weights, read_weights

SIDE, DIM = 224, 1280
#: (blocks, kernel size, stride of the first block, expansion, output channels) of each stage
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _Same(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd total padding has one pixel more at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            sides += [total // 2, total - total // 2]
        return super().forward(F.pad(x, sides) if any(sides) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self._skips = stride == 1 and inputs == outputs
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = _Same(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _Same(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = _Same(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class EfficientNetLite0(Backbone):
    """Images [N, 3, 224, 224], (pixels − 127) / 128 → features [N, 1280], logits [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Same(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        channels = 32
        ends = []
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for i in range(repeats):
                self._blocks.append(_Block(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
            ends.append(len(self._blocks) - 1)
        # The last blocks before a stride of 2, and of the stage before the last.
        self._activation_blocks = {ends[1], ends[2], ends[4]}
        self._conv_head = _Same(channels, DIM, 1, bias=False)
        self._bn1 = _norm(DIM)
        self._fc = nn.Linear(DIM, 1000)

    def activations(self, x: Tensor) -> list[Tensor]:
        found = []
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._activation_blocks:
                found.append(x)
        found.append(F.relu6(self._bn1(self._conv_head(x))))
        return found

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        features = last.mean((2, 3))
        return features, self._fc(features)


def fetched(device: torch.device) -> Extractor:
    """The extractor with the weights of its package, downloaded if it is not in the cache. Raises DataError."""
    path = fetch_weights(EFFICIENTNET)
    return build(read_weights(path), path, device)


def build(state: dict[str, Tensor], path: Path, device: torch.device) -> Extractor:
    """The extractor with these weights. path: of their file, for messages. Raises DataError for another network's."""
    network = EfficientNetLite0()
    load_weights(network, state, path, "EfficientNet-lite0")
    weights = state_hash(network)
    return Extractor(
        protocol="efficientnet_clean",
        network=network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        dim=DIM,
        weights=weights,
        about=f"EfficientNet-lite0 (ImageNet), clean resize to {SIDE}, weights {weights[:8]} from {path.name}",
        size=SIDE,
        shift=127.0,
        scale=128.0,
        batch=32 if device.type == "cpu" else 256,
        device=device,
    )
