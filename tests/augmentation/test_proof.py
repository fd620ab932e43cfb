import numpy as np
import pytest
from scipy import stats

from fastgan.augmentation import proof
from fastgan.augmentation.proof import ROWS, Proof, prove
from fastgan.errors import UsageError

from .conftest import corners


def of(*differences, classical=(0.8, 0.82, 0.81), plain=(0.7, 0.71, 0.7)):
    """A proof whose last row differs so much from classical augmentation."""
    rows = (plain, classical, plain, np.add(classical, differences))
    return Proof({row: list(values) for row, values in zip(ROWS, rows, strict=True)}, "shifts", 10, 100)


def test_the_interval_is_students():
    found = of(0.01, 0.03, 0.02)
    values = np.array([0.8, 0.82, 0.81])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    mean, half = found.interval(ROWS[1])
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-5)
    for degrees, quantile in enumerate(proof._T, 1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_proof_compares_the_same_training_with_and_without():
    helps, harms, open_ = of(0.01, 0.011, 0.012), of(-0.01, -0.011, -0.012), of(0.01, -0.01, 0.02)
    assert helps.helps
    assert (
        helps.sentence()
        == "The generated images help: +1.10 ± 0.25 points of accuracy beside classical augmentation alone."
    )
    assert not harms.helps
    assert "do harm: -1.10 ± 0.25 points" in harms.sentence()
    assert "do not help: +0.67 ± 3.79 points" in open_.sentence()
    assert [row in helps.table() for row in ROWS] == [True] * 4
    assert helps.to_json()["helps"] is True


def test_good_images_help_and_wrong_ones_harm():
    """Four real images a class; 100 others, once with their labels and once with wrong ones."""
    few, many, test = corners([4] * 4, 0), corners([100] * 4, 1), corners([50] * 4, 2)
    options = {"seeds": 2, "steps": 20}
    real, held_out = (few.images, few.labels), (test.images, test.labels)
    right = prove(real, (many.images, many.labels), held_out, **options)
    wrong = prove(real, (many.images, (many.labels + 1) % 4), held_out, **options)
    assert right.interval(ROWS[2])[0] > right.interval(ROWS[0])[0] > 0.3 > wrong.interval(ROWS[2])[0]
    assert not wrong.helps
    assert right.accuracies[ROWS[0]] == wrong.accuracies[ROWS[0]]
    assert right.tested == 200


def test_errors():
    few = corners([4, 4], 0)
    data = few.images, few.labels
    with pytest.raises(UsageError, match="prove: expected at least 2 seeds, for an interval, got 1"):
        prove(data, data, data, seeds=1)
    other = corners([1, 1, 1], 0)
    with pytest.raises(UsageError, match="held_out: expected labels below 2, as the real images have, got 2"):
        prove(data, data, (other.images, other.labels))
