import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fastgan.errors import DataError, UsageError
from fastgan.metrics.fid import Moments, Statistics, fid, frechet_distance


def cloud(n, dim, seed, scale=1.0, shift=0.0):
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)) / dim**0.5
    return scale * torch.randn(n, dim, generator=source) @ mix + shift


def usual_fid(x, y):
    """As in other libraries: the matrix square root of the product by Schur decomposition, its real part."""
    x, y = x.double().numpy(), y.double().numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(0) - y.mean(0)
    return gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real


def test_equals_the_usual_computation():
    x, y = cloud(700, 64, 0), cloud(500, 64, 1, 1.3, 0.2)
    assert fid(x, y) == pytest.approx(usual_fid(x, y), rel=1e-8)


def test_gaussians_with_commuting_covariances():
    """The distance is Σ (√a_i − √b_i)² + ‖gap‖²."""
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    a, b = torch.arange(1.0, 9, dtype=torch.float64), torch.linspace(0.5, 4, 8, dtype=torch.float64)
    gap = torch.linspace(-1, 1, 8, dtype=torch.float64)
    one = Statistics(100, torch.zeros(8, dtype=torch.float64), basis * a @ basis.T)
    other = Statistics(100, gap, basis * b @ basis.T)
    expected = float((a.sqrt() - b.sqrt()).square().sum() + gap.square().sum())
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(one, one) == 0


def test_singular_covariances():
    """Fewer samples than dimensions, and constant features; expected from the singular values of the samples."""
    x, y = cloud(40, 200, 0), cloud(60, 200, 1, 1.2)
    x[:, 50:] = 3.0
    a, b = ((t - t.mean(0)) / (len(t) - 1) ** 0.5 for t in (x.double(), y.double()))
    root = torch.linalg.svdvals(a @ b.T).sum()  # tr (AᵀA BᵀB)^½ = ‖A Bᵀ‖_*
    gap = (x.double().mean(0) - y.double().mean(0)).square().sum()
    expected = float(gap + a.square().sum() + b.square().sum() - 2 * root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)
    assert fid(y, x) == pytest.approx(expected, rel=1e-9)
    assert Moments().update(x).statistics().singular
    constant = torch.full((30, 200), 2.0)
    gap = (y.double().mean(0) - 2).square().sum()
    assert fid(constant, y) == pytest.approx(float(gap + b.square().sum()), rel=1e-9)
    assert fid(constant, constant) == 0


def test_moments_in_blocks_equal_those_of_all_samples():
    """Also far from the origin, where sums of squares would lose all precision."""
    x = cloud(3001, 5, 0, 1.0, 1e4)
    moments = Moments()
    for block in x.split(700):
        moments.update(block)
    found = moments.statistics()
    assert found.n == 3001
    assert np.allclose(found.mean, x.double().mean(0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_errors():
    x = cloud(10, 4, 0)
    broken = x.clone()
    broken[3, 1], broken[7, 0] = torch.nan, torch.inf
    with pytest.raises(DataError, match=r"fake: 2 of 10 samples are NaN or infinite \(the first is number 3\)"):
        fid(x, broken)
    with pytest.raises(DataError, match="b: the statistics are NaN"):
        frechet_distance(
            Moments().update(x).statistics(), Statistics(10, torch.zeros(4), torch.full((4, 4), torch.nan))
        )
    with pytest.raises(UsageError, match=r"fake: expected features \[N, 4\]"):
        fid(x, cloud(10, 5, 0))
    with pytest.raises(UsageError, match="real: expected at least 2 samples, got 1"):
        fid(x[:1], x)
    with pytest.raises(UsageError, match="expected floating point"):
        fid(x.long(), x)
    with pytest.raises(UsageError, match="as before"):
        Moments().update(x).update(cloud(10, 5, 0))
