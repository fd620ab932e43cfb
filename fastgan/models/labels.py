"""Class conditioning shared by the families: how labels y int64 [N] enter a generator and a discriminator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn import ConditionalBatchNorm, LinearBlock, spectral_norm
from fastgan.ops import bias_act

#: name of a conditioning method → what it does
CONDITIONS = {
    "concat": "one-hot labels concatenated to z and to the image (Mirza and Osindero 2014, arXiv:1411.1784)",
    "projection": "conditional batch norm and a projection discriminator (Miyato and Koyama 2018, arXiv:1802.05637)",
    "auxiliary": "one-hot labels concatenated to z, and a discriminator that also classifies (AC-GAN, Odena et al."
    " 2017, arXiv:1610.09585)",
}


@dataclass(frozen=True)
class Labels:
    """The conditioning of a pair of networks.

    classes: number of classes; 0 for unconditional networks. condition: one of CONDITIONS; "" for unconditional ones.
    """

    classes: int = 0
    condition: str = ""

    @classmethod
    def create(cls, family: str, classes: int, condition: str | None, supported: tuple[str, ...]) -> Labels:
        """The conditioning that a family's `build` was asked for; condition None means the first of `supported`.

        Raises UsageError for a condition without classes and for one that the family does not support.
        """
        if classes == 0:
            if condition is not None:
                raise UsageError(f"condition: {condition!r} needs labels, and classes is 0; give the number of classes")
            return cls()
        condition = supported[0] if condition is None else condition
        if condition not in supported:
            raise UsageError(f"condition: {family} supports {' or '.join(supported)}, got {condition!r}")
        return cls(classes, condition)

    @property
    def extra_latents(self) -> int:
        """How many numbers are concatenated to z."""
        return self.classes if self.condition in ("concat", "auxiliary") else 0

    @property
    def extra_channels(self) -> int:
        """How many channels (or, for flat images, numbers) are concatenated to the image."""
        return self.classes if self.condition == "concat" else 0

    @property
    def norm_features(self) -> int:
        """Size of the condition of the generator's batch norms; 0 for unconditional batch norms."""
        return self.classes if self.condition == "projection" else 0

    @property
    def auxiliary(self) -> bool:
        """Whether the discriminator also classifies."""
        return self.condition == "auxiliary"

    def generator_inputs(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """z [N, latent + extra_latents], and the condition of the batch norms [N, norm_features] or None."""
        if not self.classes:
            reject_labels(y)
            return z, None
        encoded = one_hot(y, self.classes, z)
        return (z, encoded) if self.norm_features else (torch.cat([z, encoded], 1), None)

    def concat_image(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [N, F] or [N, C, H, W] with extra_channels one-hot channels, constant over the image, concatenated."""
        if not self.classes:
            reject_labels(y)
        if not self.extra_channels:
            return x
        encoded = one_hot(y, self.classes, x)
        planes = encoded if x.dim() == 2 else encoded[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes], 1)


def one_hot(y: Tensor | None, classes: int, like: Tensor, name: str = "y") -> Tensor:
    """y int64 [N] → [N, classes], in the dtype of `like`. Raises UsageError for y None, other shapes and dtypes.

    name: of the argument, for errors.
    """
    expected = f"{name}: expected labels, int64 [N] below {classes}, as the network is conditional; got"
    if y is None:
        raise UsageError(f"{expected} none")
    if y.dim() != 1 or y.dtype != torch.int64:
        came = f"{str(y.dtype).removeprefix('torch.')} {list(y.shape)}"
        cure = f"; of one-hot rows take {name}.argmax(1)" if y.dim() == 2 and y.shape[1] == classes else ""
        raise UsageError(f"{expected} {came}{cure}")
    return F.one_hot(y, classes).to(like.dtype)


def reject_labels(y: Tensor | None, name: str = "y") -> None:
    """Raise UsageError if an unconditional network is given labels. name: of the argument."""
    if y is not None:
        raise UsageError(f"{name}: the network was built with classes=0 and takes no labels")


class LabelHead(nn.Module):
    """The last step of a discriminator: from logits [N], features [N, F] and labels y [N] to its outputs.

    "projection": the inner product of the features with a trainable embedding of the class is added to the logits.
    "auxiliary": class logits [N, classes] are returned as a second output. Otherwise the logits are returned unchanged.
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
        if y is None or y.dim() != 1 or y.dtype != torch.int64:
            came = "none" if y is None else f"{str(y.dtype).removeprefix('torch.')} {list(y.shape)}"
            raise UsageError(f"y: expected labels, int64 [N], as the discriminator is conditional; got {came}")
        return logits + (self.embed(y) * features).sum(1)


class ConditionalBlock(nn.Module):
    """layer → conditional batch norm → activation. layer: without bias, because the norm adds one."""

    def __init__(self, layer: nn.Module, channels: int, features: int, act: str):
        super().__init__()
        self.layer, self.norm, self.act = layer, ConditionalBatchNorm(channels, features), act

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return bias_act(self.norm(self.layer(x), c), None, self.act)


def apply_blocks(blocks: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
    """Apply the blocks of a Sequential one after the other; a ConditionalBlock is also given the condition c."""
    if c is None:
        return blocks(x)
    for block in blocks.children():
        x = block(x, c) if isinstance(block, ConditionalBlock) else block(x)
    return x
