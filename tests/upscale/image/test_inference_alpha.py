import numpy as np
import pytest

from fastgan.upscale.image import inference as module
from fastgan.upscale.image.inference import clip_to_neighbors, extend_colors


def blob(height, width, channels, dtype, seed=0, share=0.01):
    """Pixels of random colors on transparent black."""
    rng = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    pixels = np.zeros((height, width, channels), dtype)
    seen = rng.random((height, width)) < share
    pixels[seen] = rng.integers(1, most, (seen.sum(), channels))
    return pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_visible_pixels_and_alpha_are_unchanged(dtype, channels):
    before = blob(60, 70, channels, dtype)
    after = before.copy()
    extend_colors(after)
    np.testing.assert_array_equal(after[..., -1], before[..., -1])
    seen = before[..., -1] > 0
    np.testing.assert_array_equal(after[seen], before[seen])
    assert (after[~seen][:, :-1].max(axis=1) > 0).mean() > 0.9


def test_a_lone_color_spreads_as_a_square():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[30, 25] = 10, 20, 30, 1
    extend_colors(pixels)
    spread = (pixels[..., :3] == [10, 20, 30]).all(axis=2)
    reach = module._COLOR_REACH
    expected = np.zeros((64, 64), bool)
    expected[30 - reach : 31 + reach, 25 - reach : 26 + reach] = True
    np.testing.assert_array_equal(spread, expected)
    assert (pixels[~spread][:, :3] == 0).all()


@pytest.mark.parametrize("strip", [16, 17, 40])
def test_strips_make_no_difference(monkeypatch, strip):
    for seed in range(5):
        pixels = blob(150, 50, 4, np.uint8, seed, share=0.0015)  # so few that pixels at the full distance matter
        whole, parts = pixels.copy(), pixels.copy()
        extend_colors(whole)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_ROWS", strip)
            extend_colors(parts)
        np.testing.assert_array_equal(parts, whole)
        assert (whole != pixels).any()


def test_uniform_alpha_changes_nothing():
    for alpha in (0, 255):
        pixels = np.full((5, 5, 2), 7, np.uint8)
        pixels[..., 1] = alpha
        after = pixels.copy()
        extend_colors(after)
        np.testing.assert_array_equal(after, pixels)
    extend_colors(np.zeros((1, 1, 4), np.uint8))


def test_alpha_is_clipped_to_its_neighbors():
    alpha = np.zeros((4, 5, 1), np.uint8)
    alpha[:, 3:] = 255
    result = clip_to_neighbors(np.full((8, 10, 1), 100, np.uint8), alpha, 2)[..., 0]
    np.testing.assert_array_equal(result[:, :4], 0)  # at least two pixels left of the step: only zeros around
    np.testing.assert_array_equal(result[:, 4:8], 100)
    np.testing.assert_array_equal(result[:, 8:], 255)
