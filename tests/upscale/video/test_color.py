"""Colors: conversions against the formulas of the standards, and colors of the whole pipeline."""

import numpy as np
import pytest

av = pytest.importorskip("av")

from fastgan.errors import DataError  # noqa: E402
from fastgan.upscale.video.color import BT601, BT709, PC, TV, Color, ToRGB, ToYUV  # noqa: E402

WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
KINDS = [(matrix, span) for matrix in WEIGHTS for span in (TV, PC)]


def by_formula(yuv, matrix, span):
    """uint8 [3, H, W] → RGB as float [H, W, 3], by H.273."""
    y, u, v = yuv.astype(np.float64)
    red, blue = WEIGHTS[matrix]
    y, u, v = ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224) if span == TV else (y / 255, u / 255, v / 255)
    if span == PC:
        u, v = u - 128 / 255, v - 128 / 255
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.stack([r, g, b], -1), 0, 255)


@pytest.mark.parametrize(("matrix", "span"), KINDS)
def test_the_conversion_follows_the_standard(matrix, span):
    rng = np.random.default_rng(0)
    color = Color(matrix, span, 1, 1)
    yuv = rng.integers(16, 236, (3, 32, 64), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(yuv, format="yuv444p")
    assert np.abs(ToRGB(color)(frame) - by_formula(yuv, matrix, span)).max() <= 1

    rgb = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    back = ToYUV(color, "yuv444p")(rgb)
    assert Color.of(back) == color
    # Half a level of each of Y, U and V.
    assert np.abs(by_formula(back.to_ndarray(), matrix, span) - rgb).max() <= 2.5


def patches(number, height, width):
    """Flat squares of 16 × 16 in saturated and dark colors, others in each frame."""
    rng = np.random.default_rng(number)
    colors = rng.integers(10, 246, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return colors.repeat(16, 0).repeat(16, 1)[:height, :width]


def inner(picture, scale):
    """The middles of the squares: 4:2:0 mixes colors at their edges."""
    return picture[7 * scale :: 16 * scale, 7 * scale :: 16 * scale].astype(int)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("span", [TV, PC])
@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_colors_stay_within_two_levels(kit, upscale, tmp_path, matrix, span, scale):
    color = Color(matrix, span, 5, 6)
    kit.write_clip(tmp_path / "in.mp4", 4, (64, 96), color=color, draw=patches)
    upscale(kit.Nearest(scale), tmp_path / "in.mp4", tmp_path / "out.mp4", crf=0)
    source, result = kit.inspect(tmp_path / "in.mp4"), kit.inspect(tmp_path / "out.mp4")
    assert source.color == result.color == color
    for before, after in zip(source.pictures, result.pictures, strict=True):
        error = np.abs(inner(after, scale) - inner(before, 1))
        assert error.max() <= 2
        # See ToYUV about full range.
        tint = np.abs(inner(before, 1).mean((0, 1)) - inner(after, scale).mean((0, 1)))
        assert tint.max() < (0.7 if span == TV else 1.5)


def test_an_untagged_small_video_keeps_the_matrix_that_players_assume(kit, upscale, tmp_path):
    """Enlarged to 1280 × 720 without a tag, its BT.601 would be shown as BT.709."""
    kit.write_clip(tmp_path / "in.mp4", 2, (180, 320), tagged=False, draw=patches)
    assert kit.inspect(tmp_path / "in.mp4").color == Color(2, 0, 2, 2)
    done = upscale(kit.Nearest(4), tmp_path / "in.mp4", tmp_path / "out.mp4", crf=1)
    result = kit.inspect(tmp_path / "out.mp4")
    assert result.color == Color(BT601, TV, 2, 2)
    assert "smpte170m, limited range" in done.log
    assert np.abs(inner(result.pictures[1], 4) - inner(patches(1, 180, 320), 1)).max() <= 4


def test_large_untagged_videos_are_bt709():
    def frame(width, height):
        return av.VideoFrame(width, height, "yuv420p")

    assert Color.of(frame(1280, 536)).matrix == Color.of(frame(960, 720)).matrix == BT709
    assert Color.of(frame(720, 576)).matrix == BT601


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels", "written", "message"),
    [
        ("libx264", ".mp4", "yuv422p", "yuv444p", ""),
        ("libx264", ".mp4", "yuv444p", "yuv444p", ""),
        ("libx264", ".mp4", "yuv420p10le", "yuv420p", "10 bits a component (yuv420p10le), the result has 8"),
        ("libx264", ".mp4", "yuvj420p", "yuv420p", "full range"),
        ("ffv1", ".mkv", "gray", "yuv420p", "full range"),
        ("ffv1", ".mkv", "bgr0", "yuv444p", "bt709"),
        ("ffv1", ".mkv", "yuva420p", "yuv420p", "the transparency of yuva420p is left out"),
        ("png", ".mov", "rgb24", "yuv444p", "bt709"),
        ("png", ".mov", "rgba", "yuv444p", "the transparency of rgba is left out"),
        ("mjpeg", ".avi", "yuvj420p", "yuv420p", "full range"),
    ],
)
def test_pixel_formats(kit, upscale, tmp_path, codec, suffix, pixels, written, message):
    def draw(number, height, width):
        picture = patches(number, height, width)
        return picture[:, :, :1].repeat(3, 2) if pixels == "gray" else picture

    span = PC if pixels in ("gray", "yuvj420p") else TV
    source = tmp_path / f"in{suffix}"
    kit.write_clip(source, 3, (64, 96), pixels=pixels, codec=codec, color=Color(BT709, span, 1, 1), draw=draw)
    done = upscale(kit.Nearest(1), source, tmp_path / "out.mp4", crf=0)
    result = kit.inspect(tmp_path / "out.mp4")
    assert result.pixels.replace("yuvj", "yuv") == written
    assert message in done.log
    tolerance = 5 if "10le" in pixels else 3  # ten bits are dithered into eight
    for before, after in zip(kit.inspect(source).pictures, result.pictures, strict=True):
        assert np.abs(inner(before, 1) - inner(after, 1)).max() <= tolerance


def test_hdr_is_logged(kit, upscale, tmp_path):
    kit.write_clip(tmp_path / "in.mp4", 2, pixels="yuv420p10le", color=Color(9, TV, 9, 16))
    done = upscale(kit.Nearest(1), tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert "the source is HDR (PQ)" in done.log
    assert kit.inspect(tmp_path / "out.mp4").color == Color(9, TV, 9, 16)


def test_a_matrix_that_cannot_be_converted(kit, upscale, tmp_path):
    frame = av.VideoFrame(16, 16, "yuv444p")
    frame.colorspace = 8
    with pytest.raises(DataError, match=r"color matrix is number 8 of H\.273, which cannot be converted"):
        Color.of(frame)
