import numpy as np
import pytest
from PIL import Image

from fastgan.errors import DataError
from fastgan.upscale.images import upscale_folder, upscale_image


def frames_of(path):
    with Image.open(path) as image:
        result = []
        for number in range(image.n_frames):
            image.seek(number)
            result.append((np.asarray(image.convert("RGBA")), image.info.get("duration")))
        return result, image.info.get("loop")


@pytest.fixture
def animation(tmp_path):
    """animation(name): three frames of a moving square on a ground that is transparent, of 30, 60 and 90 ms."""

    def make(name, transparent=True, **options):
        frames = []
        for i in range(3):
            pixels = np.zeros((12, 16, 4), np.uint8)
            pixels[...] = (0, 0, 0, 0) if transparent else (10, 20, 30, 255)
            pixels[4:8, 4 * i : 4 * i + 4] = 200, 40 * i, 0, 255
            frames.append(Image.fromarray(pixels))
        options = {"loop": 0, "duration": [30, 60, 90], **options}
        if name.endswith("webp"):
            options |= {"lossless": True, "exact": True}
        (tmp_path / name).parent.mkdir(exist_ok=True)
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], disposal=2, **options)
        return tmp_path / name

    return make


@pytest.mark.parametrize("transparent", [True, False])
@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_every_frame_is_upscaled(tmp_path, animation, fake, suffix, transparent):
    source = animation(f"a.{suffix}", transparent)
    result = upscale_image(fake(), source, tmp_path / f"b.{suffix}")
    assert result["scaled_size"] == (24, 32)
    before, loop = frames_of(source)
    after, loop_after = frames_of(tmp_path / f"b.{suffix}")
    assert loop == loop_after == 0
    assert [duration for _, duration in after] == [duration for _, duration in before] == [30, 60, 90]
    for (old, _), (new, _) in zip(before, after, strict=True):
        expected = old.repeat(2, 0).repeat(2, 1).astype(int)
        np.testing.assert_array_equal(new[..., 3], expected[..., 3])
        seen = expected[..., 3] > 0
        error = np.abs(new.astype(int) - expected)[seen]
        assert error.mean() < (6 if suffix == "webp" else 0.01)


def test_plays_of_each_format(tmp_path, animation, fake):
    once = animation("a.gif", loop=None)
    upscale_image(fake(), once, tmp_path / "b.png")
    assert frames_of(tmp_path / "b.png")[1] == 1
    upscale_image(fake(), tmp_path / "b.png", tmp_path / "c.gif")
    assert frames_of(tmp_path / "c.gif")[1] is None


def test_a_still_image_before_an_animated_png_is_no_frame(tmp_path, animation, fake):
    source = animation("a.png", default_image=True)
    upscale_image(fake(), source, tmp_path / "b.png")
    frames, _ = frames_of(tmp_path / "b.png")
    np.testing.assert_array_equal(frames[0][0][..., 3], frames_of(source)[0][1][0][..., 3].repeat(2, 0).repeat(2, 1))


def test_formats_without_animation_are_refused(tmp_path, animation, fake):
    with pytest.raises(DataError, match=r"is an animation; expected a name that ends in .gif, .png, .webp, got"):
        upscale_image(fake(), animation("a.gif"), tmp_path / "b.jpg")


def test_animations_that_do_not_fit_into_memory_are_refused(tmp_path, animation, fake, monkeypatch):
    from fastgan.upscale.image import animation as module

    monkeypatch.setattr(module, "free_host_memory", lambda: 5000)
    with pytest.raises(DataError, match=r"has 3 frames of 16×12; upscaling them takes 9 kB, and 5 kB are free"):
        upscale_image(fake(), animation("a.gif"), tmp_path / "b.gif")


def test_a_folder_of_mixed_files(tmp_path, animation, fake, noise):
    folder = animation("in/a.gif").parent
    Image.fromarray(noise(6, 6)).save(folder / "a.png")
    Image.fromarray(noise(6, 6)).save(folder / "still.gif")
    Image.fromarray(noise(6, 6)).save(folder / "photo.jfif", format="JPEG")
    Image.fromarray(noise(6, 6)).save(folder / ("n" * 254), format="PNG")
    (folder / "clip.heic").write_bytes(b"\0\0\0\x18ftypheic")
    report = upscale_folder(fake(), folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.gif", "a.png", "photo.jfif", "still.png"]
    assert len(frames_of(tmp_path / "out" / "a.gif")[0]) == 3
    assert report.done == 4
    assert [path.name for path in report.ignored] == ["clip.heic"]
    assert [path.name for path, _ in report.failed] == ["n" * 254]
    report = upscale_folder(fake(), folder, tmp_path / "out")
    assert (report.done, report.skipped) == (0, 4)
    report = upscale_folder(fake(), folder, tmp_path / "png", format="png")
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [
        "a.gif.png", "a.png", "photo.png", "still.png",
    ]  # fmt: skip
