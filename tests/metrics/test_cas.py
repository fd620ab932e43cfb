"""What classifiers learn from samples, can tell of them, and what choosing among them costs."""

import numpy as np
import pytest

from fastgan.data import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.c2st import c2st, sheet
from fastgan.metrics.cas import probe
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.extractors import digits
from fastgan.metrics.selection import best, cost

from .conftest import part
from .test_modes import corners


@pytest.fixture(scope="module")
def real():
    return corners(480, 0)


@pytest.fixture(scope="module")
def samples():
    """As good as real ones."""
    return corners(240, 1)


def test_good_samples_teach_as_much_as_real_images(real, samples):
    found = probe(samples, real)
    assert (found.learnt, found.tested, found.own_labels) == (240, 240, True)
    assert found.real > 0.95
    assert found.accuracy > 0.95


def test_a_class_that_is_missing_is_not_learnt(real, samples):
    found = probe(part(samples, np.flatnonzero(samples.labels != 2)), real)
    assert found.accuracy == pytest.approx(1 - np.mean(real.labels == 2), abs=0.1)
    assert found.real > 0.95
    assert found.learnt < 240


def test_classes_that_were_not_asked_for_show_in_labels_of_their_own_only(real, samples):
    wrong = ImageSet(samples.images, (samples.labels + 1) % 4, "wrong", "none")
    assert probe(wrong, real).accuracy < 0.05
    found = probe(ImageSet(samples.images, None, "unlabeled", "none"), real)
    assert not found.own_labels
    assert found.accuracy > 0.9


def test_samples_like_real_images_cannot_be_told(real, samples):
    found = c2st(real.images, samples.images)
    assert found.tested == 240
    assert abs(found.accuracy - 0.5) < 2 * (found.chance - 0.5)


def test_what_gives_samples_away_comes_first(real, samples):
    marked = samples.images.copy()
    which = np.random.default_rng(7).permutation(240)[:80]
    marked[which, :, 7:9] = 255
    found = c2st(real.images, marked)
    # A third is found, and half of what is left is guessed right.
    assert found.accuracy > 0.6 > found.chance
    assert len(found.order) == len(set(found.order)) == 120
    first = np.isin(found.order, which)
    assert first[:24].mean() > 0.9
    picture = sheet(marked, found.order)
    assert picture.shape == (72, 1, 16, 16)
    assert (picture[32:40] == 255).all()
    assert np.array_equal(picture[0], marked[found.order[0]])
    assert np.array_equal(picture[40], marked[found.order[-1]])


def test_as_figures(real, samples):
    found = evaluate(samples, real, metrics="cas,c2st", n=240)
    names = [row.name for row in found.rows]
    assert names == ["cas120_test120_cnn16", "c2st240_cnn16"]
    assert found["c2st"].real == 0.5
    assert found["cas"].real > 0.8
    assert set(found.pictures) == {"c2st"}
    bare = ImageSet(real.images, None, "bare", "none")
    (row,) = evaluate(samples.images, bare, metrics="cas", n=240).rows
    assert (row.value, row.note) == (None, "the real images have no labels")


def test_what_a_discriminator_likes_best_is_not_all_there_is(real):
    extractor = digits.train(real, say=lambda line: None)
    drawn = corners(480, 3)
    # It likes two corners.
    scores = np.where(drawn.labels < 2, 1.0, 0.0) + np.linspace(0, 0.1, 480)
    found = cost(extractor, real.images[:200], drawn.images, scores)
    assert found.samples == 200
    assert found.kept.recall < 0.7 * found.drawn.recall
    assert found.kept.coverage < 0.7 * found.drawn.coverage
    assert "coverage 0." in found.sentence()
    random = cost(extractor, real.images[:200], drawn.images, np.random.default_rng(0).random(480))
    assert random.kept.coverage == pytest.approx(random.drawn.coverage, abs=0.12)


def test_the_best():
    assert best(np.array([1.0, 5.0, 3.0, 5.0]), 2).tolist() == [1, 3]
    with pytest.raises(UsageError, match="scores: expected at least 1 numbers, got 2 with 1 NaN"):
        best(np.array([1.0, np.nan]), 1)


def test_what_does_not_fit(real, samples):
    with pytest.raises(UsageError, match="real: expected labeled images"):
        probe(samples, ImageSet(real.images, None, "bare", "none"))
    with pytest.raises(UsageError, match="expected at least 16, and 32 real images, got 10 and 480"):
        probe(part(samples, range(10)), real)
    with pytest.raises(UsageError, match="expected labels below 4"):
        probe(ImageSet(samples.images, samples.labels + 1, "five", "none"), real)
    with pytest.raises(UsageError, match="expected at least 32 samples and real images, got 240 and 20"):
        c2st(real.images[:20], samples.images)
    with pytest.raises(UsageError, match="expected more than the 480 real images"):
        cost(None, real.images, samples.images, np.zeros(240))
