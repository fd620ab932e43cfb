"""From a video's own YUV to RGB and back: matrix and range are the source's, said to swscale in both directions.

Numbers are FFmpeg's (AVColorSpace and its like), as frames carry them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastgan.errors import DataError

if TYPE_CHECKING:
    import av

RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6
#: Names of the matrices that can be converted; anything else is refused, not guessed.
MATRICES = {BT709: "bt709", 4: "fcc", 5: "bt470bg", BT601: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
#: A frame's matrix as swscale numbers it.
_SWSCALE = {BT709: 1, 4: 4, 5: 5, BT601: 5, 7: 7, 9: 9}
TV, PC = 1, 2
#: Transfers of high dynamic range: PQ and HLG.
HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Color:
    """How the numbers of a video are meant. primaries, transfer: as the source says them, unspecified included."""

    matrix: int
    range: int
    primaries: int
    transfer: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Color:
        """What a frame says, and what players take it for where it says nothing: by its size and its pixel format.

        The matrix must be settled here: an untagged small video is BT.601, and would be taken for BT.709 once enlarged.
        """
        name = frame.format.name
        matrix, span = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb or matrix == RGB:
            matrix, span = BT709, TV  # of what is written; to RGB there is nothing to convert
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
        """Write it on a YUV frame."""
        frame.colorspace, frame.color_range = self.matrix, self.range
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer


class ToRGB:
    """YUV, gray or RGB frames of 8 to 16 bits to uint8 [H, W, 3]."""

    def __init__(self, color: Color):
        from av.video.reformatter import VideoReformatter

        self._color, self._reformatter, self._how = color, VideoReformatter(), _accurate()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A view of converted memory; copy it to keep it."""
        if not frame.format.is_rgb:
            frame.colorspace, frame.color_range = self._color.matrix, self._color.range
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=self._how, threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        return rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


class ToYUV:
    """uint8 [H, W, 3] to frames of a pixel format, in the matrix and range of a Color and tagged with it.

    Limited range comes out rounded to the nearest. In full range swscale 9.5 centers chroma on 127.5 and reads it back
    from 128: it is half a level low on average, which is one level of blue or red.
    """

    def __init__(self, color: Color, pixels: str):
        from av.video.reformatter import VideoReformatter

        self._color, self._pixels = color, pixels
        self._reformatter, self._how = VideoReformatter(), _accurate()

    def __call__(self, picture: np.ndarray) -> av.VideoFrame:
        import av

        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(picture, format="rgb24"),
            format=self._pixels,
            dst_colorspace=_SWSCALE[self._color.matrix],
            dst_color_range=self._color.range,
            interpolation=self._how,
            threads=1,
        )
        self._color.tag(frame)
        return frame


def _accurate() -> int:
    from av.video.reformatter import Interpolation

    # Without these, swscale takes chroma from one pixel of two, and rounds more coarsely.
    return (
        Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    )
