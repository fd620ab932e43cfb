import numpy as np
import pytest

from fastgan.augmentation import Filter, Thresholds, filter, generate
from fastgan.errors import UsageError

from .conftest import corners


@pytest.fixture(scope="module")
def sample_filter():
    return Filter(corners([30, 30, 30, 10], 0), steps=40)


def test_each_reason_to_reject_an_image(sample_filter):
    real, other = corners([30, 30, 30, 10], 0), corners([20, 20, 20, 20], 5)
    assert sample_filter.accuracy > 0.9
    assert sample_filter.held_out == 6 + 6 + 6 + 2
    good, wrong = other.images[:10], other.images[20:30]
    mostly, _ = sample_filter.reasons(good, 0)
    assert (mostly == "").mean() >= 0.7
    assert set(sample_filter.reasons(wrong, 0)[0]) == {"other class"}
    assert set(sample_filter.reasons(real.images[:30], 0)[0]) == {"copy"}
    twice = np.concatenate([good[mostly == ""]] * 2)
    reasons, vectors = sample_filter.reasons(twice, 0)
    half = len(twice) // 2
    assert set(reasons[half:]) == {"repeated"}
    assert set(sample_filter.reasons(twice[:half], 0, vectors[:half])[0]) == {"repeated"}


def test_an_image_far_from_all_of_its_class_is_rejected():
    sample_filter = Filter(corners([30, 30], 0), Thresholds(confidence=0, near=0, far=1.0), steps=40)
    noise = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    assert set(sample_filter.reasons(noise, 0)[0]) == {"far"}


def test_rare_classes_take_the_distance_of_all(sample_filter, monkeypatch):
    monkeypatch.setattr(filter, "_FEW", 1)
    own = Filter(corners([30, 30, 30, 10], 0), steps=40).distances
    assert own[:3].tolist() == sample_filter.distances[:3].tolist()
    assert min(own) <= sample_filter.distances[3] <= max(own)
    assert sample_filter.distances[3] != own[3]
    with pytest.raises(UsageError, match="data: expected at least 2 images of a class, corners has one of each"):
        Filter(corners([1, 1], 0), steps=10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"confidence": 1.0}, "confidence: expected a probability from 0 to below 1, got 1.0"),
        ({"near": -1.0}, "near: expected a number >= 0, got -1.0"),
        ({"far": 0.1}, "far: expected a number above near, which is 0.2, got 0.1"),
    ],
)
def test_thresholds_out_of_range(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        Thresholds(**options)


def test_images_are_drawn_until_enough_are_accepted(sample_filter):
    source = [corners([400, 0, 0, 0], 7).images, None, corners([0, 0, 0, 400], 8).images]
    asked = []

    def draw(label, first, n):
        asked.append((label, first, n))
        if label == 1:  # always the same image, of another class
            return np.repeat(source[0][:1], n, 0)
        return source[label][first : first + n]

    made = generate(draw, [150, 4, 0], sample_filter, tries=5)
    assert [len(one.images) for one in made] == [150, 0, 0]
    assert (made[0].missing, made[1].missing) == (0, 4)
    assert made[0].drawn == 150 + sum(made[0].rejected.values())
    assert (made[1].drawn, made[1].rejected["other class"]) == (20, 20)
    assert len(made[1].examples) == 4
    # Those that were accepted, in the order in which they were drawn.
    rows = [image.tobytes() for image in source[0]]
    places = [rows.index(image.tobytes()) for image in made[0].images]
    assert places == sorted(places)
    assert places[-1] == made[0].drawn - 1
    again = generate(draw, [150, 4, 0], sample_filter, tries=5)
    assert np.array_equal(made[0].images, again[0].images)
