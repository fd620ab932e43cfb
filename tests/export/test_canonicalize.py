import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan import models
from fastgan.export.canonicalize import canonicalize
from fastgan.nn import ConvBlock, fold


def trained(network, *shape):
    """Folded, with statistics and scales that differ from the initial ones, so that a wrong merge is seen."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    x = torch.randn(*shape)
    for _ in range(3):
        network(x)
    return fold(network).requires_grad_(False), x


def norms(network):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


def same(network, rewritten, x):
    expected, got = (copy.deepcopy(n).double()(x.double()) for n in (network, rewritten))
    # Merged weights are rounded once to float32.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2, bias=False),
                       nn.BatchNorm2d(4)), (4, 3, 8, 8)),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6, affine=False)), (4, 3, 8, 8)),
        (nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh()), (4, 5)),
        (nn.Sequential(nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6)), (4, 5, 9)),
        (models.build("dcgan", resolution=28, channels=1, latent=8, width=4)[0], (4, 8)),
        (models.build("mlp", resolution=8, channels=1, latent=8, width=4)[0], (4, 8)),
        (models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="batch")[1], (4, 1, 28, 28)),
        (fastgan.fuse(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.LeakyReLU(0.2))), (4, 3, 8, 8)),
    ],
)  # fmt: skip
def test_batch_norms_are_merged_and_nothing_changes(network, shape):
    folded, x = trained(network, *shape)
    assert norms(folded)
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    rewritten = canonicalize(folded, x)
    assert norms(rewritten) == 0
    same(folded, rewritten, x)
    assert norms(folded)
    torch.testing.assert_close(folded.state_dict(), before, rtol=0, atol=0)


class Tapped(nn.Module):
    """A convolution whose output is also used before its norm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x):
        return self.body(x) + self.body[0](x)


class ReadsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ConvBlock(3, 3, 3, padding=1, norm="batch")

    def forward(self, x):
        return self.block(x) * self.block.norm.weight[0]


class Doubled(ConvBlock):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return network


def shared():
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm)


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (Tapped(), 1),
        (ReadsNorm(), 1),
        (Doubled(3, 3, 3, norm="batch"), 1),
        (hooked(), 1),
        (shared(), 1),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)), 1),
        (nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Linear(4, 4), nn.BatchNorm1d(4)), 1),  # norm over the axis before
    ],
)
def test_norms_that_cannot_be_merged_stay(network, left):
    shape = (4, 16) if isinstance(network, nn.Sequential) and isinstance(network[0], nn.Unflatten) else (4, 3, 8, 8)
    if isinstance(network, nn.Sequential) and isinstance(network[0], nn.ConvTranspose2d):
        shape = (4, 4, 8, 8)
    folded, x = trained(network, *shape)
    rewritten = canonicalize(folded, x)
    assert norms(rewritten) == left
    same(folded, rewritten, x)


def test_fused_networks_become_standard_modules():
    """fastgan's operations would hide bias and activation from the runtime's optimizer."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.2))
    folded, x = trained(fastgan.fuse(network), 2, 3, 8, 8)
    assert type(folded) is not nn.Sequential
    rewritten = canonicalize(folded, x)
    assert [type(module) for module in rewritten.modules()][:3] == [nn.Sequential, nn.Conv2d, nn.LeakyReLU]
    same(folded, rewritten, x)
