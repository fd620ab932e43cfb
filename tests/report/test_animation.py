"""The "fixed" sample grid as an animation."""

import numpy as np
from PIL import Image

from fastgan.report.animation import FRAMES, write_animation
from fastgan.report.images import save_png


def frames(path):
    with Image.open(path) as moving:
        found = []
        for i in range(moving.n_frames):
            moving.seek(i)
            moving.load()  # a frame's duration is known when it is
            found.append((np.asarray(moving.convert("L")).mean(), moving.info["duration"]))
    return found


def save(run, step, level, size=32):
    save_png(np.full((size, size, 3), level, np.uint8), run / "samples" / f"fixed-{step:08d}.png")


def test_frames_come_in_order_and_the_last_one_is_longer(tmp_path):
    for step, level in ((900, 240), (20, 40), (100, 140)):
        save(tmp_path, step, level)
    save(tmp_path, 200, 0, size=16)
    (tmp_path / "samples" / "fixed-00000300.png").write_bytes(b"no picture")
    path = write_animation(tmp_path)
    assert path == tmp_path / "samples" / "fixed.webp"
    found = frames(path)
    assert np.allclose([level for level, _ in found], [40, 140, 240], atol=3)
    assert [time for _, time in found] == [160, 160, 1600]
    before = path.read_bytes()
    assert write_animation(tmp_path).read_bytes() == before


def test_long_runs_are_thinned(tmp_path):
    for step in range(2 * FRAMES):
        save(tmp_path, step, 37 * step % 256)
    assert len(frames(write_animation(tmp_path))) == FRAMES


def test_one_grid_makes_no_animation(tmp_path):
    assert write_animation(tmp_path) is None
    save(tmp_path, 5, 100)
    assert write_animation(tmp_path) is None
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["fixed-00000005.png"]
