"""RMSprop is PyTorch's, and obeys what the guard and the loss scaler hand it."""

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss, Defaults
from fastgan.train.optim import RMSprop


def test_rmsprop_is_pytorchs():
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    mine, plain = RMSprop([ours], 1e-2), torch.optim.RMSprop([theirs], 1e-2)
    mine.found_inf = torch.tensor(0.0)
    for scale in (1.0, 8.0, 0.5, 1.0):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad, mine.grad_scale = gradient * scale, gradient, torch.tensor(scale)
        mine.step()
        plain.step()
        torch.testing.assert_close(ours, theirs)
    before, mean = ours.detach().clone(), mine.state[ours]["square_avg"].clone()
    ours.grad, mine.found_inf = torch.full((5, 3), float("nan")), torch.tensor(1.0)
    mine.step()
    assert torch.equal(ours, before)
    assert torch.equal(mine.state[ours]["square_avg"], mean)


def pair():
    torch.manual_seed(0)
    return nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def largest(network):
    return max(p.abs().max().item() for p in network.parameters())


def batches():
    source = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(8, 2, generator=source)


def test_the_games_own_optimizers_where_nothing_is_set():
    t = Trainer(*pair(), "wgan", Config.from_flags(steps=3, log_every=3, compile="off"), latent_shape=(4,))
    assert [type(update.optimizer) for update in t.state.updates.values()] == [RMSprop, RMSprop]
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == 5e-5
    t.fit(batches())
    assert t.state.images == 3 * 5 * 8  # five discriminator steps
    # Arjovsky et al. 2017: the discriminator's weights, and only they, are clipped to 0.01.
    assert largest(t.discriminator) == pytest.approx(0.01)
    assert largest(t.generator) > 0.1

    t = Trainer(*pair(), "wgan-gp", Config.from_flags(lr_g=3e-3), latent_shape=(4,))
    generator, discriminator = (update.optimizer.param_groups[0] for update in t.state.updates.values())
    assert (generator["lr"], discriminator["lr"], discriminator["betas"]) == (3e-3, 1e-4, (0.0, 0.9))
    assert (t.config.d_steps, t.config.weight_clip) == (5, 0.0)
    t = Trainer(*pair(), config=Config(), latent_shape=(4,))
    assert (t.config.lr_d, t.config.beta1, t.config.beta2, t.config.d_steps) == (2e-4, 0.5, 0.999, 1)
    # What a run did stands in its config.json.
    assert None not in [t.config.to_dict()[name] for name in ("optimizer", "lr_g", "beta1", "d_steps", "weight_clip")]


def test_a_game_of_ones_own_is_a_few_lines():
    game = AdversarialLoss(
        "least-distance",
        d_loss=lambda real, fake: (fake - real).mean() + 0.1 * (real**2 + fake**2).mean(),
        g_loss=lambda fake: -fake.mean(),
        penalties={"r1": 1.0},
        defaults=Defaults(lr_g=1e-4, lr_d=4e-4),
    )
    t = Trainer(*pair(), game, Config.from_flags(steps=2, compile="off", penalty_interval=2), latent_shape=(4,))
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == 4e-4
    assert "penalty/r1" in t.fit(batches())  # at every step
    assert t.players.penalties(False) == {"r1": 1.0}
    networks = pair()[0], nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    with pytest.raises(UsageError, match="d_norm: batch norm ties"):
        Trainer(*networks, game, Config.from_flags(d_norm="batch"), latent_shape=(4,))


def test_what_is_asked_for_comes_before_the_game():
    options = {"optimizer": "adam", "d_steps": 2, "weight_clip": 0.0}
    t = Trainer(*pair(), "wgan", Config.from_flags(steps=2, compile="off", **options), latent_shape=(4,))
    t.fit(batches())
    assert isinstance(t.state.updates["generator"].optimizer, torch.optim.Adam)
    assert t.state.images == 2 * 2 * 8
    assert largest(t.discriminator) > 0.1
