"""fastgan run: pictures, a grid or a walk from an exported generator alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fastgan.cli._parse import Class, parse, positional
from fastgan.errors import UsageError

_VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".webp", ".gif")


@dataclass
class _Run:
    """Make pictures with an exported generator. What is made follows from --out."""

    seeds: str = "0-63"
    """such as 0-63 or 1,5,9: a seed is one picture, always the same"""
    out: Path = Path("grid.png")
    """.png: a grid; .mp4, .webm, .mkv, .mov, .webp or .gif: a walk from seed to seed; a folder: one picture each"""
    class_: Class = None
    """of a conditional generator; when left out, a seed's is its number modulo all, and a walk's is its first seed's"""
    frames: int = 60
    """of a walk, from a seed up to the next"""
    fps: float = 30.0
    """of a walk, per second"""
    loop: bool = False
    """let a walk return to its first seed"""
    batch: int = 16
    """pictures made at once"""


def run(argv: list[str]) -> None:
    """fastgan run MODEL.onnx [--seeds 0-63] [--class 3] [--out FOLDER|grid.png|walk.mp4] [--frames 60] [...]"""
    source, rest = positional(argv, "run", "MODEL.onnx", _Run)
    options = parse(_Run, rest, "run")
    for name, most in (("frames", 100_000), ("batch", 4096)):
        if not 1 <= getattr(options, name) <= most:
            raise UsageError(f"{name}: expected a number from 1 to {most}, got {getattr(options, name)}")
    from fastgan.runtime import generate
    from fastgan.runtime.session import Session

    seeds = generate.parse_seeds(options.seeds)
    out, suffix = options.out, options.out.suffix.lower()
    if suffix and suffix != ".png" and suffix not in _VIDEOS and not out.is_dir():
        raise UsageError(f"out: expected a folder, a .png, or one of {', '.join(_VIDEOS)}, got {out}")
    session = Session(source)
    start = time.perf_counter()
    if suffix in _VIDEOS and not out.is_dir():
        count = generate.save_walk(
            session,
            seeds,
            out,
            frames=options.frames,
            fps=options.fps,
            loop=options.loop,
            batch=options.batch,
            label=options.class_,
        )
        what = f"a walk of {count} frames"
    elif suffix == ".png" and not out.is_dir():
        what = f"{generate.save_sheet(session, seeds, out, options.batch, options.class_)} pictures in a grid"
    else:
        what = f"{generate.save_pictures(session, seeds, out, options.batch, options.class_)} pictures"
    print(f"{what} in {time.perf_counter() - start:.1f} s ({session.provider}): {out}")
