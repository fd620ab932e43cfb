"""FreezeD: the first blocks of a discriminator stay fixed."""

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.testing.batches import Resumable


class Blocks(nn.Module):
    """Named as StyleGAN's discriminator."""

    def __init__(self):
        super().__init__()
        for name in ("b8", "b16", "b4"):
            self.add_module(name, nn.Conv2d(1, 1, 3, padding=1))

    def forward(self, x):
        return self.b4(self.b8(self.b16(x))).mean((1, 2, 3))


class Batches(Resumable):
    def batch(self, source):
        return torch.rand(4, 1, 16, 16, generator=source) * 2 - 1


def trained(discriminator, count):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 256), nn.Unflatten(1, (1, 16, 16)))
    config = Config.from_flags(batch=4, steps=2, freeze_d=count, compile="off")
    before = {name: value.clone() for name, value in discriminator.named_parameters()}
    t = Trainer(generator, discriminator, "non-saturating", config, latent_shape=(4,))
    t.fit(Batches())
    return {name for name, value in discriminator.named_parameters() if torch.equal(value, before[name])}


def test_the_blocks_of_the_highest_resolutions_stay():
    assert trained(Blocks(), 1) == {"b16.weight", "b16.bias"}
    assert trained(Blocks(), 2) == {"b16.weight", "b16.bias", "b8.weight", "b8.bias"}
    assert not trained(Blocks(), 0)


def test_the_first_blocks_of_a_sequence_stay():
    discriminator = models.build("dcgan", resolution=16, channels=1, latent=4, width=4)[1]
    names = {name for name, _ in discriminator.named_parameters() if name.startswith("blocks.0.")}
    assert trained(discriminator, 1) == names
    assert names


@pytest.mark.parametrize(
    ("discriminator", "count", "got"),
    [
        (Blocks(), 3, r"more than 3 blocks, got Blocks with 3 \(b16, b8, b4\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 1)), 1, "got Sequential with none: no children b4, b8"),
    ],
)
def test_too_few_blocks_are_refused(discriminator, count, got):
    with pytest.raises(UsageError, match=got):
        trained(discriminator, count)
