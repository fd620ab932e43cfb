"""What benchmarks put around the trainer to time it still fits it: they are run too seldom to notice."""

import contestants
import pytest
import torch
from end_to_end import Preset, networks_of, verify
from plain import plain_pytorch

import fastgan
from fastgan import models


def test_phases_of_an_iteration_are_timed():
    config = fastgan.Config(latent=contestants.LATENT, batch=2, compile="off")
    pair = models.build("dcgan", resolution=32, channels=3, latent=contestants.LATENT, width=4)
    ours = contestants.Ours(*pair, config, fuse=False)
    ours.use(contestants.stream(2, 32, "cpu"))
    ours.iterate()
    spent = contestants.phases(ours, "cpu", iterations=1)
    assert sorted(spent) == ["data_ms", "discriminator_ms", "generator_ms", "update_ms"]
    assert all(float(ms) >= 0 for ms in spent.values())
    assert float(spent["discriminator_ms"]) > 0


@pytest.mark.parametrize(
    ("name", "game", "options"),
    [
        ("dcgan", "wgan-gp", {}),
        ("biggan", "hinge", {"d_norm": "spectral", "attention": 16}),
        ("progan", "non-saturating", {}),
        ("r3gan", "relativistic", {}),
    ],
)
def test_a_family_and_itself_in_plain_pytorch_learn_the_same(name, game, options):
    penalties = {} if game in ("wgan-gp", "hinge") else {"r1_weight": 1.0, "r2_weight": 0.5}
    pair = {"name": name, "width": 16} | options
    verify(Preset(name, 32, pair, game, {"cpu": 4}, **penalties), "cpu")


def test_plain_networks_have_nothing_of_ours_in_their_graphs():
    preset = Preset("resnet", 32, {"name": "resnet", "width": 4, "d_norm": "spectral"}, "hinge", {"cpu": 2})
    generator, discriminator = networks_of(preset, "cpu")
    with plain_pytorch():
        plain = names(discriminator(generator(torch.randn(2, contestants.LATENT))).sum())
    generator, discriminator = networks_of(preset, "cpu", plain=False)
    ours = names(discriminator(generator(torch.randn(2, contestants.LATENT))).sum())
    assert any("fastgan" in name for name in ours)
    assert not any("fastgan" in name for name in plain)


def names(y):
    """Names of the nodes that lead to y."""
    found, open_ = set(), [y.grad_fn]
    while open_:
        node = open_.pop()
        if node is not None and node not in found:
            found.add(node)
            open_ += [before for before, _ in node.next_functions]
    return {type(node).__name__ for node in found}
