"""Small networks in the styles of public code, for tests of `fuse`."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm


def dcgan(norm=nn.BatchNorm2d, last=nn.Sigmoid):
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4, 6, 4, 2, 1, bias=False),
        norm(6),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 1, 4, 1, 0, bias=False),
        last(),
    )


def plain_discriminator():
    """One stack of convolution blocks, and a head."""
    layers = []
    for i in range(3):
        layers += [nn.Conv2d(4 if i else 3, 4, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.1), nn.Linear(8, 1))


class PreActivationBlock(nn.Module):
    """With inplace=True the skip sees relu(x), which is what a trained network of this kind expects."""

    def __init__(self, channels, out, inplace):
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReLU(inplace),
            nn.Conv2d(channels, out, 3, padding=1),
            nn.ReLU(inplace),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x):
        return F.avg_pool2d(self.residual(x) + self.shortcut(x), 2)


class ResNetDiscriminator(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(PreActivationBlock(4, 6, inplace), PreActivationBlock(6, 4, inplace))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        x = self.blocks(self.first(x))
        return self.head(F.relu(x).sum((2, 3)))


class TorchvisionBlock(nn.Module):
    """Convolution, norm and in-place activation as separate statements; the skip connection is added in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out += identity
        out = self.relu(out)
        return out


class Functional(nn.Module):
    slope = 0.2

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 4, 2, 1)
        self.conv2 = nn.Conv2d(4, 6, 4, 2, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.fc1, self.fc2 = nn.Linear(6 * 16, 5), nn.Linear(5, 1)

    def forward(self, x, *, scale=1.0):
        x = F.leaky_relu(self.conv1(x), negative_slope=self.slope)
        x = self.conv2(x)
        x = F.leaky_relu(x, 0.2, inplace=True)
        x = self.norm(x).relu()
        x = torch.tanh(self.fc1(x.flatten(1)))
        return torch.sigmoid(self.fc2(x)) * scale


class SharedActivation(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        self.act = act or nn.LeakyReLU(0.2)
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)])
        self.fc, self.head = nn.Linear(4 * 16, 6), nn.Linear(6, 1)

    def forward(self, x):
        for conv in self.convs:
            x = self.act(conv(x))
        x = self.act(self.fc(x.flatten(1)))
        return self.head(x)


def actvn(x):
    return F.leaky_relu(x, 2e-1)


class HelperFunction(nn.Module):
    """The activation in a function of the file, and the features in a method."""

    def __init__(self):
        super().__init__()
        self.conv_img, self.conv_0 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 1)

    def features(self, x):
        x = F.relu(self.conv_img(x))
        return x + 0.1 * self.conv_0(actvn(x))

    def forward(self, x):
        return self.fc(actvn(self.features(x)).mean((2, 3)))


class Audio(nn.Module):
    """Line by line, collecting what a feature-matching loss looks at."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(1, 4, 5, 2, 2), nn.Conv1d(4, 6, 5, 2, 2, groups=2)])
        self.up = nn.ConvTranspose1d(6, 4, 4, 2, 1)
        self.post = nn.Conv1d(4, 1, 3, 1, 1)

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = conv(x)
            x = F.leaky_relu(x, 0.1)
            maps.append(x)
        return self.post(F.silu(self.up(x))).flatten(1) + sum(m.mean() for m in maps)


class PixelDiscriminator(nn.Sequential):
    """A subclass of nn.Sequential without a forward of its own."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 1, 1))


def generator():
    return nn.Sequential(
        nn.ConvTranspose2d(5, 6, 4, 1, 0, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(True),
        nn.ConvTranspose2d(6, 4, 4, 2, 1),
        nn.SiLU(),
        nn.ConvTranspose2d(4, 3, 4, 2, 1),
        nn.Tanh(),
    )


def normalized(norm):
    """With a spectral norm on each layer."""
    return nn.Sequential(
        norm(nn.Conv2d(3, 4, 4, 2, 1)),
        nn.LeakyReLU(0.1, inplace=True),
        norm(nn.Conv2d(4, 4, 4, 2, 1)),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Flatten(),
        norm(nn.Linear(64, 1)),
    )


IMAGE, LINE, LATENT = (2, 3, 16, 16), (2, 1, 20), (2, 5, 1, 1)

#: name → (how it is made, the shape of its input).
NETWORKS = {
    "dcgan": (dcgan, IMAGE),
    "patchgan": (lambda: dcgan(nn.InstanceNorm2d, nn.Identity), IMAGE),
    "plain_discriminator": (plain_discriminator, IMAGE),
    "resnet": (ResNetDiscriminator, IMAGE),
    "resnet_inplace": (lambda: ResNetDiscriminator(inplace=True), IMAGE),
    "torchvision_block": (TorchvisionBlock, IMAGE),
    "functional": (Functional, IMAGE),
    "shared_activation": (SharedActivation, IMAGE),
    "shared_inplace": (lambda: SharedActivation(nn.LeakyReLU(0.2, inplace=True)), IMAGE),
    "function_attribute": (lambda: SharedActivation(F.relu), IMAGE),
    "helper_function": (HelperFunction, IMAGE),
    "audio": (Audio, LINE),
    "pixel": (PixelDiscriminator, IMAGE),
    "generator": (generator, LATENT),
    "spectral_parametrized": (lambda: normalized(parametrizations.spectral_norm), IMAGE),
    "spectral_hook": (lambda: normalized(old_spectral_norm), IMAGE),
}


def make(name, dtype=torch.float64):
    """The network of that name with random norms, and an input for it."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build().to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network, torch.randn(shape, dtype=dtype)
