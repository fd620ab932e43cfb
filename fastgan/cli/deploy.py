"""fastgan sample: images from a trained generator."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fastgan.cli._parse import parse, positional
from fastgan.errors import UsageError


@dataclass
class _Sample:
    """Make a grid of images from a run or from an exported generator."""

    out: Path = Path("grid.png")
    """PNG to write"""
    n: int = 64
    """how many images"""
    seed: int = 0
    """seed of the latents; a run and its export give the same images for the same seed"""


def sample(argv: list[str]) -> None:
    """fastgan sample RUN|MODEL.onnx [--n 64] [--out grid.png] [--seed 0]"""
    source, rest = positional(argv, "sample", "RUN or MODEL.onnx", _Sample)
    options = parse(_Sample, rest, "sample")
    if not 1 <= options.n <= 10_000:
        raise UsageError(f"n: expected a number from 1 to 10000, got {options.n}")
    from fastgan.deploy.session import Session, latents
    from fastgan.report.picture import save_grid

    path = Path(source)
    if path.suffix == ".onnx":
        session = Session(path)
        z = latents(options.n, session.latent_shape, options.seed)
        start = time.perf_counter()
        images = session(z)
        where = f"{session.backend}, {session.provider}"
    else:
        import torch

        from fastgan.train.load import load_generator

        trained = load_generator(path)
        z = latents(options.n, trained.latent_shape, options.seed)
        start = time.perf_counter()
        images = trained.generator(torch.from_numpy(z)).numpy()
        where = f"PyTorch, step {trained.step}"
    seconds = time.perf_counter() - start
    try:
        save_grid(images, options.out, scale=max(1, 64 // images.shape[-1]))
    except OSError as error:
        raise UsageError(f"out: {options.out} cannot be written: {error.strerror or error}") from error
    print(f"{options.n} images in {1000 * seconds:.1f} ms ({where}): {options.out}")
