import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL, r1


def trainer(loss="non-saturating", **options):
    torch.manual_seed(0)
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    return Trainer(*networks, game, Config.from_flags(latent=8, **options))


def draws(t, n=4):
    return torch.rand(n, 1, 28, 28), t.noise.latents(n), t.noise.epsilon(n, 4) if t.players.between else None


def snapshot(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(network, before):
    return [not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]


@pytest.mark.parametrize("game", list(ADVERSARIAL))
def test_each_step_moves_its_own_player_only(game):
    t = trainer(game)
    g_before, d_before = snapshot(t.generator), snapshot(t.discriminator)
    real, z, epsilon = draws(t)
    log, gradients = t.players.d_step(real, z, epsilon)
    assert not any(moved(t.discriminator, d_before))  # a step only computes
    t.state.updates["discriminator"].add(log["loss/discriminator"], gradients)
    t.state.updates["discriminator"].apply()
    *rest, last_bias = moved(t.discriminator, d_before)
    assert all(rest)
    if game != "relativistic":  # there it cancels but for rounding, which Adam does not tell from a gradient
        assert last_bias == ADVERSARIAL[game].labels  # else it cancels between real and fake
    assert not any(moved(t.generator, g_before))
    assert all(q.grad is None for q in t.generator.parameters())
    assert ("penalty/gradient_penalty" in log) == (game == "wgan-gp")

    d_before = snapshot(t.discriminator)
    log, gradients = t.players.g_step(z, real=real)
    t.state.updates["generator"].add(log["loss/generator"], gradients)
    t.state.updates["generator"].apply()
    assert all(moved(t.generator, g_before))
    assert not any(moved(t.discriminator, d_before))
    assert all(q.grad is None for q in t.discriminator.parameters())


@pytest.mark.parametrize("together", [False, True])
def test_the_discriminators_gradient_is_that_of_the_loss_written_out(together):
    t = trainer(r1_weight=2.0)
    t.players.together = together
    real, z, _ = draws(t)
    _, gradients = t.players.d_step(real, z, None, lazy=True)

    discriminator = t.discriminator
    fake = t.generator(z).detach()
    loss = -torch.sigmoid(discriminator(real)).log().mean() - (1 - torch.sigmoid(discriminator(fake))).log().mean()
    (loss + r1(discriminator, real, weight=2.0)).backward()
    for ours, plain in zip(gradients, discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours, plain.grad, rtol=1e-4, atol=1e-6)


def test_lazy_r1_is_heavier():
    t = trainer(r1_weight=1.0, penalty_interval=4)
    every = trainer(r1_weight=1.0)
    real, z, _ = draws(t)
    lazy, _ = t.players.d_step(real, z, None, lazy=True)
    plain, _ = every.players.d_step(real, z, None, lazy=True)
    torch.testing.assert_close(lazy["penalty/r1"], 4 * plain["penalty/r1"])
    assert "penalty/r1" not in t.players.d_step(real, z, None)[0]


def test_added_penalties_are_lazy_and_the_games_own_is_not():
    t = trainer("wgan-gp", r2_weight=1.0, dragan_weight=1.0, penalty_interval=2, steps=2)
    real, z, epsilon = draws(t)
    always, sometimes = (t.players.d_step(real, z, epsilon, lazy=lazy)[0].keys() for lazy in (False, True))
    assert sometimes - always == {"penalty/r2", "penalty/dragan"}
    assert "penalty/gradient_penalty" in always
    t.fit(iter([real] * 10))  # d_steps 5, of steps 0 and 1


def test_a_paired_game_sets_real_images_beside_its_fakes():
    t = trainer("relativistic")
    real, z, _ = draws(t)
    log, gradients = t.players.g_step(z, real=real)
    pairs = t.discriminator(t.generator(z)) - t.discriminator(real)
    loss = -torch.sigmoid(pairs).log().mean()
    torch.testing.assert_close(log["loss/generator"], loss.detach())
    for ours, plain in zip(gradients, torch.autograd.grad(loss, t.generator.parameters()), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="real: expected images"):
        t.players.g_step(z)


def test_a_player_that_cannot_learn_is_named():
    t = trainer()
    real, z, _ = draws(t)
    t.generator.forward = lambda z: torch.zeros(len(z), 1, 28, 28)
    with pytest.raises(UsageError, match=r"generator: expected one whose output depends on its weights, got Gen"):
        t.players.g_step(z)
    t.discriminator.forward = lambda x: x.mean((1, 2, 3))
    with pytest.raises(UsageError, match=r"discriminator: expected one whose output depends on its weights, got Dis"):
        t.players.d_step(real, z)


def test_images_of_another_shape_are_refused():
    t = trainer()
    with pytest.raises(ValueError, match=r"generator: expected images like the real ones \[2, 1, 32, 32\]"):
        t.players.d_step(torch.rand(2, 1, 32, 32), t.noise.latents(2), None)
