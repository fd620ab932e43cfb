"""Several processes that upscale into the same files: every picture that stands there is a whole one of somebody's."""

import multiprocessing

import numpy as np
from PIL import Image

from fastgan.runtime.spec import Spec
from fastgan.upscale import upscale_folder, upscale_image


class Shade:
    """A network whose pictures are all of one gray level."""

    spec, fixed, device = Spec("image", channels=3, scale=2, range=(0.0, 1.0)), None, "cpu"

    def __init__(self, level):
        self.level = level

    def pixels(self, frames):
        n, height, width, channels = frames.shape
        return np.full((n, 2 * height, 2 * width, channels), self.level, frames.dtype)


def work(level, folder, out, times):
    session = Shade(level)
    for _ in range(times):
        upscale_image(session, folder / "0.png", out / "single.png", tile=0, overwrite=True)
        report = upscale_folder(session, folder, out, tile=0, overwrite=True)
        assert (report.done, report.failed) == (3, [])


def test_two_processes_with_the_same_output(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for i in range(3):
        Image.fromarray(np.full((120, 160, 3), i, np.uint8)).save(folder / f"{i}.png")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work, args=(50 * (i + 1), folder, out, 4)) for i in range(2)]
    for child in children:
        child.start()
    seen = set()
    while any(child.is_alive() for child in children):
        for path in out.glob("[!.]*"):
            with Image.open(path) as picture:
                found = np.unique(np.asarray(picture))
            assert len(found) == 1
            seen.add(int(found[0]))
    assert [child.exitcode for child in children] == [0] * 2
    assert seen == {50, 100}
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png", "single.png"]
