"""What inversion and editing ask of a generator: w of seeds, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastgan.editing.exported import ExportedGenerator
from fastgan.errors import UsageError
from fastgan.runtime.generate import latent

#: Latents that are mapped at once.
_BATCH = 256


def require_styles(generator: nn.Module) -> Any:
    """The generator. Raises UsageError for one without `mapping`, `synthesis` and `num_ws`."""
    missing = [name for name in ("mapping", "synthesis", "num_ws") if not hasattr(generator, name)]
    if missing:
        raise UsageError(
            "generator: expected one with mapping and synthesis, such as stylegan2;"
            f" {type(generator).__name__} has no {' and no '.join(missing)}"
        )
    return generator


def require_w(w: Tensor, generator: Any, argument: str = "w") -> None:
    """Raise UsageError for anything but w [N, num_ws, w_dim] of this generator."""
    if w.dim() != 3 or w.shape[1:] != (generator.num_ws, generator.w_dim):
        raise UsageError(f"{argument}: expected [N, {generator.num_ws}, {generator.w_dim}], got {[*w.shape]}")


@torch.no_grad()
def w_of_seeds(generator: nn.Module, seeds: Sequence[int], label: int | None = None, psi: float = 1.0) -> Tensor:
    """w [N, num_ws, w_dim] of seeds, those of which `fastgan run` makes the images.

    label: the class of all; by default the seed modulo the number of classes, as there. psi: truncation toward the mean
    w (Karras et al. 2019, arXiv:1812.04948, appendix B). Raises UsageError for a class that the generator lacks.
    """
    network, classes = require_styles(generator), int(getattr(generator, "classes", 0))
    if label is not None and not 0 <= label < classes:
        had = f"a number from 0 to {classes - 1}" if classes else "none, the generator has no classes"
        raise UsageError(f"label: expected {had}, got {label}")
    weight = weight_of(network)
    found = []
    for start in range(0, len(seeds), _BATCH):
        part = seeds[start : start + _BATCH]
        z = torch.stack([torch.from_numpy(latent(seed, (network.latent,))) for seed in part])
        y = None
        if classes:
            y = torch.tensor([seed % classes if label is None else label for seed in part], device=weight.device)
        found.append(network.mapping(z.to(weight.device, weight.dtype), y, truncation_psi=psi))
    return torch.cat(found)


def weight_of(generator: nn.Module) -> Tensor:
    """A tensor of the device and dtype of the generator; of an exported one, which has no weights, of the CPU."""
    return next(generator.parameters(), torch.zeros(()))


def noise_shapes(generator: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the noise maps by their names, in the order of the layers."""
    if isinstance(generator, ExportedGenerator):
        return dict(generator.synthesis.noise_shapes)
    return {name: tuple(one.shape) for name, one in generator.synthesis.named_buffers() if name.endswith("noise_const")}


@torch.no_grad()
def images_of(generator: Any, w: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """Images of w [N, num_ws, w_dim] with constant noise, or with the given maps."""
    if isinstance(generator, ExportedGenerator):
        images: Tensor = generator.synthesis(w, noise)
        return images
    return functional_call(generator.synthesis, noise, (w,), {"noise_mode": "const"})


def layers_of(generator: Any, layers: Sequence[int] | None) -> list[int]:
    """Numbers of layers, of all when left out. Raises UsageError for one that the generator lacks."""
    chosen = list(range(generator.num_ws)) if layers is None else list(layers)
    if not chosen:
        raise UsageError("layers: expected at least one number, got none")
    if wrong := [i for i in chosen if not 0 <= i < generator.num_ws]:
        raise UsageError(f"layers: expected numbers from 0 to {generator.num_ws - 1}, got {wrong[0]}")
    return chosen
