"""Networks run in channels_last where they can, and resume in it bit for bit."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import Config, Trainer, models
from fastgan.testing.batches import Resumable


class Viewing(nn.Module):
    """Flattens as much public code does, which channels_last forbids."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 4, 2, 1), nn.Linear(6 * 16, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x.view(len(x), -1))


class Named(nn.ConvTranspose2d):
    """Called by the name of its argument."""

    def __call__(self, x):
        return super().__call__(input=x)


def generator():
    layers = [nn.Unflatten(1, (4, 1, 1)), Named(4, 6, 4), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, 2)]
    return nn.Sequential(*layers)


def discriminator():
    return nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(6 * 16, 1))


class Batches(Resumable):
    def batch(self, source):
        return torch.rand(5, 3, 8, 8, generator=source)


def trained(network, out=None, steps=4, resume=False):
    torch.manual_seed(0)
    config = Config.from_flags(steps=steps, batch=5, log_every=2, checkpoint_every=2, sample_every=100, compile="off", lr_d=0.01)
    trainer = Trainer(generator(), network(), "non-saturating", config, latent_shape=(4,), out=out)
    trainer.fit(Batches(), resume=resume)
    return trainer


def weights(trainer):
    return [p.detach().contiguous() for n in (trainer.generator, trainer.discriminator) for p in n.parameters()]


def test_convolutions_run_in_channels_last():
    trainer = trained(discriminator)
    assert trainer.discriminator[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.state.batch["real"].is_contiguous(memory_format=torch.channels_last)


def test_a_latent_s_projection_stays_contiguous():
    """Its gradient has the strides that PyTorch's compiler expects only so, on a GPU."""
    trainer = trained(discriminator)
    latent, image = trainer.generator[1].weight, trainer.generator[3].weight
    assert latent.is_contiguous()
    assert not latent.is_contiguous(memory_format=torch.channels_last)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_stays_as_it_was():
    trainer = trained(Viewing)
    assert trainer.discriminator.conv.weight.is_contiguous()
    assert trainer.state.batch["real"].is_contiguous()


def test_resumed_equals_never_stopped_bit_for_bit(tmp_path):
    whole = trained(discriminator, tmp_path / "whole")
    trained(discriminator, tmp_path / "run", steps=2)
    resumed = trained(discriminator, tmp_path / "run", resume=True)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)


class Seen(TorchDispatchMode):
    """Shapes of the feature maps that operations return in another format than channels_last."""

    def __init__(self):
        super().__init__()
        self.other, self.maps = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, list | tuple) else [result]:
            if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[1] > 1 and x.shape[2] > 4:
                self.maps += 1
                if not x.is_contiguous(memory_format=torch.channels_last):
                    self.other.append((str(func), tuple(x.shape)))
        return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["dcgan", "r3gan"])
def test_nothing_leaves_the_format(name, channels):
    """Images of one channel and 1×1 kernels are in both formats: they must not lead out of it, copy by copy."""
    pair = models.build(name, resolution=16, channels=channels, latent=8, width=16)
    config = Config.from_flags(batch=4, steps=1, latent=8, compile="off", r1_weight=1.0)
    trainer = Trainer(*pair, "non-saturating", config)
    images = torch.rand(4, channels, 16, 16)
    trainer.fit(iter(lambda: images, None))
    with Seen() as seen:
        fake = trainer.generator(torch.randn(4, 8))
        trainer.discriminator(fake).sum().backward()
    assert seen.maps > 10
    # A 1×1 kernel on one channel has no strides to tell by: what it returns is turned round, once.
    assert len(seen.other) == (name == "r3gan" and channels == 1)
