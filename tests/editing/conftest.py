import pytest
import torch
from torch import Tensor, nn


class Mapping(nn.Module):
    def __init__(self, latent: int, w_dim: int, num_ws: int, classes: int = 0):
        super().__init__()
        self.num_ws = num_ws
        self.layers = nn.Sequential(nn.Linear(latent, w_dim), nn.LeakyReLU(0.2), nn.Linear(w_dim, w_dim))
        self.embed = nn.Linear(classes, latent) if classes else None

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        if self.embed is not None:
            z = z + self.embed.weight.T[c]
        mean = self.layers(torch.zeros_like(z[:1]))
        w = torch.lerp(mean, self.layers(z), truncation_psi)
        return w[:, None].repeat(1, self.num_ws, 1)


class Layer(nn.Module):
    def __init__(self, w_dim: int, channels: int, side: int):
        super().__init__()
        self.affine = nn.Linear(w_dim, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.noise_strength = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("noise_const", torch.randn(side, side))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        x = self.conv(x * (1 + self.affine(w))[:, :, None, None])
        if noise_mode == "const":
            x = x + self.noise_strength * self.noise_const
        return nn.functional.leaky_relu(x, 0.2)


class Synthesis(nn.Module):
    def __init__(self, w_dim: int, channels: int):
        super().__init__()
        self.const = nn.Parameter(torch.randn(8, 8, 8))
        self.first, self.second, self.third = Layer(w_dim, 8, 8), Layer(w_dim, 8, 16), Layer(w_dim, 8, 16)
        self.out = nn.Conv2d(8, channels, 1)

    def forward(self, w: Tensor, noise_mode: str = "random") -> Tensor:
        x = self.const.expand(len(w), -1, -1, -1)
        x = self.first(x, w[:, 0], noise_mode)
        x = nn.functional.interpolate(x, scale_factor=2)
        x = self.third(self.second(x, w[:, 1], noise_mode), w[:, 2], noise_mode)
        return torch.tanh(self.out(x))


class Tiny(nn.Module):
    """A generator with three styles, images [N, C, 16, 16]."""

    def __init__(self, channels: int = 3, classes: int = 0):
        super().__init__()
        self.latent, self.w_dim, self.num_ws, self.classes = 6, 5, 3, classes
        self.image_shape = (channels, 16, 16)
        self.mapping = Mapping(6, 5, 3, classes)
        self.synthesis = Synthesis(5, channels)

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny().eval().requires_grad_(False)


@pytest.fixture
def conditional():
    torch.manual_seed(0)
    return Tiny(classes=3).eval().requires_grad_(False)
