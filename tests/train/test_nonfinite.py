"""What is named as the first bad thing, at every stage of a step, and that looking changes nothing."""

import json
import math

import pytest
import torch
from torch import nn

import fastgan
from fastgan import Config, Trainer, models
from fastgan.errors import NonFiniteError
from fastgan.losses import AdversarialLoss
from fastgan.train.nonfinite import first_bad_layer
from fastgan.train.step import Players


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * math.nan


class Poison(nn.Module):
    """Finite forward, NaN backward."""

    def forward(self, x):
        return BadGradient.apply(x)


def build(loss="non-saturating", precision="fp32", g_extra=None, d_extra=None, **options):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), g_extra or nn.ReLU(), nn.Linear(6, 5))
    discriminator = nn.Sequential(nn.Linear(5, 6), d_extra or nn.ReLU(), nn.Linear(6, 1))
    game = fastgan.losses.ADVERSARIAL[game] if isinstance(game, str) else game
    return Players(generator, discriminator, game, Config.from_flags(loss=game.name, precision=precision, **options))


def find(players, real=None, z=None, **options):
    return first_bad_layer(
        players, torch.randn(8, 5) if real is None else real, torch.randn(8, 4) if z is None else z, **options
    )


def nan_like(*shape):
    x = torch.randn(*shape)
    x[0, 0] = math.nan
    return x


def test_nothing_is_named_where_all_is_finite():
    assert find(build()) == ""
    assert find(build("wgan-gp")) == ""


def test_inputs_come_first():
    players = build()
    players.generator[0].weight.data[0, 0] = math.inf
    assert find(players, nan_like(8, 5), nan_like(8, 4)) == "the batch of real images (1 of 40 values are not finite)"
    assert find(players, z=nan_like(8, 4)) == "z (1 of 32 values are not finite)"
    assert find(players) == "generator.0.weight (a weight: 1 of 24 values are not finite)"


def test_buffers_and_the_discriminators_weights():
    players = build()
    players.discriminator[2].bias.data.fill_(math.nan)
    assert find(players) == "discriminator.2.bias (a weight: 1 of 1 values are not finite)"
    players.generator[1].running_var.fill_(math.inf)  # the generator runs first
    assert find(players) == "generator.1.running_var (a buffer: 6 of 6 values are not finite)"


def test_the_first_module_that_overflows():
    found = find(build(g_extra=Times(1e39)))
    assert found.startswith("generator.2 (its output is not finite, its input reaches ")
    players = build(d_extra=nn.Sequential(nn.ReLU(), Times(1e39)))
    assert find(players).startswith("discriminator.1.1 (its output of real images is not finite, its input reaches")
    players = build(d_extra=Times(1.0))
    players.generator[3].weight.data.mul_(1e30)
    players.discriminator[0].weight.data.mul_(1e15)
    assert find(players).startswith("discriminator.0 (its output of generated images is not finite, its input reaches ")


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(5, 1))

    def forward(self, x):
        return self.net(x) / 0.0


def test_a_container_that_computes_something_itself_is_named():
    players = build()
    players.discriminator = Tail()
    assert find(players).startswith("discriminator (its output of real images is not finite")


class Head(Tail):
    def forward(self, x):
        return self.net(x / 0.0)


def test_a_module_that_was_given_what_is_not_finite_is_not_named():
    players = build()
    players.discriminator = Head()
    assert find(players).startswith("discriminator (its output of real images is not finite")


def test_losses_and_penalties():
    log_of_zero = AdversarialLoss("log", lambda real, fake: (real - real).log().mean(), lambda fake: fake.mean())
    players = build()
    players.game = log_of_zero
    assert find(players) == "loss/discriminator of the discriminator (its logits are finite)"
    players = build()
    players.game = AdversarialLoss("log", players.game.d_loss, lambda fake: (fake - fake).log().mean())
    assert find(players).startswith("loss/generator of the generator")
    players = build(r1_weight=1.0)
    players.discriminator[2].weight.data.mul_(1e25)  # logits fit, the square of their gradient does not
    assert find(players).startswith("penalty/r1 of the discriminator")


def test_the_first_bad_gradient_counts_from_the_loss():
    players = build(d_extra=Poison())
    # discriminator.2 lies behind the poison and is fine; which of layer 0's two comes first, autograd decides.
    assert find(players).startswith("the gradient of discriminator.0.")
    players = build(g_extra=Poison())
    assert find(players).startswith("the gradient of generator.1.")
    assert find(players, player="discriminator") == ""
    assert find(build(d_extra=Poison()), player="generator").startswith("the gradient of generator.3.")


class Backwards(nn.Module):
    """Runs its layers in another order than it names them."""

    def __init__(self):
        super().__init__()
        self.b, self.a, self.c = nn.Linear(3, 1), nn.Linear(4, 3), nn.Linear(5, 4)

    def forward(self, x):
        return self.b(BadGradient.apply(self.a(self.c(x))))


def test_gradients_are_told_in_the_order_they_come():
    players = build()
    players.discriminator = Backwards()
    assert find(players).startswith("the gradient of discriminator.a.")


def test_a_gradient_too_large_to_square():
    players = build()
    players.game = AdversarialLoss("steep", lambda real, fake: 1e30 * fake.mean(), lambda fake: fake.mean())
    assert find(players).startswith("the norm of the discriminator's gradient (discriminator.")


def test_fp16_overflows_are_found_in_half_precision_and_the_scale_is_told():
    players = build(precision="fp16", d_extra=Times(1.0))
    players.discriminator[0].weight.data.mul_(1e5)
    assert find(players).startswith("discriminator.0 (its output of real images is not finite")
    assert find(build(precision="fp16"), scale=torch.tensor(2.0**14)) == ""
    found = find(build(precision="fp16"), scale=torch.tensor(2.0**30))
    assert found.startswith("the gradient of discriminator.")
    assert found.endswith("; the loss is scaled by 1e+09)")


@pytest.mark.parametrize("fused", [False, True])
def test_a_layer_inside_of_a_fused_chain(fused):
    players = build()
    players.discriminator = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)
    )
    players.generator = nn.Sequential(nn.Linear(4, 36), nn.Unflatten(1, (1, 6, 6)))
    players.discriminator[2].weight.data.fill_(3e38)
    if fused:
        fastgan.fuse(players.discriminator)
    found = find(players, torch.rand(3, 1, 6, 6), torch.randn(3, 4))
    assert found.startswith("discriminator.2 (its output of real images is not finite")


def test_looking_changes_nothing():
    players = build(d_extra=nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)))
    networks = (players.generator, players.discriminator)
    for network in networks:
        for weight in network.parameters():
            weight.grad = torch.full_like(weight, 2.0)
    before = [v.clone() for network in networks for v in network.state_dict().values()]
    real, z = torch.randn(8, 5), torch.randn(8, 4)
    random = torch.random.get_rng_state()
    assert first_bad_layer(players, real, z) == ""
    assert torch.equal(torch.random.get_rng_state(), random)
    for old, new in zip(before, (v for n in networks for v in n.state_dict().values()), strict=True):
        assert torch.equal(old, new)
    for network in networks:
        for weight in network.parameters():
            assert torch.equal(weight.grad, torch.full_like(weight, 2.0))
            assert not weight._backward_hooks
        for module in network.modules():
            assert not module._forward_hooks


def test_a_run_that_stops_names_the_layer_in_status_and_report(tmp_path):
    torch.manual_seed(0)
    generator, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)

    class Growing(nn.Module):
        """Overflows from its fifth batch on."""

        def __init__(self):
            super().__init__()
            self.net, self.after, self.seen = discriminator, nn.Identity(), 0

        def forward(self, x):
            self.seen += self.training and len(x) == 16
            return self.net(x) * (1e38 * 1e38 if self.seen > 4 else 1.0)

    options = {"latent": 8, "batch": 16, "steps": 20, "log_every": 2, "checkpoint_every": 2, "max_skipped": 3}
    t = Trainer(generator, Growing(), "non-saturating", Config.from_flags(**options, compile="off"), out=tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"; the checkpoint of step \d is whole; start anew with lower") as stopped:
        t.fit(torch.rand(16, 1, 28, 28) for _ in range(20))
    first = "first bad: discriminator (its output of real images is not finite, its input reaches 1e+00)"
    assert first in str(stopped.value)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["message"] == str(stopped.value)
    assert first in (tmp_path / "run" / "report.html").read_text()
