"""Upscale animated images (GIF, animated PNG and WebP) frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastgan._util.files import amount, writing_whole
from fastgan._util.memory import free_host_memory
from fastgan.errors import DataError
from fastgan.upscale.image.inference import Upscaler, upscale_strips
from fastgan.upscale.image.metadata import Metadata, pillow_options, png_chunks, read_metadata
from fastgan.upscale.image.read import apply_orientation, check_memory, open_image
from fastgan.upscale.image.write import ANIMATED, make_folder
from fastgan.upscale.tiles import TileGrid, TilePolicy, tile_grid

#: Options of Pillow's `save`: every frame is whole, and nothing of the one before shows through.
_OPTIONS: dict[str, dict[str, Any]] = {
    "GIF": {"disposal": 2},
    "PNG": {"disposal": 0, "blend": 0},
    "WEBP": {"quality": 95},
}


def frame_count(path: Path) -> int:
    """The number of frames of an animated image; 1 for any other image, and for TIFF, whose pages are none."""
    with open_image(path) as image:
        return 1 if image.format == "TIFF" else getattr(image, "n_frames", 1)


def animation_format(source: Path, out: Path) -> str:
    """The format of the file to write for an animation. Raises DataError for one that holds none."""
    if (kind := ANIMATED.get(out.suffix.lower())) is None:
        raise DataError(f"{source} is an animation; expected a name that ends in {', '.join(ANIMATED)}, got {out}")
    return kind


def upscale_animation(
    session: Upscaler, source: Path, out: Path, policy: TilePolicy, on_tile: Callable[[], None] = lambda: None
) -> tuple[TileGrid, list[str]]:
    """Upscale every frame. Durations and the number of repetitions are kept.

    Returns how each frame was split into tiles, and notes on what could not be kept. Raises DataError where `out` is
    of a format without animation, or the result does not fit into memory.
    """
    kind = animation_format(source, out)
    scale, notes = session.spec.scale, list[str]()
    with open_image(source) as image:
        check_memory(source, image, deep=False)
        count, (width, height) = image.n_frames, image.size  # type: ignore[attr-defined]
        # Pillow holds all frames until the file is written.
        needed = 4 * count * height * width * scale**2
        if needed > (free := free_host_memory()):
            raise DataError(
                f"{source} has {count} frames of {width}×{height}; upscaling them takes {amount(needed)}, and"
                f" {amount(free)} are free"
            )
        metadata, orientation = read_metadata(source, image, notes)
        frames, durations = list[Image.Image](), list[float]()
        # The first image of an animated PNG may be a still one, for programs that show no animations.
        for number in range(int(getattr(image, "default_image", False)), count):
            image.seek(number)
            pixels = apply_orientation(np.array(image.convert("RGBA")), orientation)
            durations.append(image.info.get("duration", 0))
            opaque = bool((pixels[..., 3] == 255).all())
            pixels = np.ascontiguousarray(pixels[..., :3] if opaque else pixels)
            grid = tile_grid(pixels.shape[0], pixels.shape[1], session.spec, policy)
            rows = np.concatenate(list(upscale_strips(session, pixels, grid, on_tile)))
            frames.append(Image.fromarray(rows).convert("RGBA"))
        plays, was = image.info.get("loop"), image.format
    options, lost = _png_options(metadata) if kind == "PNG" else pillow_options(kind, metadata)
    # GIF without a number of plays is played once; 1 is two plays there.
    if kind != "GIF":
        options["loop"] = 1 if plays is None else plays
    elif plays is not None and (plays != 1 or was == "GIF"):
        options["loop"] = plays
    make_folder(out)
    with writing_whole(out) as file:
        frames[0].save(
            file, kind, save_all=True, append_images=frames[1:], duration=durations, **_OPTIONS[kind], **options
        )
    if kind == "GIF":
        notes.append("GIF holds 256 colors a frame and no partial transparency; animated PNG and WebP hold all")
    return grid, notes + lost


def _png_options(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    """The metadata as options of Pillow's `save` for PNG."""
    others, options = PngInfo(), dict[str, Any]()
    for name, data in png_chunks(metadata):
        if name not in (b"iCCP", b"pHYs", b"eXIf"):
            others.add(name, data)
    named = {"icc_profile": metadata.icc, "dpi": metadata.dpi, "exif": metadata.exif, "pnginfo": others}
    options.update((name, value) for name, value in named.items() if value is not None)
    return options, []
