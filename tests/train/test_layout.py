"""Networks run in channels_last where they can, and resume in it bit for bit."""

import torch
from torch import nn

from fastgan import Config, Trainer


class Viewing(nn.Module):
    """Flattens as much public code does, which channels_last forbids."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 4, 2, 1), nn.Linear(6 * 16, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x.view(len(x), -1))


def generator():
    layers = [nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 6, 4), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, 2)]
    return nn.Sequential(*layers)


def critic():
    return nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(6 * 16, 1))


class Batches:
    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(self.at))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def trained(network, out=None, steps=4, resume=False):
    torch.manual_seed(0)
    config = Config(steps=steps, batch=5, log_every=2, checkpoint_every=2, sample_every=100, compile="off", lr_d=0.01)
    trainer = Trainer(generator(), network(), "non-saturating", config, latent_shape=(4,), out=out)
    trainer.fit(Batches(), resume=resume)
    return trainer


def weights(trainer):
    return [p.detach().contiguous() for n in (trainer.generator, trainer.discriminator) for p in n.parameters()]


def test_convolutions_run_in_channels_last():
    trainer = trained(critic)
    assert trainer.discriminator[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.seen["real"].is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_stays_as_it_was():
    trainer = trained(Viewing)
    assert trainer.discriminator.conv.weight.is_contiguous()
    assert trainer.seen["real"].is_contiguous()


def test_resumed_equals_never_stopped_bit_for_bit(tmp_path):
    whole = trained(critic, tmp_path / "whole")
    trained(critic, tmp_path / "run", steps=2)
    resumed = trained(critic, tmp_path / "run", resume=True)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)
