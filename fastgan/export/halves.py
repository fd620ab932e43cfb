"""The two halves of a generator with styles as networks that are exported: z → w and w → images."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.export.verify import inputs_for
from fastgan.runtime.session import latents
from fastgan.runtime.spec import Control, Inputs, Spec

#: Of the fraction of a style's distance from the mean style that remains.
PSI = Control("truncation_psi", 1.0)
#: Latents from which the range of w is found.
_SAMPLES = 256


def has_styles(network: nn.Module) -> bool:
    """Whether a generator has `mapping`, `synthesis`, and the attributes that state their shapes."""
    return all(hasattr(network, name) for name in ("mapping", "synthesis", "num_ws", "w_dim", "latent"))


def truncatable(network: Any) -> bool:
    """Whether the mapping network can truncate its styles."""
    if "truncation_psi" not in inspect.signature(network.mapping.forward).parameters:
        return False
    return getattr(network.mapping, "w_avg_beta", 0.0) is not None  # without it there is no mean style


class MappingHalf(nn.Module):
    """z [N, latent], labels y int64 [N] where it has classes, and truncation_psi [N] → w [N, num_ws, w_dim]."""

    def __init__(self, generator: Any):
        super().__init__()
        require_styles(generator)
        self.mapping = generator.mapping
        self.classes = int(getattr(generator, "classes", 0))
        controls = (PSI,) if truncatable(generator) else ()
        shape = (int(generator.num_ws), int(generator.w_dim))
        self.spec = Spec("mapping", (int(generator.latent),), self.classes, styles=shape, controls=controls)
        w = sample_w(generator, _SAMPLES, seed=0)
        self.spec = Spec(**{**vars(self.spec), "range": (float(w.min()), float(w.max()))})

    # Not *others: for these the exporters want the dynamic sizes nested.
    def forward(self, z: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        y, psi = (second, third) if self.classes else (None, second)
        w: Tensor = self.mapping(z, y)
        if psi is None:
            return w
        center = getattr(self.mapping, "w_avg", None)
        if not isinstance(center, Tensor) or center.dim() != 1:  # of each class, or computed
            center = self.mapping(z, y, truncation_psi=0.0)
        return center + (w - center) * psi[:, None, None]


class SynthesisHalf(nn.Module):
    """w [N, num_ws, w_dim] → images [N, C, R, R], with constant noise.

    Where the synthesis network takes noise maps, they are inputs too: noise_strength [N] multiplies the constant ones,
    and noise [N, K] is added to them: the maps of all layers, one after another, row by row.
    """

    def __init__(self, generator: Any):
        super().__init__()
        require_styles(generator)
        self.synthesis = generator.synthesis
        channels = int(generator.image_shape[0])
        #: The sides of the noise maps by the names of their buffers.
        self.sides = noise_sides(self.synthesis)
        size = sum(side * side for side in self.sides.values())
        controls = (Control("noise_strength", 1.0), Control("noise", 0.0, size)) if size else ()
        shape = (int(generator.num_ws), int(generator.w_dim))
        span = getattr(generator, "range", (-1.0, 1.0))
        self.spec = Spec("synthesis", shape, channels=channels, controls=controls, range=span)

    def forward(self, w: Tensor, noise_strength: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        if noise is None or noise_strength is None:
            images: Tensor = self.synthesis(w, noise_mode="const")
            return images
        maps, start = [], 0
        for name, side in self.sides.items():
            own = noise[:, start : start + side * side].reshape(-1, 1, side, side)
            maps.append(self.synthesis.get_buffer(name) * noise_strength[:, None, None, None] + own)
            start += side * side
        images = self.synthesis(w, noise=maps)
        return images


class Truncated(nn.Module):
    """A generator with truncation_psi [N] as its last input, and constant noise: z, and labels y → images."""

    def __init__(self, generator: Any):
        super().__init__()
        self.styles = MappingHalf(generator)
        self.synthesis = generator.synthesis
        half = self.styles.spec
        span = getattr(generator, "range", (-1.0, 1.0))
        self.spec = Spec("latent", half.latent_shape, half.classes, range=span, controls=half.controls)

    def forward(self, z: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        images: Tensor = self.synthesis(self.styles(z, second, third), noise_mode="const")
        return images


def noise_sides(synthesis: Any) -> dict[str, int]:
    """The sides of the noise maps of a synthesis network that takes others than its own, by the names of their buffers
    in the order of its layers; none for a network that takes no `noise`."""
    if "noise" not in inspect.signature(synthesis.forward).parameters:
        return {}
    return {name: len(one) for name, one in synthesis.named_buffers() if name.endswith("noise_const")}


def require_styles(generator: nn.Module) -> None:
    """Raise UsageError for a generator without mapping, synthesis, and the attributes that state their shapes."""
    if not has_styles(generator):
        raise UsageError(
            "pair: expected a generator with mapping and synthesis, such as stylegan2, got"
            f" {type(generator).__name__}; export it as one file"
        )


@torch.no_grad()
def sample_w(generator: Any, n: int, seed: int) -> Tensor:
    """w float32 [n, num_ws, w_dim] of latents from N(0, 1), of the classes in turn."""
    z = torch.from_numpy(latents(n, (int(generator.latent),), seed))
    classes = int(getattr(generator, "classes", 0))
    y = torch.arange(n) % classes if classes else None
    return generator.mapping(z, y).float()


@torch.no_grad()
def latent_batches(generator: Any, spec: Spec) -> list[Inputs]:
    """What a synthesis network is compared on: the w of latents in several batches, whose size the images limit, and
    drawn controls. spec: of the mapping network."""
    synthesis = SynthesisHalf(generator)
    batches = []
    for w, *others in inputs_for(synthesis, synthesis.spec):
        batches.append((sample_w(generator, len(w), seed=len(w)).numpy(), *others))
    return batches


def digest(network: nn.Module) -> str:
    """SHA-256 of the names and values of a network's tensors: what the two files of a pair have in common."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
