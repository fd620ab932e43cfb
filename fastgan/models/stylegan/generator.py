"""What the StyleGAN generators have in common: a mapping network and a synthesis network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan.models.stylegan.mapping import Mapping

NOISE_MODES = ("random", "const", "none")


class StyleGenerator(nn.Module):
    """z [N, z_dim], and labels c int64 [N] or rows [N, c_dim] where c_dim > 0, → images [N, img_channels, R, R].

    The arguments are the original's; those of the layers, `synthesis_kwargs`, are in the synthesis network of each. The
    images are in about [-1, 1] and may exceed it. `mapping` and `synthesis` are the two halves, `num_ws` the rows of w
    between them. Raises UsageError for sizes and options without an implementation.
    """

    #: Makes the synthesis network, from (w_dim, img_resolution, img_channels, **synthesis_kwargs).
    synthesis_class: type[nn.Module]
    mapping_class: type[Mapping] = Mapping
    #: Layers of the mapping network where mapping_kwargs do not say.
    mapping_layers = 8

    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, img_resolution: int, img_channels: int,
        mapping_kwargs: dict[str, Any] | None = None, **synthesis_kwargs: Any,
    ):  # fmt: skip
        super().__init__()
        #: Of the constructor: weights alone do not show all of them, and files keep both.
        self.arguments: dict[str, Any] = {
            "z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, "img_resolution": img_resolution,
            "img_channels": img_channels, "mapping_kwargs": mapping_kwargs or {}, **synthesis_kwargs,
        }  # fmt: skip
        self.latent = self.z_dim = z_dim
        self.classes = self.c_dim = c_dim
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.synthesis = self.synthesis_class(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws: int = self.synthesis.num_ws  # type: ignore[assignment]
        options = {"num_layers": self.mapping_layers, **(mapping_kwargs or {})}
        self.mapping = self.mapping_class(z_dim, c_dim, w_dim, self.num_ws, **options)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the images."""
        return (self.img_channels, self.img_resolution, self.img_resolution)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float | Tensor = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
    ) -> Tensor:
        """truncation_psi, truncation_cutoff: see `Mapping.forward`. noise_mode: see StyleGAN2's `Synthesis.forward`;
        StyleGAN3 adds no noise."""
        w = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        images: Tensor = self.synthesis(w, noise_mode=noise_mode)
        return images
