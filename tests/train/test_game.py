import dataclasses

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.objectives import GAMES, r1
from fastgan.train.game import d_step, g_step


def players(game="non-saturating", **options):
    torch.manual_seed(0)
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    return Trainer(*networks, game, Config(latent=8, **options)).players


def snapshot(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(network, before):
    return [not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]


@pytest.mark.parametrize("game", list(GAMES))
def test_each_step_moves_its_own_player_only(game):
    p = players(game)
    g_before, d_before = snapshot(p.generator), snapshot(p.discriminator)
    log = d_step(p, GAMES[game], Config(), torch.rand(4, 1, 28, 28), 0)
    *rest, last_bias = moved(p.discriminator, d_before)
    assert all(rest)
    assert last_bias == (game != "wgan-gp")  # it cancels between real and fake
    assert not any(moved(p.generator, g_before))
    assert all(q.grad is None for q in p.generator.parameters())
    assert ("penalty/gradient_penalty" in log) == (game == "wgan-gp")

    d_before = snapshot(p.discriminator)
    critics_gradients = [q.grad.clone() for q in p.discriminator.parameters()]
    g_step(p, GAMES[game], 4)
    assert all(moved(p.generator, g_before))
    assert not any(moved(p.discriminator, d_before))
    assert all(torch.equal(q.grad, c) for q, c in zip(p.discriminator.parameters(), critics_gradients, strict=True))


def test_the_critics_gradient_is_that_of_the_loss_written_out():
    p = players(r1_weight=2.0)
    config = Config(latent=8, r1_weight=2.0)
    real = torch.rand(4, 1, 28, 28)
    state = p.random.get_state()
    copy = players(r1_weight=2.0)
    d_step(p, GAMES["non-saturating"], config, real, 0)

    copy.random.set_state(state)
    fake = copy.generator(copy.latents(4)).detach()
    critic = copy.discriminator
    loss = -torch.sigmoid(critic(real)).log().mean() - (1 - torch.sigmoid(critic(fake))).log().mean()
    (loss + r1(critic, real, weight=2.0)).backward()
    for ours, plain in zip(p.discriminator.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_lazy_r1_is_rarer_and_heavier():
    p = players()
    real = torch.rand(4, 1, 28, 28)
    lazy = Config(latent=8, r1_weight=1.0, r1_interval=4)
    for group in p.d_optimizer.param_groups:
        group["lr"] = 0.0  # the same critic at every step
    every = d_step(p, GAMES["non-saturating"], dataclasses.replace(lazy, r1_interval=1), real, 0)["penalty/r1"]
    logs = [d_step(p, GAMES["non-saturating"], lazy, real, step) for step in range(8)]
    assert [("penalty/r1" in log) for log in logs] == [True, False, False, False] * 2
    torch.testing.assert_close(logs[0]["penalty/r1"], 4 * every)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"generator: expected images like the real ones \[2, 1, 32, 32\]"):
        d_step(players(), GAMES["non-saturating"], Config(latent=8), torch.rand(2, 1, 32, 32), 0)
