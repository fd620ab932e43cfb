"""VQGAN (Esser et al. 2021, arXiv:2012.09841): an autoencoder whose latents are the codes of a codebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fastgan.models.autoencoder.base import Autoencoder, Reconstruction
from fastgan.models.autoencoder.coders import Decoder, Encoder
from fastgan.models.autoencoder.discriminator import decoder_of, patch_discriminator
from fastgan.models.autoencoder.layers import numbers
from fastgan.models.autoencoder.quantizer import VectorQuantizer
from fastgan.models.autoencoder.tiny import TinyDecoder


class VQGAN(Autoencoder):
    """Encoder, codebook and decoder, with the state dict names of taming-transformers.

    latent: size of a code (`embed_dim`). z_channels: of encoder and decoder before and after; None: as many as latent.
    codes: in the codebook. width, multipliers, blocks, attention: see `coders.Encoder`. beta, codebook, decay, restart:
    see `quantizer.VectorQuantizer`. decoder: "full", or "tiny" with tiny_width channels. freeze: see `Autoencoder`.
    """

    before_latents = ("encoder.", "quant_conv.", "quantize.")

    def __init__(
        self,
        channels: int = 3,
        latent: int = 256,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Sequence[int] = (4,),
        z_channels: int | None = None,
        codes: int = 1024,
        beta: float = 0.25,
        codebook: str = "gradient",
        decay: float = 0.99,
        restart: float = 0.0,
        decoder: str = "full",
        tiny_width: int = 64,
        freeze: str = "none",
    ):
        halvings = len(multipliers) - 1
        super().__init__(channels, latent, 1 << halvings, freeze)
        z_channels = z_channels or latent
        self.arguments = {
            "channels": channels, "latent": latent, "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention": list(attention), "z_channels": z_channels, "codes": codes, "beta": beta, "codebook": codebook,
            "decay": decay, "restart": restart,
        }  # fmt: skip
        self.encoder = Encoder(channels, width, multipliers, blocks, attention, z_channels)
        self.quant_conv = nn.Conv2d(z_channels, latent, 1)
        self.quantize = VectorQuantizer(codes, latent, beta, codebook, decay, restart)
        full = Decoder(channels, width, multipliers, blocks, attention, z_channels)
        self.decoder = decoder_of(decoder, full, TinyDecoder(channels, latent, tiny_width, halvings, 3))
        self.post_quant_conv = nn.Conv2d(latent, z_channels, 1) if decoder == "full" else nn.Identity()
        self.frozen()

    def encode(self, images: Tensor) -> Tensor:
        return self.quantize.vectors(self.indices(images))

    def indices(self, images: Tensor) -> Tensor:
        """The numbers of the codes of images: int64 [N, h, w]."""
        return self.quantize.nearest(self.quant_conv(self.encoder(images)))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Images of the numbers of codes, int64 [N, h, w]."""
        return self.decode(self.quantize.vectors(indices))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def hidden(self, latents: Tensor) -> Tensor | None:
        return super().hidden(self.post_quant_conv(latents))

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        found = self.quantize(self.quant_conv(self.encoder(images)))
        outputs = {} if self.freeze == "encoder" else found.outputs
        hidden = self.hidden(found.vectors)
        image = self.decode(found.vectors) if hidden is None else self.finish(hidden)
        return Reconstruction(image, found.vectors, found.loss, found.log, outputs, hidden)

    def after_update(self, outputs: Mapping[str, Tensor]) -> None:
        self.quantize.after_update(outputs)


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
    codes: int = 1024,
    beta: float = 0.25,
    codebook: str = "average",
    decay: float = 0.99,
    restart: float = 0.1,
    decoder: str = "full",
    tiny_width: int = 64,
    freeze: str = "none",
    d_width: int = 64,
    d_layers: int = 2,
) -> tuple[nn.Module, nn.Module]:
    """A VQGAN and its discriminator of patches.

    latent: size of a code. The options are those of `VQGAN`, with commas in the texts `multipliers` and `attention`,
    and d_width, d_layers: width and halvings of the discriminator. Raises UsageError for sizes that do not fit.
    """
    network = VQGAN(
        channels, latent, width, numbers(multipliers, "multipliers"), blocks, numbers(attention, "attention"),
        z_channels, codes, beta, codebook, decay, restart if codebook == "average" else 0.0, decoder, tiny_width,
        freeze,
    )  # fmt: skip
    network.check_size(resolution)
    return network, patch_discriminator(channels, resolution, d_width, d_layers, d_norm, classes)
