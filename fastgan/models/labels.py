"""How class labels enter networks: what the families share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn import ConditionalBatchNorm, LinearBlock, spectral_norm
from fastgan.ops import bias_act

#: condition → how it is done
CONDITIONS = {
    "concat": "labels beside z, and beside the image (Mirza and Osindero 2014, arXiv:1411.1784)",
    "projection": "conditional batch norm, and a projection in the discriminator (Miyato and Koyama 2018, arXiv:1802.05637)",
    "auxiliary": "labels beside z, and a discriminator that also classifies (Odena et al. 2017, arXiv:1610.09585)",
}


@dataclass(frozen=True)
class Labels:
    """classes: 0 without labels. condition: one of CONDITIONS, or "" without labels."""

    classes: int = 0
    condition: str = ""

    @classmethod
    def of(cls, family: str, classes: int, condition: str | None, known: tuple[str, ...]) -> Labels:
        """What a family makes of its arguments: condition None is the first that it knows. Raises UsageError."""
        if classes == 0:
            if condition is not None:
                raise UsageError(f"condition: {condition!r} needs labels, and classes is 0; give the number of classes")
            return cls()
        condition = known[0] if condition is None else condition
        if condition not in known:
            raise UsageError(f"condition: {family} takes {' or '.join(known)}, got {condition!r}")
        return cls(classes, condition)

    @property
    def beside_latent(self) -> int:
        """How many numbers go beside z."""
        return self.classes if self.condition in ("concat", "auxiliary") else 0

    @property
    def beside_image(self) -> int:
        """How many numbers, or planes, go beside the image."""
        return self.classes if self.condition == "concat" else 0

    @property
    def into_norms(self) -> int:
        """How many features the generator's conditional batch norms take; 0 for ordinary ones."""
        return self.classes if self.condition == "projection" else 0

    @property
    def auxiliary(self) -> bool:
        """Whether the discriminator also classifies."""
        return self.condition == "auxiliary"

    def generate(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """z with what goes beside it, and what goes into the norms."""
        if not self.classes:
            refuse(y)
            return z, None
        hot = one_hot(y, self.classes, z)
        return (z, hot) if self.into_norms else (torch.cat([z, hot], 1), None)

    def judge(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [N, F] or [N, C, H, W] with what goes beside it."""
        if not self.classes:
            refuse(y)
        if not self.beside_image:
            return x
        hot = one_hot(y, self.classes, x)
        planes = hot if x.dim() == 2 else hot[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes], 1)


def one_hot(y: Tensor | None, classes: int, like: Tensor) -> Tensor:
    """y int64 [N] → [N, classes], in the dtype of `like`."""
    if y is None:
        raise UsageError(f"y: expected labels, int64 [N] below {classes}, as the network is conditional; got none")
    return F.one_hot(y, classes).to(like.dtype)


def refuse(y: Tensor | None) -> None:
    """UsageError for labels that nobody would look at."""
    if y is not None:
        raise UsageError("y: the network was built with classes=0 and takes no labels")


class LabelHead(nn.Module):
    """What a discriminator says of labels from its last features [N, F].

    With "projection" the product of the features with a learned vector of the class is added to the logits; with
    "auxiliary" logits of the classes come beside them.
    """

    def __init__(self, labels: Labels, features: int, norm: str):
        super().__init__()
        self.embed = nn.Embedding(labels.classes, features) if labels.condition == "projection" else None
        if self.embed is not None and norm == "spectral":
            spectral_norm(self.embed)
        self.to_class = LinearBlock(features, labels.classes, norm=norm, act="linear") if labels.auxiliary else None

    def forward(self, logits: Tensor, features: Tensor, y: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        if self.to_class is not None:
            return logits, self.to_class(features)
        if self.embed is None:
            return logits
        if y is None:
            raise UsageError("y: expected labels, int64 [N], as the discriminator judges images of a class; got none")
        return logits + (self.embed(y) * features).sum(1)


class ConditionalBlock(nn.Module):
    """layer → conditional batch norm → activation. layer: without bias, for the norm has one."""

    def __init__(self, layer: nn.Module, channels: int, features: int, act: str):
        super().__init__()
        self.layer, self.norm, self.act = layer, ConditionalBatchNorm(channels, features), act

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return bias_act(self.norm(self.layer(x), c), None, self.act)


def through(blocks: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
    """x through blocks one upon the other, with the condition where they take one."""
    if c is None:
        return blocks(x)
    for block in blocks.children():
        x = block(x, c) if isinstance(block, ConditionalBlock) else block(x)
    return x
