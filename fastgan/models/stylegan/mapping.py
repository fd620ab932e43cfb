"""The mapping network: from latents z, and labels, to intermediate latents w (Karras et al. 2019, arXiv:1812.04948).

With labels as in Karras et al. 2020 (arXiv:2006.06676): an embedding of the label is concatenated to z, both
normalized. The discriminator has one without z, whose output is projected on its features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.models.stylegan.layers import Dense, check_condition, check_options, condition_of
from fastgan.nn import PixelNorm
from fastgan.nn.moving_averages import MovingAverages


class Mapping(MovingAverages):
    """z [N, z_dim], and labels c where c_dim > 0, → w [N, num_ws, w_dim], or [N, w_dim] where num_ws is None.

    w_avg_beta: decay of `w_avg`, the moving average of w, which calls in training mode update (see
    `fastgan.nn.moving_averages`); None for none.
    Raises UsageError for options without an implementation.
    """

    averages = ("w_avg",)
    w_avg: Tensor

    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, num_layers: int = 8,
        embed_features: int | None = None, layer_features: int | None = None, activation: str = "lrelu",
        lr_multiplier: float = 0.01, w_avg_beta: float | None = 0.998,
    ):  # fmt: skip
        super().__init__()
        check_options("StyleGAN's mapping network", {"activation": activation}, {"activation": ["lrelu"]})
        self.z_dim, self.c_dim, self.num_ws, self.w_avg_beta = z_dim, c_dim, num_ws, w_avg_beta
        embedded = (w_dim if embed_features is None else embed_features) if c_dim else 0
        if c_dim:
            self.embed = Dense(c_dim, embedded)
        hidden = w_dim if layer_features is None else layer_features
        sizes = [z_dim + embedded, *[hidden] * (num_layers - 1), w_dim]
        self.layers = [f"fc{i}" for i in range(num_layers)]
        for name, inputs, outputs in zip(self.layers, sizes[:-1], sizes[1:], strict=True):
            self.add_module(name, Dense(inputs, outputs, act="leaky_relu", lr_multiplier=lr_multiplier))
        self.norm = PixelNorm()
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float | Tensor = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """truncation_psi: w is replaced by w_avg + psi · (w − w_avg), in its first truncation_cutoff rows or in all."""
        weight: Tensor = self.get_submodule(self.layers[0]).weight  # type: ignore[assignment]
        check_condition(c, self.c_dim)
        parts = [self.norm(z.to(weight.dtype))] if z is not None and self.z_dim else []
        if self.c_dim:
            parts.append(self.norm(self.embed(condition_of(c, self.c_dim, weight))))
        w = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        for name in self.layers:
            w = self.get_submodule(name)(w)
        if self.w_avg_beta is not None and self.training and self.moves_averages:
            with torch.no_grad():
                self.w_avg.lerp_(w.detach().mean(0), 1 - self.w_avg_beta)
        if self.num_ws is None:
            return w
        rows = w[:, None].expand(-1, self.num_ws, -1)
        if not isinstance(truncation_psi, Tensor) and truncation_psi == 1:
            return rows
        truncated = torch.lerp(self.w_avg, rows, truncation_psi)
        if truncation_cutoff is None:
            return truncated
        return torch.cat([truncated[:, :truncation_cutoff], rows[:, truncation_cutoff:]], 1)
