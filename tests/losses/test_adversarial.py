"""Every loss against its definition, and against theorems about it."""

import math

import pytest
import torch

from fastgan.losses import ADVERSARIAL, adversarial

REAL, FAKE = torch.tensor([1.5, -0.5, 0.75]), torch.tensor([0.25, -2.0, 1.0])
ZERO = torch.zeros(3)


def σ(x):
    return 1 / (1 + torch.exp(-x))


def d_loss(loss):
    return ADVERSARIAL[loss].d_loss(REAL, FAKE).item()


def g_loss(loss):
    return ADVERSARIAL[loss].g_loss(*((FAKE, REAL) if ADVERSARIAL[loss].paired else (FAKE,))).item()


def of_average(higher, lower):
    """ESRGAN's equation 1, halved as in its code."""
    rises, falls = σ(higher - lower.mean()), σ(lower - higher.mean())
    return -(rises.log().mean() + (1 - falls).log().mean()) / 2


def test_losses_against_their_definitions():
    cross_entropy = -σ(REAL).log().mean() - (1 - σ(FAKE)).log().mean()
    expected = {
        "non-saturating": (cross_entropy, -σ(FAKE).log().mean()),
        "minimax": (cross_entropy, (1 - σ(FAKE)).log().mean()),
        "least-squares": (((REAL - 1) ** 2).mean() / 2 + (FAKE**2).mean() / 2, ((FAKE - 1) ** 2).mean() / 2),
        # max(0, 1 − D(x)): 0, 1.5, 0.25; max(0, 1 + D(G(z))): 1.25, 0, 2.
        "hinge": (torch.tensor(1.75 / 3 + 3.25 / 3), -FAKE.mean()),
        "wgan": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
        "wgan-gp": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
        "relativistic": (-σ(REAL - FAKE).log().mean(), -σ(FAKE - REAL).log().mean()),
        "relativistic-average": (of_average(REAL, FAKE), of_average(FAKE, REAL)),
    }
    assert expected.keys() == ADVERSARIAL.keys()
    for loss, (d, g) in expected.items():
        assert d_loss(loss) == pytest.approx(d.item(), rel=1e-5), loss
        assert g_loss(loss) == pytest.approx(g.item(), rel=1e-5), loss


def test_a_discriminator_that_cannot_distinguish():
    """D = 1/2: the minimax game has the value −ln 4 (Goodfellow et al. 2014, theorem 1)."""
    for loss in ("minimax", "non-saturating"):
        assert ADVERSARIAL[loss].d_loss(ZERO, ZERO).item() == pytest.approx(math.log(4))
    assert ADVERSARIAL["minimax"].g_loss(ZERO).item() == pytest.approx(-math.log(2))
    assert ADVERSARIAL["non-saturating"].g_loss(ZERO).item() == pytest.approx(math.log(2))
    for loss in ("relativistic", "relativistic-average"):
        assert ADVERSARIAL[loss].d_loss(ZERO, ZERO).item() == pytest.approx(math.log(2))
    # Least squares at D = 1/2: ½ · ½² twice, the least value for D that is the same for real and fake.
    half = torch.full((3,), ADVERSARIAL["least-squares"].undecided)
    assert ADVERSARIAL["least-squares"].d_loss(half, half).item() == pytest.approx(0.25)
    for loss in ADVERSARIAL.values():
        if loss.undecided is not None:
            x = torch.tensor(loss.undecided, requires_grad=True)
            (slope,) = torch.autograd.grad(loss.d_loss(x, x), x)
            assert slope.item() == 0, loss.name


def test_only_the_minimax_generator_has_no_gradient_for_a_certain_discriminator():
    slopes = {}
    for loss in ("minimax", "non-saturating"):
        fake = torch.full((4,), -12.0, requires_grad=True)
        (slope,) = torch.autograd.grad(ADVERSARIAL[loss].g_loss(fake), fake)
        slopes[loss] = slope.abs().sum().item()
    assert slopes["minimax"] == pytest.approx(math.exp(-12), rel=1e-4)
    assert slopes["non-saturating"] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("loss", [loss.name for loss in ADVERSARIAL.values() if loss.labels])
def test_the_best_discriminator_of_smoothed_labels(loss):
    """One-sided: where real and fake are equally likely, D = (1 − s)/2 instead of 1/2 (Salimans 2016, section 3.4)."""
    x = torch.linspace(-2, 2, 4001)
    losses = [ADVERSARIAL[loss].d_loss(value, value, smoothing=0.2).item() for value in x]
    best = x[torch.tensor(losses).argmin()]
    assert (best if loss == "least-squares" else σ(best)).item() == pytest.approx(0.4, abs=1e-3)


def test_smoothed_cross_entropy_is_that_of_the_target():
    plain = -(0.9 * σ(REAL).log() + 0.1 * (1 - σ(REAL)).log()).mean() - (1 - σ(FAKE)).log().mean()
    torch.testing.assert_close(adversarial.non_saturating_d(REAL, FAKE, smoothing=0.1), plain)


@pytest.mark.parametrize("loss", list(ADVERSARIAL))
def test_large_logits_stay_finite(loss):
    far = torch.tensor([1e4, -1e4])
    assert ADVERSARIAL[loss].d_loss(far, -far).isfinite()
    assert ADVERSARIAL[loss].g_loss(*((far, -far) if ADVERSARIAL[loss].paired else (far,))).isfinite()
