"""Files and folders, with a session whose results are known exactly."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fastgan.errors import DataError, UsageError, WriteError
from fastgan.upscale.image import encoders
from fastgan.upscale.image.read import DecodedImage, read
from fastgan.upscale.image.write import write
from fastgan.upscale.images import upscale_folder, upscale_image


@pytest.fixture
def save(tmp_path, noise):
    """save("a.png", h, w, channels): noise as a file; returns the pixels."""

    def make(name, height=9, width=7, channels=3, dtype=np.uint8):
        pixels = noise(height, width, channels, dtype, seed=height * width)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, height, width, [pixels], DecodedImage(pixels))
        return pixels

    return make


def twice(pixels):
    return pixels.repeat(2, 0).repeat(2, 1)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_image(tmp_path, save, fake):
    pixels = save("in.png", 70, 50, 4, np.uint16)
    done = upscale_image(fake(reach=1), tmp_path / "in.png", tmp_path / "new" / "out.png", tile=32)
    np.testing.assert_array_equal(read(tmp_path / "new" / "out.png").pixels[..., 3], twice(pixels)[..., 3])
    assert done["out"] == tmp_path / "new" / "out.png"
    assert (done["size"], done["scaled_size"], done["tile"]) == ((70, 50), (140, 100), (32, 32))
    assert done["tiles"] == 6
    assert done["seconds"] > 0
    assert done["notes"] == []


def test_out_may_be_a_folder(tmp_path, save, fake):
    save("in.png")
    (tmp_path / "out").mkdir()
    assert upscale_image(fake(), tmp_path / "in.png", tmp_path / "out")["out"] == tmp_path / "out" / "in.png"
    Image.new("P", (3, 3)).save(tmp_path / "a.gif")
    assert upscale_image(fake(), tmp_path / "a.gif", tmp_path / "out")["out"] == tmp_path / "out" / "a.png"


def test_invalid_arguments(tmp_path, save, fake):
    save("in.png")
    (tmp_path / "folder" / "in.png").mkdir(parents=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    before = names(tmp_path)
    for source, out, words in (
        ("in.png", "out.psd", "ends in .png"),
        ("in.png", "in.png", "another file than the source"),
        ("in.png", "link.png", "another file than the source"),
        ("in.png", "folder", "is a folder"),
        ("none.png", "out.png", "does not exist"),
        ("folder", "out.png", "got the folder"),
    ):
        with pytest.raises(UsageError, match=words):
            upscale_image(fake(), tmp_path / source, tmp_path / out, overwrite=True)
    with pytest.raises(UsageError, match="generator from latents"):
        upscale_image(fake(kind="latent"), tmp_path / "in.png", tmp_path / "out.png")
    with pytest.raises(UsageError, match="tile"):
        upscale_image(fake(), tmp_path / "in.png", tmp_path / "out.png", tile=3)
    assert names(tmp_path) == before


def test_existing_files_are_kept_without_overwrite(tmp_path, save, fake):
    pixels = save("in.png")
    (tmp_path / "out.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists; overwrite=True replaces it"):
        upscale_image(fake(), tmp_path / "in.png", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == b"mine"
    upscale_image(fake(), tmp_path / "in.png", tmp_path / "out.png", overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / "out.png").pixels, twice(pixels))


def test_a_result_too_large_for_its_format_is_refused_before_the_network_runs(tmp_path, save, fake):
    save("in.png", 1, 9000)
    session = fake()
    with pytest.raises(DataError, match="would be 18000×2, and a side of a WEBP file has at most 16,383"):
        upscale_image(session, tmp_path / "in.png", tmp_path / "out.webp")
    assert session.shapes == []
    assert names(tmp_path) == ["in.png"]


@pytest.mark.parametrize("out", ["out.png", "out.jpg"])
def test_no_file_is_left_where_the_network_fails(tmp_path, save, fake, out):
    """Also at Ctrl-C: half of the tiles are done and written to the temporary file."""
    save("in.png", 200, 40)
    (tmp_path / out).write_bytes(b"before")
    for error in (RuntimeError("no"), KeyboardInterrupt()):

        class Failing(fake):
            def pixels(self, frames, error=error):
                if len(self.shapes) == 5:
                    raise error
                return super().pixels(frames)

        with pytest.raises(type(error)):
            upscale_image(Failing(), tmp_path / "in.png", tmp_path / out, tile=32, overwrite=True)
        assert names(tmp_path) == sorted(["in.png", out])
        assert (tmp_path / out).read_bytes() == b"before"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastgan-encode")]


def test_an_output_that_cannot_be_written(tmp_path, save, fake):
    save("in.png", 300, 40)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be created"):
        upscale_image(fake(), tmp_path / "in.png", tmp_path / "file" / "out.png", tile=32)
    # Not even root can write there.
    with pytest.raises((UsageError, WriteError), match="/proc"):
        upscale_image(fake(), tmp_path / "in.png", "/proc/out.png", tile=32)


def test_a_disk_that_runs_full(tmp_path, save, fake):
    """The writer fails while the network works: no deadlock, and its error is raised."""
    save("in.png", 400, 40)
    session = fake()
    with pytest.MonkeyPatch.context() as patch:

        def full(out, height, width, strips, source):
            next(iter(strips))
            raise WriteError("the disk is full")

        patch.setattr(encoders, "write", full)
        with pytest.raises(WriteError, match="the disk is full"):
            upscale_image(session, tmp_path / "in.png", tmp_path / "out.png", tile=32)
        save("folder/a.png")
        save("folder/b.png")
        with pytest.raises(WriteError, match="the disk is full"):
            upscale_folder(fake(), tmp_path / "folder", tmp_path / "out")


def test_a_folder(tmp_path, save, fake, noise):
    expected = {
        "a.png": save("in/a.png", 5, 6),
        "sub/deep/b.png": save("in/sub/deep/b.png", 40, 30, 1, np.uint16),
        "c.tiff": save("in/c.tiff", 1, 1),
        "d.png": noise(4, 4, 3),
    }
    Image.fromarray(expected["d.png"]).save(tmp_path / "in" / "d", format="PNG")  # an image by its content
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / "nothing").write_bytes(b"")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    report = upscale_folder(fake(), tmp_path / "in", tmp_path / "out", tile=32)
    assert report.done == 4
    assert [path.name for path, _ in report.failed] == ["broken.jpg", "empty.png"]
    assert "damaged" in report.failed[0][1]
    assert len(report.ignored) == 2
    assert names(tmp_path / "out") == sorted(expected)
    for name, pixels in expected.items():
        np.testing.assert_array_equal(read(tmp_path / "out" / name).pixels, twice(pixels))


def test_a_repeated_run_skips_complete_files(tmp_path, save, fake):
    for i in range(4):
        save(f"in/{i}.png", 8, 8 + i)
    upscale_folder(fake(), tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "1.png").write_bytes((tmp_path / "out" / "1.png").read_bytes()[:-5])
    (tmp_path / "out" / "2.png").unlink()
    save("out/3.png", 5, 5)  # complete, but of another size
    before = (tmp_path / "out" / "3.png").read_bytes()
    session = fake()
    report = upscale_folder(session, tmp_path / "in", tmp_path / "out")
    assert (report.done, report.skipped) == (2, 1)
    assert session.shapes == [(8, 9), (8, 10)]
    assert len(report.failed) == 1
    assert "another size, 5×5; overwrite=True" in report.failed[0][1]
    assert (tmp_path / "out" / "3.png").read_bytes() == before
    report = upscale_folder(fake(), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert (report.done, report.skipped, report.failed) == (4, 0, [])


def test_names_and_formats_in_a_folder(tmp_path, save, fake):
    save("in/a.png", channels=4)
    save("in/b.tiff", dtype=np.uint16, channels=1)
    report = upscale_folder(fake(), tmp_path / "in", tmp_path / "in" / "out", suffix="_x2", format="jpg")
    assert names(tmp_path / "in" / "out") == ["a_x2.jpg", "b_x2.jpg"]
    assert sum("white" in note or "rounded" in note for note in report.notes) == 2
    # The results lie inside the source folder and are not upscaled again.
    report = upscale_folder(fake(), tmp_path / "in", tmp_path / "in" / "out", suffix="_x2", format="jpg")
    assert (report.done, report.skipped) == (0, 2)
    save("in/a.webp")
    save("in/a.webp.png")
    with pytest.raises(UsageError, match="would both become"):
        upscale_folder(fake(), tmp_path / "in", tmp_path / "out", format="png")
    with pytest.raises(UsageError, match="format: expected png, jpg"):
        upscale_folder(fake(), tmp_path / "in", tmp_path / "out", format="gif")
    with pytest.raises(UsageError, match="another folder than the source"):
        upscale_folder(fake(), tmp_path / "in", tmp_path / "in" / "out" / "..", suffix="_x2")
    with pytest.raises(UsageError, match="expected a folder for the images"):
        upscale_folder(fake(), tmp_path / "in", tmp_path / "in" / "a.png")


def test_stages_overlap_and_wait(tmp_path, save, fake, monkeypatch):
    """With slow writers the network works meanwhile, and is ahead by a bounded number of images."""
    for i in range(8):
        save(f"in/{i}.png")
    gate, ahead, written = threading.Event(), [], []

    class Counting(fake):
        def pixels(self, frames):
            ahead.append(len(self.shapes) - len(written))
            if len(self.shapes) == 2:
                threading.Timer(0.2, gate.set).start()  # two images are upscaled and none is written
            return super().pixels(frames)

    def slow(out, height, width, strips, source):
        gate.wait(10)
        time.sleep(0.02)
        result = write(out, height, width, strips, source)
        written.append(out)
        return result

    monkeypatch.setattr(encoders, "write", slow)
    assert upscale_folder(Counting(), tmp_path / "in", tmp_path / "out").done == 8
    assert max(ahead) >= 2
    assert max(ahead) <= encoders.ENCODERS + 1


def test_ctrl_c_in_a_folder(tmp_path, save, fake):
    for i in range(6):
        save(f"in/{i}.png")

    class Interrupted(fake):
        def pixels(self, frames):
            if len(self.shapes) == 3:
                raise KeyboardInterrupt
            return super().pixels(frames)

    with pytest.raises(KeyboardInterrupt):
        upscale_folder(Interrupted(), tmp_path / "in", tmp_path / "out")
    there = names(tmp_path / "out")
    assert set(there) <= {"0.png", "1.png", "2.png"}
    for name in there:
        read(tmp_path / "out" / name)
    report = upscale_folder(fake(), tmp_path / "in", tmp_path / "out")
    assert report.done + report.skipped == 6


def test_progress_is_shown(tmp_path, save, fake, monkeypatch, caplog):
    from fastgan._util import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    save("in/a.png", 60, 60)
    upscale_image(fake(), tmp_path / "in" / "a.png", tmp_path / "a.png", tile=32)
    assert "upscaling a.png: 9 of 9 tiles" in caplog.text
    upscale_folder(fake(), tmp_path / "in", tmp_path / "out")
    assert "upscaling in: 1 of 1 images" in caplog.text


@pytest.mark.slow
def test_a_large_image_takes_bounded_memory(tmp_path):
    """60 megapixels, ×2: the result alone has 720 MB. Run in a separate process, to measure its peak memory."""
    code = """
import re
import numpy as np
from fastgan.upscale.image.png import PngWriter
from fastgan.runtime.spec import Spec
from fastgan.upscale.images import upscale_image

class Session:
    spec, fixed, device = Spec("image", scale=2, reach=1, range=(0.0, 1.0)), None, "cpu"
    def pixels(self, frames):
        return frames.repeat(2, 1).repeat(2, 2)

height, width = 6000, 10000
row = np.arange(width * 3, dtype=np.uint32)[None] // 999
with open("in.png", "wb") as file:
    png = PngWriter(file, height, width, 3, 8)
    for top in range(0, height, 500):
        png.write((row + np.arange(top, top + 500)[:, None] // 7).astype(np.uint8).reshape(500, width, 3))
    png.close()
done = upscale_image(Session(), "in.png", "out.png", tile=512)
# Not getrusage: its peak starts with that of the parent process.
print(done["tiles"], int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    tiles, megabytes = map(int, done.stdout.split())
    assert tiles == 12 * 20
    # Decoding takes 240 MB in Pillow and 180 in the array; afterwards strips of 61 MB are held.
    assert megabytes < 650
    with open(tmp_path / "out.png", "rb") as file:
        assert file.read(24)[16:] == (20_000).to_bytes(4) + (12_000).to_bytes(4)
