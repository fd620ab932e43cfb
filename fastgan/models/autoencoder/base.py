"""What all autoencoders have in common: encode, decode, one pass for training, and their halves for exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError

FREEZE = ("none", "encoder")


class Reconstruction(NamedTuple):
    """One pass for training.

    image: [N, C, H, W]. latents: what the decoder got, [N, latent, h, w]. loss: the autoencoder's own loss on its
    latents, a scalar: codebook loss, KL divergence per value of the image, or bits per pixel. log: scalars to log.
    outputs: for `after_update`. hidden: what the last convolution made the image of, of autoencoders with `splits`.
    """

    image: Tensor
    latents: Tensor
    loss: Tensor
    log: dict[str, Tensor] = {}  # noqa: RUF012 (never changed)
    outputs: dict[str, Tensor] = {}  # noqa: RUF012
    hidden: Tensor | None = None


class Autoencoder(nn.Module):
    """Images [N, channels, H, W] in [-1, 1] → their reconstructions; H and W are multiples of `multiple`.

    latent: channels of the latents [N, latent, H/multiple, W/multiple]. freeze: "encoder" leaves all weights before the
    latents as they are: they come from the run or file of `--init-from`.
    """

    scale = 1
    range = (-1.0, 1.0)
    encoder: nn.Module
    decoder: nn.Module
    #: The beginnings of the names of all weights before the latents.
    before_latents: tuple[str, ...] = ("encoder.",)

    def __init__(self, channels: int, latent: int, multiple: int, freeze: str = "none"):
        super().__init__()
        if latent < 1:
            raise UsageError(f"latent: expected a number >= 1, got {latent}")
        if freeze not in FREEZE:
            raise UsageError(f"freeze: expected one of {', '.join(FREEZE)}, got {freeze!r}")
        self.channels = self.out_channels = channels
        self.latent_channels, self.multiple, self.freeze = latent, multiple, freeze

    def frozen(self) -> None:
        """Freeze what `freeze` says; called once all layers are there."""
        if self.freeze == "encoder":
            for name, weight in self.named_parameters():
                if name.startswith(self.before_latents):
                    weight.requires_grad_(False)

    @property
    def init_from(self) -> tuple[str, ...]:
        """The beginnings of the names of the weights that a run must begin with; none where it may begin anew."""
        return self.before_latents if self.freeze == "encoder" else ()

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images, the same each time."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, channels, H, W] of latents [N, latent, H/multiple, W/multiple]."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    @property
    def splits(self) -> bool:
        """Whether `hidden` and `finish` are the decoder in two parts."""
        return hasattr(self.decoder, "hidden")

    def hidden(self, latents: Tensor) -> Tensor | None:
        """What the last convolution makes images of, for latents; None where the decoder cannot be split."""
        return self.decoder.hidden(latents) if self.splits else None  # type: ignore[operator]

    def finish(self, hidden: Tensor) -> Tensor:
        """The last convolution: images [N, channels, H, W] of `hidden`."""
        return self.decoder.conv_out(hidden)  # type: ignore[operator]

    def noise_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape of one image's noise in `reconstruct`, for images of a shape [N, C, H, W]; () for none."""
        return ()

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Latents and images for training. noise: [N, *noise_shape], N(0, 1); None for what `forward` computes."""
        latents = self.encode(images)
        return Reconstruction(self.decode(latents), latents, latents.new_zeros((), dtype=torch.float32))

    def after_update(self, outputs: Mapping[str, Tensor]) -> None:
        """What changes beside the gradient's step. outputs: of `reconstruct`, averaged over batches and ranks."""

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, by whose gradients losses of the image are balanced."""
        return [weight for weight in self.decoder.parameters() if weight.dim() == 4][-1]

    def parts(self) -> dict[str, nn.Module]:
        """Both halves by name, for exports: "encoder" from images to latents, "decoder" from latents to images."""
        return {"encoder": EncoderPart(self), "decoder": DecoderPart(self)}

    def check_size(self, resolution: int) -> None:
        """Raise UsageError for images that the levels do not divide."""
        if resolution % self.multiple:
            raise UsageError(
                f"resolution: expected a multiple of {self.multiple}, as the images are halved"
                f" {self.multiple.bit_length() - 1} times, got {resolution}"
            )


class EncoderPart(nn.Module):
    """Images [N, C, H, W] in [-1, 1] → latents [N, latent, H/multiple, W/multiple]."""

    def __init__(self, whole: Autoencoder):
        super().__init__()
        self.whole = whole

    @property
    def spec(self) -> None:
        """Raises UsageError: exported files describe networks that keep the size of images, or enlarge it."""
        raise UsageError(
            "network: an encoder's latents are smaller than its images, and exported files know networks that keep the"
            " size or enlarge it; export RUN:decoder or the whole RUN, and call encode() of the network in Python"
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.whole.encode(images)


class DecoderPart(nn.Module):
    """Latents [N, channels, h, w] → images [N, out_channels, scale·h, scale·w] in [-1, 1]."""

    range = (-1.0, 1.0)

    def __init__(self, whole: Autoencoder):
        super().__init__()
        self.whole = whole
        self.channels, self.out_channels, self.scale = whole.latent_channels, whole.out_channels, whole.multiple

    def forward(self, latents: Tensor) -> Tensor:
        return self.whole.decode(latents)
