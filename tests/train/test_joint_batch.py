"""When real and fake images go through the discriminator as one batch, and that finding out leaves the discriminator as it was."""

import re

import pytest
import torch
from torch import nn

from fastgan import Config, models
from fastgan.losses import ADVERSARIAL
from fastgan.nn import MinibatchStdDev
from fastgan.train.prepare import why_not_joint
from fastgan.train.step import Players


class MinibatchStddev(nn.Module):
    """A user's own: the spread over the batch as one more channel."""

    def forward(self, x):
        spread = x.std(0).mean().expand(len(x), 1, *x.shape[2:])
        return torch.cat([x, spread], 1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def discriminator(*inner, widened=0, end=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), *inner, nn.LeakyReLU(0.2), nn.Conv2d(4 + widened, 1, 4), end or nn.Flatten()
    )


REAL = torch.rand(6, 3, 7, 7)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (discriminator(nn.BatchNorm2d(4)), r"1 \(BatchNorm2d\) ties the samples"),
        (discriminator(nn.Dropout(0.5)), r"1 \(Dropout\) ties the samples"),
        (discriminator(nn.Dropout2d(0.5)), r"1 \(Dropout2d\) ties the samples"),
        (discriminator(MinibatchStdDev(2), widened=1), r"1 \(MinibatchStdDev\) ties the samples"),
        (nn.BatchNorm2d(3), r"the discriminator \(BatchNorm2d\) ties"),
        (discriminator(MinibatchStddev(), widened=1), "its logits change by .* when another batch is beside"),
        (discriminator(Noisy()), "its logits change by"),
    ],
)
def test_discriminators_that_tie_samples_together_or_play_dice(network, why):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    assert re.match(why, why_not_together(network, REAL))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.random.get_rng_state(), random)


class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(1).mean(1)


@pytest.mark.parametrize("end", [Mean(), nn.Flatten(), nn.Identity()])
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, None])
def test_discriminators_that_do_not(norm, end):
    """Logits [N], [N, 16] and [N, 1, 4, 4]; a spectral norm moves on with every run, and is put back."""
    network = discriminator(end=end)
    for layer in (network[0], network[2]):
        if norm:
            norm(layer)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert why_not_together(network, REAL) == ""
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("family", ["mlp", "dcgan"])
def test_a_discriminator_that_compares_images_though_it_hardly_shows_yet(family):
    size = {"resolution": 28, "channels": 1, "latent": 8, "width": 8}
    _, network = models.build(family, **size, minibatch_discrimination=4)
    said = r"compare \(MinibatchDiscrimination\) ties the samples"
    assert re.match(said, why_not_together(network.eval(), torch.rand(6, 1, 28, 28)))


def test_one_logit_an_image():
    assert why_not_together(nn.Sequential(nn.Flatten(), nn.Linear(147, 1)), REAL) == ""


def test_fixed_statistics_tie_nothing():
    assert why_not_together(discriminator(nn.BatchNorm2d(4), nn.Dropout(0.5)).eval(), REAL) == ""


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Total(), r"logits of a double batch are \[\], of a single one \[\]"),
        (
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))),
            r"double batch are \[1, 1764\], of a single one \[1, 882\]",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(882, 1)), "it cannot take two batches at once .mat1 and mat2"),
    ],
)
def test_logits_that_are_not_one_per_image_and_batches_of_one_size_only(network, why):
    assert re.search(why, why_not_together(network, REAL))


def test_our_spectral_norms():
    _, network = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert why_not_together(network, torch.rand(4, 1, 28, 28)) == ""
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("end", [Mean(), nn.Flatten(), nn.Identity()])
def test_together_is_apart_for_logits_of_any_shape(end):
    generator = nn.Sequential(nn.Linear(4, 147), nn.Unflatten(1, (3, 7, 7)))
    network = discriminator(end=end)
    z = torch.randn(6, 4)
    results = [
        Players(generator, network, ADVERSARIAL["hinge"], Config.from_flags(loss="hinge"), together).d_step(REAL, z, None)
        for together in (False, True)
    ]
    torch.testing.assert_close(*results)
