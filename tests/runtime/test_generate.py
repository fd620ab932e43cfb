"""Latents of seeds and walks, and the images that a session generates of them."""

import numpy as np
import pytest

from fastgan.errors import UsageError
from fastgan.runtime import generate, labels
from fastgan.runtime.spec import Spec


def test_slerp_stays_on_the_sphere():
    a, b = (generate.latent(seed, (4, 128)) for seed in (1, 2))
    assert np.array_equal(generate.slerp(a, b, 0), a)
    assert np.array_equal(generate.slerp(a, b, 1), b)
    lengths = [np.linalg.norm(generate.slerp(a, b, t)) for t in np.linspace(0, 1, 11)]
    assert np.allclose(lengths, np.linspace(lengths[0], lengths[-1], 11), rtol=1e-5)
    steps = np.stack(
        [generate.slerp(a, b, t).ravel() / np.linalg.norm(generate.slerp(a, b, t)) for t in np.linspace(0, 1, 11)]
    )
    angles = np.arccos((steps[1:] * steps[:-1]).sum(1))
    assert np.allclose(angles, angles[0], rtol=1e-2)  # constant speed
    assert np.linalg.norm((a + b) / 2) < 0.8 * min(lengths)  # the middle of a straight line


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0, 0.0])
def test_slerp_between_parallel_latents(other):
    a = generate.latent(1, (8,))
    middle = generate.slerp(a, other * a, 0.5)
    assert np.allclose(middle, (1 + other) / 2 * a, atol=1e-6)
    assert middle.dtype == np.float32


def test_a_walk_passes_through_its_seeds():
    points = [generate.latent(seed, (8,)) for seed in range(3)]
    steps = list(generate.walk(points, 5))
    assert len(steps) == 11
    for i in range(3):
        assert np.array_equal(steps[5 * i], points[i])
    closed = list(generate.walk(points, 5, loop=True))
    assert len(closed) == 15
    assert np.array_equal(closed[:10], steps[:10])
    assert np.array_equal(closed[14], generate.slerp(points[2], points[0], 0.8))


class Constant:
    """Images of which every pixel is the label; records batch sizes."""

    def __init__(self, classes):
        self.spec, self.batches = Spec("latent", latent_shape=(5,), classes=classes, range=(0.0, 255.0)), []

    def __call__(self, z, y):
        labels.check(y, len(z), self.spec)
        self.batches.append(len(z))
        return np.broadcast_to(y[:, None, None, None], (len(z), 1, 2, 2)).astype(np.float32)


def test_the_label_of_a_seed_is_the_seed_modulo_the_classes():
    session = Constant(3)
    images = list(generate.images(session, generate.points(session, [4, 2, 9], None), batch=2))
    assert session.batches == [2, 1]
    assert [image[0, 0, 0] for image in images] == [1, 2, 0]
    assert [image.shape for image in images] == [(2, 2, 1)] * 3
    images = list(generate.images(session, generate.points(session, [4, 2], 2)))
    assert [image[0, 0, 0] for image in images] == [2, 2]


def test_points_of_other_models():
    session = Constant(3)
    session.spec = Spec("image")
    with pytest.raises(UsageError, match="model: expected a generator from latents, got one from images"):
        generate.points(session, [0], None)
    with pytest.raises(UsageError, match="class: expected a number from 0 to 2, got 3"):
        generate.points(Constant(3), [0], 3)
