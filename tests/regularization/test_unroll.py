"""The look-ahead is the discriminator's own next steps, and the gradient through it is the true one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from fastgan import Config
from fastgan.losses import ADVERSARIAL
from fastgan.tasks.base import trainable
from fastgan.regularization.unroll import look_ahead, state_of
from fastgan.train.step import Players


def test_one_step_by_hand():
    """A discriminator w·x with loss w·(θ − 1), of whose next weight the derivative in θ is known.

    Adam with β = 0 for both moments steps by lr · g/|g|, g = θ − 1: flat in θ. With β₂ > 0 after a moment s it steps by
    lr · g / √((β₂ s + (1 − β₂) g²) / (1 − β₂²)), whose derivative is lr · β₂ s / (1 − β₂²) / (…)^{3/2}.
    """
    θ, w = torch.tensor(3.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    lr, β, s = 0.1, 0.9, 0.25
    state = {
        "lr": torch.tensor(lr),
        "step": [torch.tensor(1.0)],
        "mean": [torch.tensor(0.0)],
        "square": [torch.tensor(s)],
    }
    after = look_ahead(lambda weights: weights["w"] * (θ - 1), {"w": w}, 1, state, (0.0, β))["w"]
    g, rest = 2.0, 1 - β**2
    under = (β * s + (1 - β) * g**2) / rest
    assert after.item() == pytest.approx(0.5 - lr * g / under**0.5, rel=1e-5)
    (slope,) = torch.autograd.grad(after, θ)
    assert slope.item() == pytest.approx(-lr * (β * s / rest) / under**1.5, rel=1e-4)


def networks():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, 1))
    return generator.double(), discriminator.double()


def losses(discriminator, real, fake):
    return softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()


@pytest.mark.parametrize("before", [0, 3])
def test_the_weights_are_those_that_the_optimizer_would_give(before):
    generator, discriminator = networks()
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.05, (0.5, 0.9), fused=True)
    real, fake = torch.randn(8, 2).double(), generator(torch.randn(8, 3).double())

    def improve():
        optimizer.zero_grad()
        losses(discriminator, real, fake.detach()).backward()
        optimizer.step()

    for _ in range(before):
        improve()
    players = Players(generator, discriminator, ADVERSARIAL["non-saturating"], Config.from_flags(unroll=4, beta1=0.5, beta2=0.9))
    buffers = [b.clone() for b in discriminator.buffers()]
    ahead = players._look_ahead(real, None, fake, None, state_of(optimizer, learned(discriminator)))
    for kept, buffer in zip(buffers, discriminator.buffers(), strict=True):
        assert torch.equal(kept, buffer)  # its running statistics do not look ahead
    for _ in range(4):
        improve()
    for name, weight in discriminator.named_parameters():
        torch.testing.assert_close(ahead[name], weight, rtol=1e-5, atol=1e-7)


def test_the_generators_gradient_goes_through_the_look_ahead():
    """Against differences of the whole: generate, let a copy of the discriminator take its steps, judge."""
    generator, discriminator = networks()
    real, z = torch.randn(8, 2).double(), torch.randn(8, 3).double()
    config = Config.from_flags(unroll=3, lr_d=0.05, beta1=0.5, beta2=0.9)
    players = Players(generator, discriminator, ADVERSARIAL["non-saturating"], config)
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.05, (0.5, 0.9))

    def played():
        ahead = copy.deepcopy(discriminator)
        own = torch.optim.Adam(ahead.parameters(), 0.05, (0.5, 0.9))
        fake = generator(z).detach()
        for _ in range(3):
            own.zero_grad()
            losses(ahead, real, fake).backward()
            own.step()
        with torch.no_grad():
            return softplus(-ahead(fake)).mean().item()

    ahead = state_of(optimizer, learned(discriminator))
    log, gradients = players.g_step(z, real=real, ahead=ahead)
    assert log["loss/generator"].item() == pytest.approx(played(), rel=1e-6)
    plain = players.g_step(z)[1]
    weight, gradient = generator[2].weight, gradients[2]
    for place in ((0, 0), (1, 3), (1, 7)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-5
            values.append(played())
            with torch.no_grad():
                weight[place] -= sign * 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)
    # Not what it would be with the discriminator's answer held fixed, nor without looking ahead.
    assert (gradients[2] - plain[2]).norm() > 0.1 * plain[2].norm()
