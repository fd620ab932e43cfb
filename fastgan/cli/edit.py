"""fastgan edit: one image moved along directions of w, by several strengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan.cli._parse import Class, parse
from fastgan.cli._styles import SUFFIX
from fastgan.errors import UsageError

METHODS = ("factorization", "pca", "examples")


@dataclass
class _Edit:
    """A grid of one image moved along directions: a row for each direction, a column for each strength."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """run directory, RUN/checkpoints/STEP, weights of a StyleGAN, or one file of an exported pair"""
    image: str = "0"
    """a seed, or the file of fastgan project"""
    method: str = "factorization"
    """factorization: eigenvectors of the style layers' weights; pca: principal components of w; examples: the
    difference of --positive and --negative; or a file of --save"""
    directions: str | None = None
    """numbers of directions, the strongest first; by default 0-4, as far as there are so many"""
    save: Path | None = None
    """.safetensors: the directions, for --method"""
    strengths: str = "-3,-1.5,0,1.5,3"
    """in standard deviations of w; for examples 1 is the whole difference"""
    layers: str | None = None
    """numbers of the layers that move, 0 the coarsest, such as 0-3; all of them when left out"""
    positive: str | None = None
    """seeds of examples that have a property, such as 3,8,21"""
    negative: str | None = None
    """seeds of examples that do not"""
    truncation: float = 1.0
    """psi: w of seeds is brought to this fraction of its distance from the mean"""
    class_: Class = None
    """of a conditional generator"""
    out: Path = Path("edit.png")
    """.png"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    overwrite: bool = False
    """replace an existing file"""


def edit(argv: list[str]) -> None:
    """fastgan edit RUN|FILE [--image SEED|FILE] [--method pca] [--directions 0-4] [--strengths -3,0,3] ..."""
    options = parse(_Edit, argv, "edit")
    if options.out.suffix.lower() != ".png":
        raise UsageError(f"out: expected a .png, got {options.out}")
    not_a_source(options.out, options.source)
    not_a_source(options.out, options.image)
    overwritable(options.out, options.overwrite)
    examples, saved = options.method == "examples", options.method.endswith(SUFFIX)
    if options.method not in METHODS and not saved:
        raise UsageError(f"method: expected {', '.join(METHODS)} or a file of --save, got {options.method!r}")
    if not 0 < options.truncation < 1e3:
        raise UsageError(f"truncation: expected a number > 0, got {options.truncation}")
    if options.save is not None:
        if options.save.suffix.lower() != SUFFIX or saved:
            what = f"a {SUFFIX}" if not saved else "no file, as its directions were saved before"
            raise UsageError(f"save: expected {what}, got {options.save}")
        not_a_source(options.save, options.source)
        not_a_source(options.save, options.image)
        overwritable(options.save, options.overwrite)
    for name in ("positive", "negative"):
        if examples != (getattr(options, name) is not None):
            what = "give seeds, such as 3,8,21" if examples else f"{options.method} takes no examples"
            raise UsageError(f"{name}: {what}")
    import torch

    from fastgan import editing
    from fastgan.cli._styles import class_number, images_of_w, open_styles, w_of
    from fastgan.cli.run_model import parse_seeds
    from fastgan.editing.styles import layers_of
    from fastgan.report.captions import above, beside_rows
    from fastgan.report.images import grid, save_png, to_uint8

    strengths = _numbers(options.strengths)
    layers = None if options.layers is None else parse_seeds(options.layers)
    network, names = open_styles(options.source, options.network, options.device)
    label = class_number(options.class_, network, names)
    w, noise = w_of(options.image, network, label, options.truncation)
    if len(w) != 1:
        raise UsageError(f"image: expected one seed or a file of one image, got {len(w)}")
    numbers = [0] if examples else parse_seeds(options.directions or "0-4")
    if saved:
        found = editing.Directions.load(Path(options.method), network)
        if options.directions is None:
            numbers = list(range(min(5, len(found.vectors))))
        if layers is not None:
            found = replace(found, layers=tuple(layers_of(network, layers)))
    elif examples:
        positive, negative = (w_of(str(text), network, label, 1.0)[0] for text in (options.positive, options.negative))
        found = editing.from_examples(network, positive, negative, layers)
    else:
        if options.method == "factorization" and isinstance(network, editing.ExportedGenerator):
            raise UsageError(
                "method: an exported file does not list the weights that factorization needs; take pca, or a file that"
                " fastgan edit RUN --save has written"
            )
        find = editing.factorization if options.method == "factorization" else editing.principal_components
        found = find(network, layers, max(numbers) + 1)
    if options.save is not None:
        found.save(options.save)
    moved = torch.cat([found.moved(w, number, strengths) for number in numbers])
    pixels = to_uint8(images_of_w(network, moved, noise).numpy())
    picture = grid(pixels, columns=len(strengths), scale=max(1, 64 // pixels.shape[-1]))
    picture = beside_rows(picture, [str(number) for number in numbers])
    save_png(above(picture, f"strengths {options.strengths}"), options.out)
    print(f"{len(numbers)} directions by {found.about}, strengths {options.strengths}: {options.out}")


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"strengths: expected numbers such as -3,0,3, got {text!r}") from None
    if not all(abs(one) < 1e6 for one in found):
        raise UsageError(f"strengths: expected numbers below a million, got {text!r}")
    return found
