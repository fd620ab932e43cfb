"""The classification accuracy score and the classifier two-sample test, on images of four classes."""

import numpy as np
import pytest

from fastgan.data import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.classification import c2st, c2st_grid, cas
from fastgan.metrics.evaluate import evaluate

from .conftest import corners, subset


@pytest.fixture(scope="module")
def real():
    return corners(480, 0)


@pytest.fixture(scope="module")
def samples():
    """From the distribution of the real images."""
    return corners(240, 1)


def test_cas_of_good_samples_equals_that_of_real_images(real, samples):
    found = cas(samples, real)
    assert (found.trained, found.tested, found.own_labels) == (240, 240, True)
    assert found.real > 0.95
    assert found.accuracy > 0.95


def test_cas_falls_by_the_share_of_a_missing_class(real, samples):
    found = cas(subset(samples, np.flatnonzero(samples.labels != 2)), real)
    assert found.accuracy == pytest.approx(1 - np.mean(real.labels == 2), abs=0.1)
    assert found.real > 0.95
    assert found.trained < 240


def test_cas_finds_wrong_labels_and_uses_pseudo_labels_without(real, samples):
    wrong = ImageSet(samples.images, (samples.labels + 1) % 4, "wrong", "none")
    assert cas(wrong, real).accuracy < 0.05
    found = cas(ImageSet(samples.images, None, "unlabeled", "none"), real)
    assert not found.own_labels
    assert found.accuracy > 0.9


def test_c2st_cannot_distinguish_samples_of_the_same_distribution(real, samples):
    found = c2st(real.images, samples.images)
    assert found.tested == 240
    assert abs(found.accuracy - 0.5) < 2 * (found.critical - 0.5)


def test_c2st_ranks_recognizable_samples_first(real, samples):
    marked = samples.images.copy()
    which = np.random.default_rng(7).permutation(240)[:80]
    marked[which, :, 7:9] = 255
    found = c2st(real.images, marked)
    # The marked third is recognized, and half of the other images by chance.
    assert found.accuracy > 0.6 > found.critical
    assert len(found.order) == len(set(found.order)) == 120
    first = np.isin(found.order, which)
    assert first[:24].mean() > 0.9
    grid = c2st_grid(marked, found.order)
    assert grid.shape == (72, 1, 16, 16)
    assert (grid[32:40] == 255).all()
    assert np.array_equal(grid[0], marked[found.order[0]])
    assert np.array_equal(grid[40], marked[found.order[-1]])


def test_rows_of_an_evaluation(real, samples):
    found = evaluate(samples, real, metrics="cas,c2st", n=240)
    names = [row.name for row in found.rows]
    assert names == ["cas120_test120_cnn16", "c2st240_cnn16"]
    assert found["c2st"].real == 0.5
    assert found["cas"].real > 0.8
    assert set(found.pictures) == {"c2st"}
    bare = ImageSet(real.images, None, "bare", "none")
    (row,) = evaluate(samples.images, bare, metrics="cas", n=240).rows
    assert (row.value, row.note) == (None, "the real images have no labels")


def test_errors(real, samples):
    with pytest.raises(UsageError, match="real: expected labeled images"):
        cas(samples, ImageSet(real.images, None, "bare", "none"))
    with pytest.raises(UsageError, match="expected at least 16, and 32 real images, got 10 and 480"):
        cas(subset(samples, range(10)), real)
    with pytest.raises(UsageError, match="expected labels below 4"):
        cas(ImageSet(samples.images, samples.labels + 1, "five", "none"), real)
    with pytest.raises(UsageError, match="expected at least 32 samples and real images, got 240 and 20"):
        c2st(real.images[:20], samples.images)
