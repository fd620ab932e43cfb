"""Networks of HiFiC (Mentzer et al. 2020, arXiv:2006.09965), of any width: compression against a discriminator."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.autoencoder.base import Autoencoder, Reconstruction
from fastgan.models.autoencoder.entropy import FactorizedPrior, gaussian_bits, rounded, split
from fastgan.nn import spectral_norm

#: Channels of latents that the discriminator sees, and the most feature maps.
_SEEN, _MOST = 12, 16


class ChannelNorm(nn.Module):
    """[N, C, H, W]: mean 0 and variance 1 over the channels of each position, scaled and shifted (appendix A.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, 1, correction=0, keepdim=True)
        normed = (wide - mean) * torch.rsqrt(variance + 1e-3)
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class ResidualBlock(nn.Module):
    """[N, C, H, W] → x + (convolution, norm, ReLU, convolution, norm)."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), ChannelNorm(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), ChannelNorm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Compressor(Autoencoder):
    """Images → whole numbers, whose probabilities a hyperprior predicts → images.

    latent: channels of the latents (220 in the paper). width: feature maps at the full resolution (60), doubled at each
    of the `halvings` (4). blocks: residual blocks of the decoder (9). hyper: feature maps of the hyperprior (320).
    `reconstruct` takes uniform noise in [−½, ½), [N, *noise_shape], by which the rate is estimated in training, and
    rounds without it; its loss is the rate in bits per pixel. The number of bits is what an ideal entropy coder takes:
    no bit stream is written.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 32,
        width: int = 16,
        halvings: int = 3,
        blocks: int = 3,
        hyper: int = 32,
    ):
        super().__init__(channels, latent, 1 << max(halvings, 1))
        for name, value in (("width", width), ("halvings", halvings), ("blocks", blocks), ("hyper", hyper)):
            if value < 1:
                raise UsageError(f"{name}: expected a number >= 1, got {value}")
        self.hyper = hyper
        widths = [width << i for i in range(halvings + 1)]
        down: list[nn.Module] = [nn.Conv2d(channels, width, 7, padding=3), ChannelNorm(width), nn.ReLU()]
        for before, after in pairwise(widths):
            down += [nn.Conv2d(before, after, 3, 2, 1), ChannelNorm(after), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent, 3, padding=1))
        up: list[nn.Module] = [
            ChannelNorm(latent),
            nn.Conv2d(latent, widths[-1], 3, padding=1),
            ChannelNorm(widths[-1]),
        ]
        up += [ResidualBlock(widths[-1]) for _ in range(blocks)]
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1), ChannelNorm(after), nn.ReLU()]
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, channels, 7, padding=3))
        self.hyper_encoder = nn.Sequential(
            nn.Conv2d(latent, hyper, 3, padding=1), nn.ReLU(), nn.Conv2d(hyper, hyper, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(hyper, hyper, 5, 2, 2),
        )  # fmt: skip
        self.hyper_decoder = nn.Sequential(
            nn.ConvTranspose2d(hyper, hyper, 5, 2, 2, 1), nn.ReLU(), nn.ConvTranspose2d(hyper, hyper, 5, 2, 2, 1),
            nn.ReLU(), nn.Conv2d(hyper, 2 * latent, 3, padding=1),
        )  # fmt: skip
        self.prior = FactorizedPrior(hyper)

    def encode(self, images: Tensor) -> Tensor:
        y = self.encoder(images)
        mean, _ = self.predicted(self.hyper_encoder(y).round(), y)
        return (y - mean).round() + mean

    def predicted(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of latents of y's shape, from those of the hyperprior."""
        # Sides that 4 does not divide are rounded up on the way to z.
        mean, deviation = self.hyper_decoder(z)[..., : y.shape[2], : y.shape[3]].chunk(2, 1)
        return mean, F.softplus(deviation)

    def noise_shape(self, shape: torch.Size) -> tuple[int, ...]:
        sides = [side // self.multiple for side in shape[2:]]
        return (self.latent_channels * prod(sides) + self.hyper * prod((side + 3) // 4 for side in sides),)

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        y = self.encoder(images)
        z = self.hyper_encoder(y)
        mean, deviation = self.predicted(rounded(z), y)
        latents = rounded(y - mean) + mean
        # For the rate noise in place of rounding, whose gradient would be that of a step function.
        of_y, of_z = (latents, z.round()) if noise is None else map(torch.add, (y, z), split(noise, y.shape, z.shape))
        wide = torch.float64 if y.dtype == torch.float64 else torch.float32
        with torch.autocast(images.device.type, enabled=False):
            of_latents = gaussian_bits(of_y.to(wide), mean.to(wide), deviation.to(wide)).sum()
            rate = (of_latents + self.prior.bits(of_z.to(wide)).sum()) / (len(images) * prod(images.shape[2:]))
        log = {"bpp": rate, "latent/zero": (latents == mean).to(wide).mean()}
        return Reconstruction(self.decoder(latents), latents, rate, log)


class Discriminator(nn.Module):
    """Images [N, channels, H, W] and their latents [N, latent, H/multiple, W/multiple] → logits [N, 1, h, w].

    layers: halvings of the image, 4 in the paper. All weights have spectral norms.
    """

    auxiliary = False

    def __init__(self, channels: int, latent: int, width: int, layers: int, multiple: int):
        super().__init__()
        self.multiple = multiple
        self.of_latents = nn.Conv2d(latent, _SEEN, 3, padding=1)
        blocks: list[nn.Module] = []
        before = channels + _SEEN
        for i in range(layers):
            after = width * min(1 << i, _MOST)
            blocks += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
            before = after
        self.model = nn.Sequential(*blocks, nn.Conv2d(before, 1, 1))
        spectral_norm(self)

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        seen = F.leaky_relu(self.of_latents(latents), 0.2)
        return self.model(torch.cat([image, F.interpolate(seen, scale_factor=self.multiple).to(image.dtype)], 1))


def build(
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int,
    d_norm: str,
    *,
    halvings: int = 3,
    blocks: int = 3,
    hyper: int = 32,
    d_width: int = 64,
    d_layers: int = 3,
) -> tuple[nn.Module, nn.Module]:
    """A compressor and its discriminator, which sees the latents. The options are those of both classes."""
    if classes:
        raise UsageError(f"classes: a compressor takes no labels, got {classes}; leave condition and classes out")
    if d_norm not in ("none", "spectral"):
        raise UsageError(f"d_norm: the discriminator of hific has spectral norms, got {d_norm!r}; leave it out")
    network = Compressor(channels, latent, width, halvings, blocks, hyper)
    network.check_size(resolution)
    if d_layers < 1 or resolution >> d_layers < 1:
        raise UsageError(f"d_layers: expected halvings of {resolution} pixels, got {d_layers}")
    return network, Discriminator(channels, latent, d_width, d_layers, network.multiple)
