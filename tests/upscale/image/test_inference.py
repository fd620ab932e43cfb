import numpy as np
import pytest

from fastgan.errors import FastganError, UsageError
from fastgan.runtime.spec import Spec
from fastgan.upscale.image.inference import check_network, tile_policy, upscale_strips
from fastgan.upscale.tiles import TilePolicy, tile_grid

KERNEL = np.array([1, 2, 1]) / 4


def run(session, pixels, tile=0):
    grid = tile_grid(*pixels.shape[:2], session.spec, tile_policy(session, tile))
    return np.concatenate(list(upscale_strips(session, pixels.copy(), grid)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("taken", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("tile", [0, 32])
def test_every_number_of_channels_with_every_network(fake, noise, channels, taken, dtype, tile):
    """The fake network repeats pixels, so the result is known exactly."""
    for size in ((1, 1), (33, 47), (64, 5)):
        pixels = noise(*size, channels, dtype)
        pixels[..., -1] |= 1  # not transparent, so no color is changed
        result = run(fake(3, channels=taken, multiple=2), pixels, tile)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, pixels.repeat(3, 0).repeat(3, 1))


def test_sixteen_bits_are_not_reduced_to_eight(fake, noise):
    """With 8 bits, all of these would be one value."""
    pixels = (30_000 + np.arange(200)).astype(np.uint16).reshape(10, 20, 1).repeat(3, 2)
    result = run(fake(1, KERNEL), pixels)
    assert len(np.unique(result[1:-1, 1:-1])) > 100


def test_no_dark_fringe_at_transparent_pixels(fake):
    """A red disc on transparent black stays red in a network that blurs, wherever it is visible."""
    y, x = np.mgrid[:40, :40]
    disc = (y - 20) ** 2 + (x - 20) ** 2 < 100
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[disc] = 255, 10, 20, 255
    result = run(fake(2, KERNEL), pixels)
    assert set(map(tuple, result[result[..., 3] > 0][:, :3])) == {(255, 10, 20)}
    soft = result[..., 3]
    assert len(np.unique(soft)) > 2  # alpha went through the network as well
    assert (soft[:10] == 0).all()
    assert (soft[38:42, 38:42] == 255).all()
    bare = run(fake(2, KERNEL), pixels[..., :3])
    assert bare[soft > 0].min(axis=0)[0] < 200  # without, there is a fringe


def test_opaque_and_transparent_areas_stay_so(fake):
    """Even where the network blurs farther than a pixel."""
    pixels = np.zeros((20, 20, 2), np.uint8)
    pixels[:, 10:] = 255
    for tile in (0, 32):
        alpha = run(fake(1, np.ones(5) / 5), pixels, tile)[10, :, 1]
        assert (alpha[:9] == 0).all()
        assert (alpha[11:] == 255).all()


def test_uniform_alpha_is_not_sent_through_the_network(fake, noise):
    session = fake(2)
    pixels = noise(9, 9, 4)
    pixels[..., 3] = 255
    run(session, pixels)
    assert len(session.shapes) == 1
    pixels[0, 0, 3] = 254
    run(session, pixels)
    assert len(session.shapes) == 3


def test_a_network_of_another_range(fake, noise):
    seen = []

    class Signed(fake):
        def __call__(self, x):
            seen.append(x)
            return super().__call__(x)

    session = Signed(2)
    session.spec = Spec("image", scale=2, range=(-1.0, 1.0))
    pixels = np.array([[[0, 32768, 65535]]], np.uint16)
    np.testing.assert_array_equal(run(session, pixels)[0, 0], pixels[0, 0])
    np.testing.assert_allclose(seen[0].ravel(), [-1, 0, 1], atol=2e-5)


def test_nan_is_an_error(fake, noise):
    class Broken(fake):
        def __call__(self, x):
            return np.full_like(super().__call__(x), np.nan)

    with pytest.raises(FastganError, match="NaN or infinity"):
        run(Broken(2), noise(4, 4, 3, np.uint16))


def test_what_a_network_must_be(fake):
    check_network(fake().spec)
    with pytest.raises(UsageError, match="expected a network from images to images, got a generator from latents"):
        check_network(fake(kind="latent").spec)
    with pytest.raises(UsageError, match="1 or 3 channels, got one of 4"):
        check_network(fake(channels=4).spec)


@pytest.mark.parametrize("tile", [-1, 1, 31, "small", 3.5])
def test_invalid_tiles(fake, tile):
    with pytest.raises(UsageError, match=rf"tile: expected auto, 0 \(none\) or a number >= 32, got {tile}"):
        tile_policy(fake(), tile)


def test_models_of_one_size(fake):
    assert tile_policy(fake(fixed=(64, 48)), "auto") == TilePolicy((64, 48), exact=True)
    with pytest.raises(UsageError, match="takes images of 48×64 only; expected auto, got 32"):
        tile_policy(fake(fixed=(64, 48)), 32)
    with pytest.raises(UsageError, match="32×32 or more, got one for 16×64"):
        tile_policy(fake(fixed=(64, 16)), "auto")
