"""An exported pair in the place of a generator with styles, for what needs no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.runtime.pair import StylePair


class ExportedGenerator(nn.Module):
    """mapping(z, c) → w and synthesis(w) → images of a pair of sessions, with the attributes of a generator.

    Its weights cannot be seen, so that there is no factorization, and no inversion.
    """

    def __init__(self, pair: StylePair):
        super().__init__()
        self.pair = pair
        (self.latent,) = pair.spec.latent_shape
        self.num_ws, self.w_dim = pair.mapping.spec.styles
        self.classes = pair.spec.classes
        self.mapping, self.synthesis = _Mapping(pair), _Synthesis(pair)


class _Mapping(nn.Module):
    def __init__(self, pair: StylePair):
        super().__init__()
        self.pair = pair

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        return self.pair.styles(z, c, truncation_psi)


class _Synthesis(nn.Module):
    """noise: maps [R, R] by the names of their buffers in the generator, all of them or none."""

    def __init__(self, pair: StylePair):
        super().__init__()
        self.session = pair.synthesis
        found = pair.synthesis.about.get("noise_maps")
        self.noise_shapes: dict[str, tuple[int, int]] = {}
        if isinstance(found, dict):
            self.noise_shapes = {name: (side, side) for name, side in found.items()}

    def forward(self, w: Tensor, noise: dict[str, Tensor] | None = None) -> Tensor:
        if not noise:
            return self.session(w)
        if missing := [name for name in self.noise_shapes if name not in noise]:
            raise UsageError(f"noise: expected a map for each layer, got none for {missing[0]}")
        given: Any = torch.cat([noise[name].reshape(-1) for name in self.noise_shapes])
        return self.session(w, noise=given.float().repeat(len(w), 1), noise_strength=0.0)
