import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from fastgan.errors import DataError, UsageError
from fastgan.metrics.kid import kid


def features(n, dim, seed, shift=0.0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def plain_kid(x, y):
    """The unbiased estimate with scikit-learn's polynomial kernel, as in other libraries."""
    x, y = x.double().numpy(), y.double().numpy()
    xx, yy, xy = polynomial_kernel(x), polynomial_kernel(y), polynomial_kernel(x, y)
    n, m = len(x), len(y)
    same = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return same - 2 * xy.mean()


def test_equals_the_plain_estimate():
    x, y = features(1500, 32, 0), features(1100, 32, 1, 0.1)  # more than a block of rows
    assert kid(x, y).value == pytest.approx(plain_kid(x, y), rel=1e-10)


def test_standard_error_equals_a_plain_jackknife():
    x, y = features(12, 6, 0), features(9, 6, 1, 0.3)
    without_x = np.array([plain_kid(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(12)])
    without_y = np.array([plain_kid(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)])
    variance = sum((len(w) - 1) / len(w) * ((w - w.mean()) ** 2).sum() for w in (without_x, without_y))
    assert kid(x, y).error == pytest.approx(variance**0.5, rel=1e-9)


def test_mean_and_standard_error_over_many_draws():
    """With k(x, y) = x·y the distance is ‖E x − E y‖²."""
    found = [
        kid(features(60, 4, 2 * i), features(80, 4, 2 * i + 1, 0.5), degree=1, gamma=1.0, coef=0.0) for i in range(400)
    ]
    values = np.array([f.value for f in found])
    spread = values.std()
    assert abs(values.mean() - 4 * 0.25) < 4 * spread / 20
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)


def test_errors():
    x = features(10, 4, 0)
    with pytest.raises(UsageError, match="real: expected at least 3 samples, got 2"):
        kid(x[:2], x)
    x[0] = torch.nan
    with pytest.raises(DataError, match="real: 1 of 10"):
        kid(x, x)
