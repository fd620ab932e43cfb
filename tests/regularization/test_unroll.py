"""The unrolled steps are the discriminator's own next steps, and the gradient through them is exact."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from fastgan.losses import ADVERSARIAL
from fastgan.losses.config import LossConfig
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.regularization.unroll import adam_state, look_ahead
from fastgan.tasks import Generation
from fastgan.tasks.image_losses import unrolled_weights
from fastgan.train.step import TaskSteps


def test_one_step_against_its_closed_form():
    """A discriminator w·x with loss w·(θ − 1), of whose next weight the derivative in θ is known.

    Adam with β = 0 for both moments steps by lr · g/|g|, g = θ − 1: flat in θ. With β₂ > 0 after a moment s it steps by
    lr · g / √((β₂ s + (1 − β₂) g²) / (1 − β₂²)), whose derivative is lr · β₂ s / (1 − β₂²) / (…)^{3/2}.
    """
    θ, w = torch.tensor(3.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    lr, β, s = 0.1, 0.9, 0.25
    state = {
        "lr": torch.tensor(lr),
        "betas": (0.0, β),
        "step": [torch.tensor(1.0)],
        "mean": [torch.tensor(0.0)],
        "square": [torch.tensor(s)],
    }
    after = look_ahead(lambda weights: weights["w"] * (θ - 1), {"w": w}, 1, state)["w"]
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


def task(generator, discriminator, unroll):
    regularization = Regularization(RegularizationConfig(unroll=unroll), torch.device("cpu"))
    return Generation(generator, discriminator, ADVERSARIAL["non-saturating"], LossConfig(), regularization, (3,))


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
    buffers = [b.clone() for b in discriminator.buffers()]
    noise = {"optimizer": adam_state(optimizer)}
    unrolled = unrolled_weights(task(generator, discriminator, 4), (real, None), (fake, None), noise)
    for kept, buffer in zip(buffers, discriminator.buffers(), strict=True):
        assert torch.equal(kept, buffer)  # the running statistics are not unrolled
    for _ in range(4):
        improve()
    for name, weight in discriminator.named_parameters():
        torch.testing.assert_close(unrolled[name], weight, rtol=1e-5, atol=1e-7)


def test_the_generators_gradient_goes_through_the_unrolled_steps():
    """Against finite differences: generate, let a copy of the discriminator take its steps, compute the loss."""
    generator, discriminator = networks()
    real, z = torch.randn(8, 2).double(), torch.randn(8, 3).double()
    steps = TaskSteps(task(generator, discriminator, 3))
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.05, (0.5, 0.9))

    def loss_after_steps():
        ahead = copy.deepcopy(discriminator)
        own = torch.optim.Adam(ahead.parameters(), 0.05, (0.5, 0.9))
        fake = generator(z).detach()
        for _ in range(3):
            own.zero_grad()
            losses(ahead, real, fake).backward()
            own.step()
        with torch.no_grad():
            return softplus(-ahead(fake)).mean().item()

    batch = {"real": real}
    loss, gradients = steps.generator(batch, {"z": z, "optimizer": adam_state(optimizer)})
    assert loss.log["loss/generator"].item() == pytest.approx(loss_after_steps(), rel=1e-6)
    plain = steps.generator(batch, {"z": z})[1]
    weight, gradient = generator[2].weight, gradients[2]
    for index in ((0, 0), (1, 3), (1, 7)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * 1e-5
            values.append(loss_after_steps())
            with torch.no_grad():
                weight[index] -= sign * 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert gradient[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)
    # It differs from the gradient without unrolling.
    assert (gradients[2] - plain[2]).norm() > 0.1 * plain[2].norm()
