"""Convert a video's YUV to RGB and back with the matrix and range of the source, passed to swscale explicitly.

The numbers are FFmpeg's (AVColorSpace, AVColorRange ...), as in the attributes of frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastgan.errors import DataError

if TYPE_CHECKING:
    import av

RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6
#: Names of the matrices that can be converted; others are an error.
MATRICES = {BT709: "bt709", 4: "fcc", 5: "bt470bg", BT601: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
#: Matrix of a frame → swscale's number of it.
_SWSCALE = {BT709: 1, 4: 4, 5: 5, BT601: 5, 7: 7, 9: 9}
TV, PC = 1, 2
#: Transfer functions of high dynamic range.
HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Color:
    """The color description of a video. primaries, transfer: those of the source, possibly unspecified."""

    matrix: int
    range: int
    primaries: int
    transfer: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Color:
        """The tags of a frame; where they are unspecified, the defaults of players by size and pixel format.

        The matrix must be decided here: an untagged small video is BT.601, but players take a large one for BT.709.
        Raises DataError for a matrix that cannot be converted.
        """
        name = frame.format.name
        matrix, span = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb or matrix == RGB:
            matrix, span = BT709, TV  # for the result; RGB needs no conversion
        elif matrix == UNSPECIFIED:
            matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
        elif matrix not in MATRICES:
            raise DataError(
                f"the video's color matrix is number {matrix} of H.273, which cannot be converted;"
                f" expected one of {', '.join(MATRICES.values())}"
            )
        if name.startswith(("yuvj", "gray")) and span != TV:
            span = PC
        return cls(matrix, PC if span == PC else TV, int(frame.color_primaries), int(frame.color_trc))

    def tag(self, frame: av.VideoFrame) -> None:
        """Set the tags of a YUV frame."""
        frame.colorspace, frame.color_range = self.matrix, self.range
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer


class ToRGB:
    """Convert YUV, gray or RGB frames of 8 to 16 bits to uint8 [H, W, 3]."""

    def __init__(self, color: Color):
        from av.video.reformatter import VideoReformatter

        self._color, self._reformatter, self._interpolation = color, VideoReformatter(), _interpolation()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns a view that the next call overwrites."""
        if not frame.format.is_rgb:
            frame.colorspace, frame.color_range = self._color.matrix, self._color.range
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=self._interpolation, threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        return rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


class ToYUV:
    """Convert uint8 [H, W, 3] to frames of a pixel format, with the matrix, range and tags of a Color.

    Limited range is rounded to the nearest level. In full range swscale 9.5 writes chroma centered on 127.5 and reads
    it centered on 128: it is half a level too low on average, which is one level of blue or red.
    """

    def __init__(self, color: Color, pixels: str):
        from av.video.reformatter import VideoReformatter

        self._color, self._pixels = color, pixels
        self._reformatter, self._interpolation = VideoReformatter(), _interpolation()

    def __call__(self, rgb: np.ndarray) -> av.VideoFrame:
        import av

        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(rgb, format="rgb24"),
            format=self._pixels,
            dst_colorspace=_SWSCALE[self._color.matrix],
            dst_color_range=self._color.range,
            interpolation=self._interpolation,
            threads=1,
        )
        self._color.tag(frame)
        return frame


def _interpolation() -> int:
    from av.video.reformatter import Interpolation

    # Without these flags swscale takes chroma from every second pixel only, and rounds more coarsely.
    return (
        Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    )
