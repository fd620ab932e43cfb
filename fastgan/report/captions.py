"""Words on pictures of images: a line above, or a name beside each row. Uses numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Pixels: of a line of text, and the widest column of names.
LINE, WIDEST = 16, 160


def above(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture uint8 [H, W, 3] under a line of text, which is cut where it is wider: uint8 [H + LINE, W, 3]."""
    return np.concatenate([_written([text], picture.shape[1], LINE), picture])


def beside_rows(picture: np.ndarray, names: Sequence[str], margin: int = 2) -> np.ndarray:
    """A picture uint8 [H, W, 3] of as many rows as names, `margin` pixels apart, with the name of each to its left."""
    font = ImageFont.load_default()
    width = min(WIDEST, max(int(font.getlength(_plain(name))) for name in names) + 6)
    column = np.full((picture.shape[0], width, 3), 255, np.uint8)
    height = (picture.shape[0] - margin) // len(names)
    written = _written(names, width, height)
    column[margin : margin + len(written)] = written[: picture.shape[0] - margin]
    return np.concatenate([column, picture], axis=1)


def _written(lines: Sequence[str], width: int, height: int) -> np.ndarray:
    """Black on white, each line in the middle of `height` pixels: uint8 [len(lines) · height, width, 3]."""
    sheet = Image.new("RGB", (width, height * len(lines)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, line in enumerate(lines):
        draw.text((3, (i + 0.5) * height), _plain(line), "black", font, anchor="lm")
    return np.asarray(sheet)


def _plain(text: str) -> str:
    """Names come from folders: without what is no printable character, and of bounded length."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
