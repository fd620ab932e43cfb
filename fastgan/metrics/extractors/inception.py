"""Inception-v3 as FID uses it: the network of 2015-12-05 (Szegedy et al. 2015, arXiv:1512.00567) with 1008 logits.

The names of its parameters are those of the public file `pt_inception-2015-12-05-6726825d.pth`. It differs from
torchvision's network in the pooling: averages exclude the padding, and the last block uses the maximum.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan._util.hashing import file_sha256
from fastgan._util.options import option
from fastgan.errors import UsageError
from fastgan.metrics.features import Backbone, Extractor, state_hash
from fastgan.models.backbones.weights import load_weights, read_weights

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
#: The file that pytorch-fid publishes, with which FIDs of papers are computed: where it is, its SHA-256 and its bytes.
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILES[0]}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359
SIDE, DIM, LOGITS = 299, 2048, 1008


class _Convolution(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _conv1x7(inputs: int, outputs: int) -> _Convolution:
    return _Convolution(inputs, outputs, (1, 7), padding=(0, 3))


def _conv7x1(inputs: int, outputs: int) -> _Convolution:
    return _Convolution(inputs, outputs, (7, 1), padding=(3, 0))


class _BlockA(nn.Module):
    """35×35: branches of 1×1, 5×5, and two 3×3 convolutions."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 64, 1)
        self.branch5x5_1 = _Convolution(inputs, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class _BlockB(nn.Module):
    """35×35 → 17×17."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = _Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class _BlockC(nn.Module):
    """17×17: 7×7 convolutions, factored into 1×7 and 7×1."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.branch1x1 = _Convolution(inputs, 192, 1)
        self.branch7x7_1 = _Convolution(inputs, width, 1)
        self.branch7x7_2 = _conv1x7(width, width)
        self.branch7x7_3 = _conv7x1(width, 192)
        self.branch7x7dbl_1 = _Convolution(inputs, width, 1)
        self.branch7x7dbl_2 = _conv7x1(width, width)
        self.branch7x7dbl_3 = _conv1x7(width, width)
        self.branch7x7dbl_4 = _conv7x1(width, width)
        self.branch7x7dbl_5 = _conv1x7(width, 192)
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class _BlockD(nn.Module):
    """17×17 → 8×8."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1 = _Convolution(inputs, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = _conv1x7(192, 192)
        self.branch7x7x3_3 = _conv7x1(192, 192)
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class _BlockE(nn.Module):
    """8×8: 3×3 convolutions, split into parallel 1×3 and 3×1. maximum: max pooling, as in the network's last block."""

    def __init__(self, inputs: int, *, maximum: bool):
        super().__init__()
        self._maximum = maximum
        self.branch1x1 = _Convolution(inputs, 320, 1)
        self.branch3x3_1 = _Convolution(inputs, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self._maximum else _average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            1,
        )


class Inception(Backbone):
    """Images [N, 3, 299, 299] in [-1, 1] → features [N, 2048], logits [N, 1008] without bias, as in the inception
    score.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, maximum=False)
        self.Mixed_7c = _BlockE(2048, maximum=True)
        self.fc = nn.Linear(DIM, LOGITS)

    def activations(self, x: Tensor) -> list[Tensor]:
        """After the two first poolings, before the last reduction, and at the end: 64, 192, 768, 2048 channels."""
        found = []
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        found.append(x)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        found.append(x)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        found.append(x)
        found.append(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))))
        return found

    def head(self, last: Tensor) -> tuple[Tensor, Tensor]:
        features = last.mean((2, 3))
        return features, features @ self.fc.weight.T


def cached() -> Path | None:
    """The weight file in the torch hub cache, or None."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def from_cache(device: torch.device, filter: str) -> Extractor:
    """The extractor with the weights in the torch hub cache. Raises UsageError if they are not there."""
    path = cached()
    if path is None:
        file = Path(torch.hub.get_dir(), "checkpoints", FILES[0])
        raise UsageError(
            f"extractor: the weights of inception are missing; fetch them ({BYTES / 1e6:.0f} MB) and check them:"
            f" {fetch_command(file)} ; or give a file ({option('extractor', 'FILE')}), or use efficientnet or digits"
        )
    return build(read_weights(path), path, device, filter)


def fetch_command(file: Path) -> str:
    """The shell command that fetches the published weights to a file and compares their SHA-256."""
    name = shlex.quote(str(file))
    return f'curl -fL --create-dirs -o {name} {URL} && echo "{SHA256}  "{name} | sha256sum --check'


def build(state: dict[str, Tensor], path: Path, device: torch.device, filter: str) -> Extractor:
    """The extractor with these weights. path: of their file, for messages. Raises DataError for another network's."""
    network = Inception()
    load_weights(network, state, path, "Inception-v3 as FID uses it")
    weights = state_hash(network)
    published = path.is_file() and file_sha256(path) == SHA256
    which = "the published ones" if published else "other than the published ones: not comparable with FIDs of papers"
    return Extractor(
        protocol=f"inception_{filter}",
        network=network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        dim=DIM,
        weights=weights,
        about=f"Inception-v3 of FID, {filter} resize to {SIDE}, weights {weights[:8]} from {path.name}, {which}",
        size=SIDE,
        filter=filter,
        shift=128.0,
        scale=128.0,
        batch=32 if device.type == "cpu" else 256,
        device=device,
    )
