import numpy as np
import pytest

from fastgan.errors import UsageError
from fastgan.metrics.extractors import digits
from fastgan.metrics.selection import best, cost

from .conftest import corners


def test_the_cost_of_keeping_two_of_four_classes_is_recall_and_coverage():
    real = corners(480, 0)
    extractor = digits.train(real)
    drawn = corners(480, 3)
    # The scores prefer two of the four classes.
    scores = np.where(drawn.labels < 2, 1.0, 0.0) + np.linspace(0, 0.1, 480)
    found = cost(extractor, real.images[:200], drawn.images, scores)
    assert found.samples == 200
    assert found.kept.recall < 0.7 * found.random.recall
    assert found.kept.coverage < 0.7 * found.random.coverage
    assert "coverage 0." in found.sentence()
    random = cost(extractor, real.images[:200], drawn.images, np.random.default_rng(0).random(480))
    assert random.kept.coverage == pytest.approx(random.random.coverage, abs=0.12)


def test_indices_of_the_best_scores():
    assert best(np.array([1.0, 5.0, 3.0, 5.0]), 2).tolist() == [1, 3]
    with pytest.raises(UsageError, match="scores: expected at least 1 numbers, got 2 with 1 NaN"):
        best(np.array([1.0, np.nan]), 1)


def test_errors():
    images = corners(480, 0).images
    with pytest.raises(UsageError, match="expected more than the 480 real images"):
        cost(None, images, images[:240], np.zeros(240))
