"""The autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, appendix G) with a KL divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.models.autoencoder.base import Autoencoder, Reconstruction
from fastgan.models.autoencoder.coders import Decoder, Encoder
from fastgan.models.autoencoder.discriminator import decoder_of, patch_discriminator
from fastgan.models.autoencoder.layers import numbers
from fastgan.models.autoencoder.tiny import TinyDecoder

#: Between which the logarithms of variances are clamped.
LOG_VARIANCES = (-30.0, 20.0)


class KLAutoencoder(Autoencoder):
    """The encoder gives means and variances of latents, the decoder images of latents; public state dict names.

    Latents are drawn in training, and are the means else. latent: their channels (`embed_dim`). z_channels: of encoder
    and decoder before and after; None: as many. width, multipliers, blocks, attention: see `coders.Encoder`. decoder:
    "full", or "tiny" with tiny_width channels. freeze: see `Autoencoder`.
    """

    before_latents = ("encoder.", "quant_conv.")

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: Sequence[int] = (),
        z_channels: int | None = None,
        decoder: str = "full",
        tiny_width: int = 64,
        freeze: str = "none",
    ):
        halvings = len(multipliers) - 1
        super().__init__(channels, latent, 1 << halvings, freeze)
        z_channels = z_channels or latent
        self.arguments = {
            "channels": channels, "latent": latent, "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention": list(attention), "z_channels": z_channels,
        }  # fmt: skip
        self.encoder = Encoder(channels, width, multipliers, blocks, attention, 2 * z_channels)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * latent, 1)
        full = Decoder(channels, width, multipliers, blocks, attention, z_channels)
        self.decoder = decoder_of(decoder, full, TinyDecoder(channels, latent, tiny_width, halvings, 3))
        self.post_quant_conv = nn.Conv2d(latent, z_channels, 1) if decoder == "full" else nn.Identity()
        self.frozen()

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances of the latents of images, [N, latent, h, w] each."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def encode(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def hidden(self, latents: Tensor) -> Tensor | None:
        return super().hidden(self.post_quant_conv(latents))

    def noise_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return self.latent_channels, shape[2] // self.multiple, shape[3] // self.multiple

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        mean, log_variance = self.posterior(images)
        z = mean if noise is None else mean + (0.5 * log_variance).exp() * noise.to(mean.dtype)
        # In float32: exponents and squares do not fit into half precision.
        wide = (mean, log_variance) if mean.dtype == torch.float64 else (mean.float(), log_variance.float())
        divergence = 0.5 * (wide[0].square() + wide[1].exp() - 1 - wide[1]).sum() / images.numel()
        deviation = (0.5 * wide[1]).exp().mean()
        log = {"latent/deviation": deviation, "latent/spread": wide[0].square().mean().sqrt()}
        hidden = self.hidden(z)
        image = self.decode(z) if hidden is None else self.finish(hidden)
        return Reconstruction(image, z, divergence, log, hidden=hidden)


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    multipliers: str = "1,2,4",
    blocks: int = 2,
    attention: str = "",
    z_channels: int | None = None,
    decoder: str = "full",
    tiny_width: int = 64,
    freeze: str = "none",
    d_width: int = 64,
    d_layers: int = 2,
) -> tuple[nn.Module, nn.Module]:
    """An autoencoder with a KL divergence and its discriminator of patches.

    latent: channels of the latents. The options are those of `KLAutoencoder`, with commas in the texts `multipliers`
    and `attention`, and d_width, d_layers: width and halvings of the discriminator.
    """
    network = KLAutoencoder(
        channels, latent, width, numbers(multipliers, "multipliers"), blocks, numbers(attention, "attention"),
        z_channels, decoder, tiny_width, freeze,
    )  # fmt: skip
    network.check_size(resolution)
    return network, patch_discriminator(channels, resolution, d_width, d_layers, d_norm, classes)
