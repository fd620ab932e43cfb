"""FreezeD: the first blocks of a discriminator stay as they are while it is fine-tuned."""

from __future__ import annotations

import re

from torch import nn

from fastgan._util.options import option
from fastgan.errors import UsageError


def freeze(discriminator: nn.Module, count: int) -> list[str]:
    """Take the gradient from the first `count` blocks, those of the highest resolutions. Returns their names.

    Mo et al. 2020 (arXiv:2002.10964). Raises UsageError where the discriminator has no more than `count` blocks.
    """
    if not count:
        return []
    blocks = blocks_of(discriminator)
    if count >= len(blocks):
        found = (
            f"{len(blocks)} ({', '.join(blocks)})"
            if blocks
            else "none: no children b4, b8, ..., and no Sequential `blocks`"
        )
        raise UsageError(
            f"freeze_d: expected a discriminator with more than {count} blocks, got {type(discriminator).__name__} with"
            f" {found}; give {option('freeze_d')} that is smaller, or leave it out"
        )
    for name in list(blocks)[:count]:
        blocks[name].requires_grad_(False)
    return list(blocks)[:count]


def blocks_of(discriminator: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a discriminator by name, from images to logits: the children b256, b128, ... of StyleGAN's, or what
    is in the Sequential `blocks`; of a list of them the order is not known."""
    sides = {name: int(name[1:]) for name, _ in discriminator.named_children() if re.fullmatch(r"b\d+", name)}
    if sides:
        return {name: discriminator.get_submodule(name) for name in sorted(sides, key=sides.__getitem__, reverse=True)}
    blocks = getattr(discriminator, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return {}
    return {f"blocks.{name}": block for name, block in blocks.named_children()}
