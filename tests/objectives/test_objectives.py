import math

import pytest
import torch

from fastgan.errors import UsageError
from fastgan.objectives import GAMES, gradient_penalty, r1


def test_losses_against_their_definitions():
    real, fake = torch.tensor([1.5, -0.5]), torch.tensor([0.25, -2.0, 1.0])
    game = GAMES["non-saturating"]
    expected = -torch.sigmoid(real).log().mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(game.d_loss(real, fake), expected)
    torch.testing.assert_close(game.g_loss(fake), -torch.sigmoid(fake).log().mean())
    # At a critic that knows nothing the losses are 2 ln 2 and ln 2.
    zero = torch.zeros(3)
    assert game.d_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert game.g_loss(zero).item() == pytest.approx(math.log(2))
    wasserstein = GAMES["wgan-gp"]
    assert wasserstein.gp
    torch.testing.assert_close(wasserstein.d_loss(real, fake), fake.mean() - real.mean())
    torch.testing.assert_close(wasserstein.g_loss(fake), -fake.mean())


def test_large_logits_stay_finite():
    far = torch.tensor([1e4, -1e4])
    assert GAMES["non-saturating"].d_loss(far, far).isfinite()


def test_penalties_of_a_linear_critic_have_a_closed_form():
    w = torch.tensor([[3.0, 4.0]], requires_grad=True)
    critic = lambda x: x @ w.T  # noqa: E731
    real, fake = torch.randn(6, 2), torch.randn(6, 2)
    penalty = gradient_penalty(critic, real, fake, weight=10.0)
    assert penalty.item() == pytest.approx(10 * (5 - 1) ** 2)
    (grad,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(grad, 10 * 2 * 4 * w.detach() / 5)
    assert gradient_penalty(critic, real, fake, target=5.0).item() == pytest.approx(0, abs=1e-9)
    assert r1(critic, real, weight=3.0).item() == pytest.approx(1.5 * 25)


def test_penalty_points_lie_between_real_and_fake_and_repeat_with_the_seed():
    seen = []
    critic = lambda x: (seen.append(x.detach()), x.square().sum(1))[1]  # noqa: E731
    real, fake = torch.zeros(50, 2), torch.ones(50, 2)
    for _ in range(2):
        gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    torch.testing.assert_close(seen[0][:, 0], seen[0][:, 1])  # one weight per sample
    assert 0 <= seen[0].min() < 0.2 < 0.8 < seen[0].max() <= 1


def test_a_vanishing_gradient_gives_finite_derivatives():
    w = torch.zeros(1, 2, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ w.T, torch.randn(4, 2), torch.randn(4, 2))
    assert penalty.item() == pytest.approx(10)
    assert torch.autograd.grad(penalty, w)[0].isfinite().all()


def test_penalty_in_bfloat16_is_summed_in_float32():
    w = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    penalty = r1(lambda x: x @ w.T, torch.zeros(2, 4096, dtype=torch.bfloat16), weight=2.0)
    assert penalty.dtype == torch.float32
    assert penalty.item() == 4096  # in bfloat16 the sum would stop growing at 256


def test_shapes_must_agree():
    with pytest.raises(UsageError, match=r"fake: expected the shape of real \[2, 3\], got \[4, 3\]"):
        gradient_penalty(lambda x: x.sum(1), torch.zeros(2, 3), torch.zeros(4, 3))
