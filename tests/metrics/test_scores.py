import numpy as np
import pytest
import torch

from fastgan.errors import DataError, UsageError
from fastgan.metrics.scores import inception_score


def test_bounds_of_the_inception_score():
    """Confident and all classes equally often: the number of classes. One class, or uniform predictions: 1."""
    confident = 50 * torch.eye(10).repeat(200, 1)
    assert inception_score(confident, splits=2).value == pytest.approx(10, rel=0.01)
    assert inception_score(confident[:1].repeat(100, 1)).value == pytest.approx(1)
    assert inception_score(torch.zeros(100, 10)).value == pytest.approx(1)


def test_the_inception_score_equals_plain_numpy():
    logits = 3 * torch.randn(1003, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double(), 1).numpy()[np.random.default_rng(4).permutation(1003)]
    scores = []
    for q in np.array_split(p, 10):
        scores.append(np.exp(np.mean(np.sum(q * (np.log(q) - np.log(q.mean(0))), 1))))
    found = inception_score(logits, splits=10, seed=4)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-10)
    assert found.error == pytest.approx(np.std(scores, ddof=1) / 10**0.5, rel=1e-10)


def test_errors():
    with pytest.raises(UsageError, match="splits: expected from 2 to 5 for 10 samples, got 10"):
        inception_score(torch.zeros(10, 3))
    with pytest.raises(DataError, match="logits: 20 of 20"):
        inception_score(torch.full((20, 3), torch.nan))
