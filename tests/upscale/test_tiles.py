"""Tiled results against the whole image: with a known reach they are bit-identical."""

import numpy as np
import pytest

from fastgan.runtime.spec import Spec
from fastgan.upscale import tiles
from fastgan.upscale.tiles import TilePolicy, min_side, policy_for_memory, run_tiles, tile_grid


def run(session, pixels, policy):
    grid = tile_grid(*pixels.shape[:2], session.spec, policy)
    shapes = []

    def network(tile):
        shapes.append(tile.shape[:2])
        return session.pixels(np.ascontiguousarray(tile)[None])[0]

    parts = list(run_tiles(pixels, network, grid))
    return np.concatenate(parts), grid, shapes


KERNEL = np.array([1, 3, 2, 5, 2, 3, 1]) / 17


@pytest.mark.parametrize("multiple", [1, 2, 4])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_equal_to_the_whole_at_any_size(fake, noise, scale, multiple):
    rng = np.random.default_rng(scale * 10 + multiple)
    for _ in range(12):
        height, width = (int(n) for n in rng.integers(1, 150, 2))
        side = int(rng.integers(32, 70))
        session = fake(scale, KERNEL, multiple=multiple)
        pixels = noise(height, width)
        whole, one, _ = run(session, pixels, TilePolicy())
        tiled, grid, shapes = run(session, pixels, TilePolicy((side, side)))
        assert one.count == 1
        assert whole.shape == (height * scale, width * scale, 3)
        np.testing.assert_array_equal(tiled, whole, err_msg=f"{height}×{width}, tile {side}")
        assert len(set(shapes)) == 1  # runtimes compile for one shape
        assert len(shapes) == grid.count
        assert max(shapes[0]) <= side
        assert grid.full_margin


def test_tiles_begin_at_multiples(noise):
    """Networks that downscale first combine squares of pixels; these must not depend on the tile."""
    spec = Spec("image", scale=2, multiple=4, reach=4, range=(0.0, 1.0))

    def network(tile):
        height, width, _ = tile.shape
        squares = tile.reshape(height // 4, 4, width // 4, 4, 3).astype(int).sum(axis=(1, 3)) // 16
        return squares.astype(np.uint8).repeat(8, 0).repeat(8, 1)

    for size in ((103, 131), (150, 64)):
        pixels = noise(*size)
        whole, tiled = (
            np.concatenate(list(run_tiles(pixels, network, tile_grid(*size, spec, policy))))
            for policy in (TilePolicy(), TilePolicy((34, 47)))
        )
        np.testing.assert_array_equal(tiled, whole)


def test_unknown_reach(fake, noise):
    """Errors decrease with the distance from the edge of a tile; blending may add a rounding error."""
    weights = 0.9 ** np.abs(np.arange(-80, 81.0))
    session = fake(2, weights / weights.sum(), reach=0)
    pixels = noise(100, 610)
    pixels[:, 305:] //= 4
    whole, _, _ = run(session, pixels, TilePolicy())
    tiled, grid, _ = run(session, pixels, TilePolicy((384, 384)))
    assert grid.count == 2
    assert grid.blend == tiles.BLEND
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_small_tiles_have_reduced_margins(fake, noise):
    weights = 0.5 ** np.abs(np.arange(-50, 51.0))
    session = fake(2, weights / weights.sum(), reach=50)
    pixels = noise(100, 90)
    whole, _, _ = run(session, pixels, TilePolicy())
    tiled, grid, _ = run(session, pixels, TilePolicy((32, 32)))
    assert not grid.full_margin
    assert 0 < np.abs(tiled.astype(int) - whole).max() < 12
    _, grid, _ = run(session, noise(30, 20), TilePolicy((32, 32)))
    assert grid.full_margin  # a single tile


@pytest.mark.parametrize("across", [True, False])
def test_seams_are_blended(across):
    """A network with another brightness for every tile: the blended pixels form the transition."""
    spec = Spec("image", scale=2, range=(0.0, 1.0))
    calls = iter(range(100))

    def network(tile):
        return np.full((tile.shape[0] * 2, tile.shape[1] * 2, 3), 100 * next(calls), np.uint16)

    height, width = (100, 600) if across else (600, 100)
    grid = tile_grid(height, width, spec, TilePolicy((384, 384)))
    assert grid.count == 2
    result = np.concatenate(list(run_tiles(np.zeros((height, width, 3), np.uint16), network, grid)))
    row = result if across else result.swapaxes(0, 1)
    steps = np.diff(row[0, :, 0].astype(int))
    assert steps.min() >= 0
    assert steps.max() <= 4
    assert (row[0, 0, 0], row[0, -1, 0]) == (0, 100)
    assert (steps > 0).sum() == 2 * tiles.BLEND + 1


def test_each_row_of_tiles_is_a_strip(fake, noise):
    session = fake(2, KERNEL)
    grid = tile_grid(200, 60, session.spec, TilePolicy((40, 40)))
    heights = [len(rows) for rows in run_tiles(noise(200, 60), lambda tile: session.pixels(tile.copy()[None])[0], grid)]
    assert sum(heights) == 400
    assert max(heights) <= 80
    assert len(heights) == len(grid.rows.starts) > 4


def test_rows_come_in_strips_of_limited_size(fake, noise, monkeypatch):
    monkeypatch.setattr(tiles, "_STRIP_BYTES", 1000)
    session, pixels = fake(2, KERNEL), noise(90, 60)
    grid = tile_grid(90, 60, session.spec, TilePolicy((40, 40)))
    parts = list(run_tiles(pixels, lambda tile: session.pixels(tile.copy()[None])[0], grid))
    assert {len(rows) for rows in parts} <= {1, 2}  # a row has 360 bytes
    np.testing.assert_array_equal(np.concatenate(parts), run(fake(2, KERNEL), pixels, TilePolicy())[0])


def test_wide_images_get_lower_tiles():
    spec = Spec("image", scale=4, range=(0.0, 1.0))
    policy = policy_for_memory(spec, 8_000_000_000)
    narrow, wide, wider = (tile_grid(2000, width, spec, policy) for width in (2000, 18_000, 40_000))
    assert (narrow.rows.tile, narrow.columns.tile) == (447, 447)
    assert wide.columns.tile == wider.columns.tile == 447
    assert 384 <= wide.rows.tile < 447
    assert wide.rows.tile * 4 * 18_000 * 16 <= 500_000_000
    assert wider.rows.tile == 384  # the minimum
    assert wider.full_margin


def test_models_of_one_size(fake, noise):
    for height, width in ((1, 1), (40, 48), (39, 100), (90, 47), (101, 131)):
        session = fake(2, KERNEL, fixed=(40, 48))
        tiled, _, shapes = run(session, noise(height, width), TilePolicy((40, 48), exact=True))
        assert set(shapes) == {(40, 48)}
        assert tiled.shape == (2 * height, 2 * width, 3)
        if height >= 40 and width >= 48:
            whole, _, _ = run(fake(2, KERNEL), noise(height, width), TilePolicy())
            np.testing.assert_array_equal(tiled, whole)


def test_tiles_by_memory():
    spec = Spec("image", scale=4, reach=18, range=(0.0, 1.0))
    assert policy_for_memory(spec, 1 << 40).tile == (tiles.MAX_SIDE, tiles.MAX_SIDE)
    assert policy_for_memory(spec, 0).tile == (min_side(spec), min_side(spec))
    small = policy_for_memory(spec, 4_000_000_000)
    assert small.tile == (316, 316)  # 20 kB a pixel, of half of it
    assert small.max_untiled == 100_000
    assert tile_grid(300, 333, spec, small).count == 1
    assert tile_grid(300, 334, spec, small).count > 1
    assert min_side(Spec("image", multiple=8)) == 64
