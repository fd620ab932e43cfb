"""Projected GAN (Sauer et al. 2021, arXiv:2111.01007): discriminators of the features of frozen ImageNet networks.

Feature maps of four sizes are mixed by random projections that are never trained: 1×1 convolutions mix channels, and a
top-down path of 3×3 convolutions and bilinear upsampling mixes sizes. Each mixed map has a small discriminator, and all
of their logits are averaged in the loss. The paper trains with the hinge loss and differentiable augmentation.

The generator is that of any family.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models import registry
from fastgan.models.backbones import FrozenBackbone
from fastgan.models.class_embedding import ClassEmbedding
from fastgan.models.labels import reject_labels
from fastgan.nn import group_spectral_norms, spectral_norm
from fastgan.ops import bias_act, conv2d

#: Images are brought to at least this side, for which the backbones were trained; at least 64 give the smallest maps
#: 2×2 pixels.
SIDE, LEAST = 224, 64


class ProjectedDiscriminator(nn.Module):
    """Images [N, channels, H, W], and labels c int64 [N] where classes > 0, → logits [N, K], K of all discriminators.

    backbones: names joined by "+" (see `BACKBONES`). width: channels of the largest mixed maps, doubled at each smaller
    one. side: to which images are resized before the backbones. With labels, a discriminator's last maps are projected
    on a trained map of the class embedding: of one for each class, or of `class_features` [classes, F], which are kept
    as they are.

    The backbones are not trained and not part of the state dict, which holds their checksums: a state dict of other
    weights raises DataError. Raises UsageError for a name, side or width that does not exist.
    """

    auxiliary = False

    def __init__(
        self, channels: int, side: int, backbones: str = "efficientnet", width: int = 64, classes: int = 0,
        class_features: Tensor | None = None,
    ):  # fmt: skip
        super().__init__()
        if channels not in (1, 3):
            raise UsageError(f"channels: projected discriminators take images of 1 or 3 channels, got {channels}")
        if side < LEAST or side % 32:
            raise UsageError(f"side: expected a multiple of 32 from {LEAST}, got {side}")
        if width < 1:
            raise UsageError(f"d_width: expected a number >= 1, got {width}")
        self.channels, self.side, self.classes = channels, side, classes
        names = backbones.split("+")
        if len(set(names)) < len(names):
            raise UsageError(f"backbone: expected each name once, got {backbones!r}")
        self.backbones = nn.ModuleList(FrozenBackbone(name) for name in names)
        self.mixers = nn.ModuleList(Mixer(backbone.channels, width) for backbone in self.backbones)  # type: ignore[arg-type]
        self.embedding = ClassEmbedding(classes, class_features) if classes else None
        features = self.embedding.features if self.embedding is not None else 0
        self.heads = nn.ModuleList(
            Head(width << level, 4 - level, features) for _ in self.backbones for level in range(4)
        )
        group_spectral_norms(self)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise UsageError(f"x: expected images [N, {self.channels}, H, W], got {list(x.shape)}")
        if self.embedding is None:
            reject_labels(c, "c")
        label = None if self.embedding is None else self.embedding(c, x)
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        maps = [mixed for net, mixer in zip(self.backbones, self.mixers, strict=True) for mixed in mixer(net(x))]
        return torch.cat([head(mixed, label).flatten(1) for head, mixed in zip(self.heads, maps, strict=True)], 1)


class Mixer(nn.Module):
    """Four feature maps → four of width, 2 · width, 4 · width and 8 · width channels, by fixed random convolutions.

    The weights have He's deviation for linear layers. They are buffers, and in the state dict: every run draws its own.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        for level, inputs in enumerate(channels):
            outputs = width << level
            self.register_buffer(f"across_channels{level}", torch.randn(outputs, inputs, 1, 1) / sqrt(inputs))
            if level:
                inputs, outputs = outputs, outputs // 2
                self.register_buffer(f"across_scales{level}", torch.randn(outputs, inputs, 3, 3) / sqrt(9 * inputs))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = [conv2d(x, self.get_buffer(f"across_channels{level}")) for level, x in enumerate(maps)]
        for level in range(len(maps) - 1, 0, -1):
            # The convolution comes before the upsampling, where it has a quarter of the pixels.
            x = conv2d(found[level], self.get_buffer(f"across_scales{level}"), padding=1)
            x = F.interpolate(x, size=found[level - 1].shape[2:], mode="bilinear", align_corners=False)
            found[level - 1] = found[level - 1] + x
        return found


class Head(nn.Module):
    """One discriminator: x [N, channels, H, W], and the class embedding [N, features] or None, → logits [N, h, w].

    blocks: convolutions of stride 2, each with spectral norm, batch norm and leaky ReLU.
    """

    def __init__(self, channels: int, blocks: int, features: int, mapped: int = 64):
        super().__init__()
        self.blocks = nn.Sequential(*(DownBlock(channels, channels) for _ in range(blocks)))
        self.mapped = mapped if features else 1
        self.to_logits = spectral_norm(nn.Conv2d(channels, self.mapped, 3, padding=1, bias=False))
        self.map = nn.Linear(features, mapped) if features else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = self.to_logits(self.blocks(x))
        if self.map is None or label is None:
            return x[:, 0]
        return (x * self.map(label)[:, :, None, None]).sum(1) / sqrt(self.mapped)


class DownBlock(nn.Module):
    """x [N, I, H, W] → [N, O, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(self.norm(self.conv(x)), None, "leaky_relu")


def side_of(resolution: int, side: int | None) -> int:
    """The side at which the backbones see images of this resolution; `side` where it is given."""
    if side is not None:
        return side
    return max(SIDE, 2 ** round(log2(resolution)))


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *,
    generator: str = "stylegan2", backbone: str = "efficientnet", side: int | None = None, d_width: int = 64,
    condition: str | None = None,
) -> tuple[nn.Module, ProjectedDiscriminator]:  # fmt: skip
    """The generator of another family, and a projected discriminator.

    generator: the family, with its own options as they are by default; resolution, latent, width and classes are its.
    backbone: one or several of efficientnet, mobilenet and random (no pretrained features), joined by "+". side: at
    which backbones see the images; None means 224, or the resolution where that is larger. d_width: channels of the
    largest mixed feature map. condition: "projection", the only one supported. Raises UsageError for unsupported
    values.
    """
    if d_norm != "none":
        raise UsageError(f"d_norm: projected discriminators have spectral and batch norms, got {d_norm!r}; use none")
    if condition not in (None, "projection"):
        raise UsageError(f"condition: projected supports projection, got {condition!r}")
    if condition is not None and not classes:
        raise UsageError(f"condition: {condition!r} needs labels, and classes is 0; give the number of classes")
    others = [name for name in registry.FAMILIES if name not in {"projected", "stylegan-xl", *registry.OF_IMAGES}]
    if generator not in others:
        raise UsageError(f"generator: expected one of {', '.join(others)}, got {generator!r}")
    made, _ = registry.build(
        generator, resolution=resolution, channels=channels, latent=latent, width=width, classes=classes
    )
    return made, ProjectedDiscriminator(channels, side_of(resolution, side), backbone, d_width, classes)
