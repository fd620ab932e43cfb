"""Networks as public code writes them, in plain PyTorch, for fused_networks.py. Widths are those of small trainings."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1


def patchgan(width: int = 64) -> nn.Sequential:
    """pix2pix's discriminator (arXiv:1611.07004) with batch norms."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    channels = width
    for i, stride in ((2, 2), (4, 2), (8, 1)):
        layers += [nn.Conv2d(channels, width * i, 4, stride, 1, bias=False), nn.BatchNorm2d(width * i)]
        layers += [nn.LeakyReLU(0.2, True)]
        channels = width * i
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))


class UNetBlock(nn.Module):
    """A level of pix2pix's U-Net: down, the levels below, up, and the skip connection."""

    def __init__(self, outer: int, inner: int, below: nn.Module | None, outermost: bool = False):
        super().__init__()
        self.outermost = outermost
        inputs = 3 if outermost else outer
        down: list[nn.Module] = [nn.Conv2d(inputs, inner, 4, 2, 1, bias=outermost)]
        if not outermost:
            down = [nn.LeakyReLU(0.2, True), *down, *([nn.BatchNorm2d(inner)] if below is not None else [])]
        channels = inner if below is None else 2 * inner
        up: list[nn.Module] = [nn.ReLU(True), nn.ConvTranspose2d(channels, outer, 4, 2, 1, bias=outermost)]
        up += [nn.Tanh()] if outermost else [nn.BatchNorm2d(outer)]
        self.model = nn.Sequential(*down, *([] if below is None else [below]), *up)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def unet(side: int, width: int = 32) -> nn.Module:
    """pix2pix's generator, down to 2×2."""
    block = UNetBlock(8 * width, 8 * width, None)
    for _ in range(side.bit_length() - 6):
        block = UNetBlock(8 * width, 8 * width, block)
    for i in (4, 2, 1):
        block = UNetBlock(width * i, 2 * width * i, block)
    return UNetBlock(3, width, block, outermost=True)


class StabilityBlock(nn.Module):
    """The residual block of Mescheder et al. (arXiv:1801.04406): leaky ReLUs before the convolutions, as functions."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        hidden = min(channels, out)
        self.conv_0, self.conv_1 = nn.Conv2d(channels, hidden, 3, 1, 1), nn.Conv2d(hidden, out, 3, 1, 1)
        self.conv_s = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv_s is None else self.conv_s(x)
        dx = self.conv_0(F.leaky_relu(x, 0.2))
        dx = self.conv_1(F.leaky_relu(dx, 0.2))
        return shortcut + 0.1 * dx


class StabilityDiscriminator(nn.Module):
    def __init__(self, width: int = 64, side: int = 32):
        super().__init__()
        self.conv_img = nn.Conv2d(3, width, 3, padding=1)
        blocks: list[nn.Module] = [StabilityBlock(width, width)]
        channels = width
        while side > 4:
            blocks += [nn.AvgPool2d(3, 2, 1), StabilityBlock(channels, 2 * channels)]
            channels, side = 2 * channels, side // 2
        self.resnet, self.fc = nn.Sequential(*blocks), nn.Linear(channels * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.resnet(self.conv_img(x))
        return self.fc(F.leaky_relu(out.flatten(1), 0.2))


def stargan_discriminator(width: int = 64, side: int = 64) -> nn.Sequential:
    """StarGAN's discriminator (arXiv:1711.09020) without its label head: strided convolutions with slope 0.01."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.01)]
    while side > 4:
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.01)]
        width, side = 2 * width, side // 2
        if width == 512:
            break
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, 1, 1, bias=False))


class StarganResidual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.InstanceNorm2d(width, affine=True), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.InstanceNorm2d(width, affine=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class StarganGenerator(nn.Module):
    def __init__(self, width: int = 32, blocks: int = 3):
        super().__init__()

        def normed(layer: nn.Module, channels: int) -> list[nn.Module]:
            return [layer, nn.InstanceNorm2d(channels, affine=True), nn.ReLU(inplace=True)]

        layers = normed(nn.Conv2d(3, width, 7, 1, 3, bias=False), width)
        for i in (1, 2):
            layers += normed(nn.Conv2d(i * width, 2 * i * width, 4, 2, 1, bias=False), 2 * i * width)
        layers += [StarganResidual(4 * width) for _ in range(blocks)]
        for i in (4, 2):
            layers += normed(nn.ConvTranspose2d(i * width, i * width // 2, 4, 2, 1, bias=False), i * width // 2)
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN's (arXiv:2010.05646): the waveform as an image, kernels 5×1."""

    def __init__(self, period: int = 3, width: int = 16):
        super().__init__()
        self.period = period
        sizes = [1, width, 4 * width, 8 * width, 16 * width]
        pairs = list(itertools.pairwise(sizes))
        self.convs = nn.ModuleList([
            *(weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0))) for a, b in pairs),
            weight_norm(nn.Conv2d(sizes[-1], sizes[-1], (5, 1), 1, padding=(2, 0))),
        ])  # fmt: skip
        self.conv_post = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[2] % self.period))
        x = x.view(x.shape[0], 1, -1, self.period)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        return self.conv_post(x).flatten(1)


class ScaleDiscriminator(nn.Module):
    """HiFi-GAN's 1-D discriminator with grouped convolutions."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers = [(1, 1, 15, 1, 1), (1, 1, 41, 2, 4), (1, 2, 41, 2, 16), (2, 4, 41, 4, 16), (4, 4, 5, 1, 1)]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(1 if i == 0 else a * width, b * width, k, s, groups=g, padding=k // 2))
            for i, (a, b, k, s, g) in enumerate(layers)
        )
        self.conv_post = weight_norm(nn.Conv1d(4 * width, 1, 3, 1, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        return self.conv_post(x).flatten(1)


class VocoderBlock(nn.Module):
    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.convs1 = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2))
            for d in (1, 3)
        )
        self.convs2 = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2)) for _ in (1, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for c1, c2 in zip(self.convs1, self.convs2, strict=True):
            y = c1(F.leaky_relu(x, SLOPE))
            x = c2(F.leaky_relu(y, SLOPE)) + x
        return x


class VocoderGenerator(nn.Module):
    """HiFi-GAN's generator, of the narrow kind: mel spectrogram [N, 80, L] → waveform [N, 1, 64 L]."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(80, width, 7, 1, padding=3))
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(width >> i, width >> (i + 1), 8, 4, padding=2)) for i in range(3)
        )
        self.blocks = nn.ModuleList(VocoderBlock(width >> (i + 1), k) for i in range(3) for k in (3, 7))
        self.conv_post = weight_norm(nn.Conv1d(width >> 3, 1, 7, 1, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            x = (self.blocks[2 * i](x) + self.blocks[2 * i + 1](x)) / 2
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def mlp() -> nn.Sequential:
    """The discriminator of most first tutorials."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.LeakyReLU(0.2, inplace=True), nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(256, 1),
    )  # fmt: skip


class Tiny(nn.Module):
    """Small convolutions in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 16, 4, 2, 1)
        self.conv3, self.conv4 = nn.Conv2d(16, 32, 4, 2, 1), nn.Conv2d(32, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)
        x = F.leaky_relu(self.conv2(x), 0.2)
        x = F.leaky_relu(self.conv3(x), 0.2)
        return self.conv4(x).flatten(1)
