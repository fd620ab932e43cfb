import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from fastgan.errors import DataError, UsageError
from fastgan.metrics.kid import kid


def features(n, dim, seed, shift=0.0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def plain(x, y):
    """The unbiased estimate written out, with scikit-learn's kernel, as the libraries use it."""
    x, y = x.double().numpy(), y.double().numpy()
    xx, yy, xy = polynomial_kernel(x), polynomial_kernel(y), polynomial_kernel(x, y)
    n, m = len(x), len(y)
    same = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return same - 2 * xy.mean()


def test_equals_the_estimate_written_out():
    x, y = features(1500, 32, 0), features(1100, 32, 1, 0.1)  # more than a block of rows
    assert kid(x, y).value == pytest.approx(plain(x, y), rel=1e-10)


def test_jackknife_written_out():
    x, y = features(12, 6, 0), features(9, 6, 1, 0.3)
    without_x = np.array([plain(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(12)])
    without_y = np.array([plain(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)])
    variance = sum((len(w) - 1) / len(w) * ((w - w.mean()) ** 2).sum() for w in (without_x, without_y))
    assert kid(x, y).error == pytest.approx(variance**0.5, rel=1e-9)


def test_closed_form_and_standard_error():
    """k(x, y) = x·y makes the distance ‖E x − E y‖²; over many draws the estimate has that mean, and that error."""
    found = [
        kid(features(60, 4, 2 * i), features(80, 4, 2 * i + 1, 0.5), degree=1, gamma=1.0, coef=0.0) for i in range(400)
    ]
    values = np.array([f.value for f in found])
    spread = values.std()
    assert abs(values.mean() - 4 * 0.25) < 4 * spread / 20
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)


def test_bad_features():
    x = features(10, 4, 0)
    with pytest.raises(UsageError, match="real: expected at least 3 samples, got 2"):
        kid(x[:2], x)
    x[0] = torch.nan
    with pytest.raises(DataError, match="real: 1 of 10"):
        kid(x, x)
