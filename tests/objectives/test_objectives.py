import math

import pytest
import torch

from fastgan.objectives import GAMES


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
