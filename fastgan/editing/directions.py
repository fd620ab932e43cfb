"""Directions in w along which images change in one respect, and images along them.

Three ways to find them: the weights of the style layers alone, samples of w, and labeled examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fastgan._util.files import failure, write_whole
from fastgan._util.weight_files import read_safetensors
from fastgan.editing.styles import layers_of, require_styles, require_w, w_of_seeds
from fastgan.errors import DataError, UsageError


@dataclass(frozen=True)
class Directions:
    """vectors [K, w_dim] of length 1, the strongest first, and the layers that they move. scales [K]: what strength 1
    means, in w; about: how they were found."""

    vectors: Tensor
    scales: Tensor
    layers: tuple[int, ...]
    about: str

    def save(self, path: Path) -> None:
        """Write them as safetensors, whole or not at all; `load` reads them. Raises WriteError."""
        text = torch.tensor(list(self.about.encode()), dtype=torch.uint8)
        layers = torch.tensor(self.layers, dtype=torch.int64)
        arrays = {"vectors": self.vectors, "scales": self.scales, "layers": layers, "about": text}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({name: one.cpu().contiguous() for name, one in arrays.items()}))
        except OSError as error:
            raise failure(path, error) from error

    @classmethod
    def load(cls, path: Path, generator: nn.Module) -> Directions:
        """Those that `save` wrote, for a generator with the same size of w.

        Raises DataError for another file, UsageError for directions that do not fit.
        """
        try:
            found = read_safetensors(path)
        except (OSError, DataError) as error:
            raise DataError(f"{path} is no file of directions: {error}") from error
        wanted = {"vectors": (torch.float32, 2), "scales": (torch.float32, 1), "layers": (torch.int64, 1)}
        for name, (dtype, axes) in wanted.items():
            if name not in found or (found[name].dtype, found[name].dim()) != (dtype, axes):
                raise DataError(f"{path} is no file of directions: it has no {name} as fastgan edit --save writes them")
        vectors, scales = found["vectors"], found["scales"]
        if (
            len(vectors) != len(scales)
            or not len(vectors)
            or not (vectors.isfinite().all() and scales.isfinite().all())
        ):
            raise DataError(f"{path} is no file of directions: its vectors {[*vectors.shape]} or scales are not usable")
        network = require_styles(generator)
        if vectors.shape[1] != network.w_dim:
            raise UsageError(
                f"directions: {path} is of a generator whose w has {vectors.shape[1]} numbers, this one's has"
                f" {network.w_dim}"
            )
        chosen = tuple(layers_of(network, found["layers"].tolist()))
        about = bytes(found.get("about", torch.zeros(0, dtype=torch.uint8)).tolist()).decode(errors="replace")
        return cls(vectors, scales, chosen, about[:200])

    def moved(self, w: Tensor, number: int, strengths: Sequence[float]) -> Tensor:
        """w [S, num_ws, w_dim]: one w [1, num_ws, w_dim] moved along a direction by each strength.

        Raises UsageError for a number of a direction that is not there, and for several w.
        """
        if not 0 <= number < len(self.vectors):
            raise UsageError(f"direction: expected a number from 0 to {len(self.vectors) - 1}, got {number}")
        if len(w) != 1:
            raise UsageError(f"w: expected one, [1, num_ws, w_dim], got {[*w.shape]}")
        amounts = torch.tensor(strengths, dtype=w.dtype, device=w.device)
        step = (self.vectors[number] * self.scales[number]).to(w)
        result = w.repeat(len(amounts), 1, 1)
        result[:, list(self.layers)] += amounts[:, None, None] * step
        return result


@torch.no_grad()
def factorization(generator: nn.Module, layers: Sequence[int] | None = None, count: int = 10) -> Directions:
    """The directions by which the styles of some layers change most: the eigenvectors of AᵀA, where A stacks the
    weights of their affine layers (closed-form factorization, Shen and Zhou 2021, arXiv:2007.06600).

    No image is computed. Strength 1 is a change of w by the standard deviation of w, measured over 1,000 seeds.
    """
    network = require_styles(generator)
    chosen = layers_of(network, layers)
    affine = _affine_weights(network)
    stacked = torch.cat([affine[i] for i in chosen])
    _, vectors = torch.linalg.eigh(stacked.T @ stacked)
    vectors = _oriented(vectors.flip(1).T[: _at_most(count, network.w_dim)])
    std = (_sampled(network, 1000) @ vectors.T).std(0)
    return Directions(vectors.float(), std.float(), tuple(chosen), "factorization of the style layers")


@torch.no_grad()
def principal_components(
    generator: nn.Module, layers: Sequence[int] | None = None, count: int = 10, samples: int = 10_000
) -> Directions:
    """The principal components of w over `samples` seeds (GANSpace, Härkönen et al. 2020, arXiv:2004.02546).

    Strength 1 is one standard deviation along the component.
    """
    network = require_styles(generator)
    if samples < 2:
        raise UsageError(f"samples: expected a number >= 2, got {samples}")
    w = _sampled(network, samples)
    values, vectors = torch.linalg.eigh(torch.cov(w.T))
    kept = _at_most(count, network.w_dim)
    scales = values.flip(0)[:kept].clamp(min=0).sqrt()
    vectors = _oriented(vectors.flip(1).T[:kept])
    about = f"principal components of {samples} w"
    return Directions(vectors.float(), scales.float(), tuple(layers_of(network, layers)), about)


@torch.no_grad()
def from_examples(
    generator: nn.Module, positive: Tensor, negative: Tensor, layers: Sequence[int] | None = None
) -> Directions:
    """The difference of the means of two groups of examples, w [N, num_ws, w_dim] each, over the chosen layers.

    Strength 1 is the whole difference: it moves the mean of the negative examples to that of the positive ones.
    """
    network = require_styles(generator)
    for name, group in (("positive", positive), ("negative", negative)):
        require_w(group, network, name)
        if not len(group):
            raise UsageError(f"{name}: expected at least one example, got none")
    chosen = layers_of(network, layers)
    difference = (positive[:, chosen].double().mean((0, 1)) - negative[:, chosen].double().mean((0, 1))).cpu()
    length = difference.norm()
    if not length > 0:
        raise UsageError("positive: the examples have the mean of the negative ones, so no direction separates them")
    about = f"mean of {len(positive)} examples minus that of {len(negative)}"
    return Directions((difference / length)[None].float(), length[None].float(), tuple(chosen), about)


def _affine_weights(network: Any) -> list[Tensor]:
    """The weights [styles, w_dim] of the style layers, in the order of w's layers.

    StyleGAN2's layer to RGB takes the w of the next block's first convolution, so that only the last one counts.
    """
    named = [(name, layer) for name, layer in network.synthesis.named_modules() if name.endswith("affine")]
    affine = [layer for i, (name, layer) in enumerate(named) if "torgb" not in name or i == len(named) - 1]
    if len(affine) != network.num_ws:
        raise UsageError(
            f"generator: expected a synthesis with one layer named affine for each of {network.num_ws} styles, got"
            f" {len(affine)}; take principal components, or directions that were saved"
        )
    return [layer.weight.detach().double().cpu() for layer in affine]


def _sampled(network: Any, count: int) -> Tensor:
    """w float64 [count, w_dim] of the seeds from 0."""
    return w_of_seeds(network, range(count))[:, 0].double().cpu()


def _at_most(count: int, width: int) -> int:
    if count < 1:
        raise UsageError(f"count: expected a number >= 1, got {count}")
    return min(count, width)


def _oriented(vectors: Tensor) -> Tensor:
    """With the largest entry of each positive: eigenvectors have no sign of their own."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * largest.sign()
