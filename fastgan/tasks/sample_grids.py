"""Sample grids: images that show how far a generator has come. Drawing them changes nothing that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from fastgan.tasks.base import Batch
    from fastgan.tasks.generation import Generation

#: Images of a grid.
COUNT = 64
#: Images of the grids that compare, and rows and columns of those that interpolate or truncate.
COMPARED, ROWS, COLUMNS = 16, 4, 8
#: Pairs of the grids of paired images.
PAIRS = 8
#: By which latents are multiplied from left to right.
TRUNCATIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
CLASSES = 10


class Grid(NamedTuple):
    """images: float [N, C, H, W] in [-1, 1]. columns: as square as it gets where None. beside: a grid to its right.
    classes: the label of each row, where its images are of one class."""

    images: Tensor
    columns: int | None = None
    beside: Tensor | None = None
    classes: tuple[int, ...] = ()


def latents(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """z [64, *shape] of a grid, on the CPU, from a generator of its own for each seed and step."""
    (mixed,) = np.random.SeedSequence((seed, step, COUNT)).generate_state(1, np.uint64)
    source = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(COUNT, *shape, generator=source)


def path(first: Tensor, second: Tensor, count: int) -> Tensor:
    """[count, *shape]: from one set of latents to the other, both ends included.

    Along the circle and not the chord: in the middle of the chord latents are shorter than any that are drawn.
    """
    angle = torch.linspace(0, torch.pi / 2, count, device=first.device).view(-1, *[1] * first.dim())
    return torch.cos(angle) * first + torch.sin(angle) * second


def shown(images: Tensor, span: tuple[float, float]) -> Tensor:
    """Images of this range as float32 in [-1, 1] on the CPU, as grids take them."""
    low, high = span
    images = images.float().cpu()
    return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1


def images_of(generator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images of a generator for z [N, *latent_shape], and labels int64 [N] where it has classes; in turn if None."""
    classes = int(getattr(generator, "classes", 0))
    if not classes:
        return generator(z)
    return generator(z, torch.arange(len(z), device=z.device) % classes if labels is None else labels.to(z.device))


@torch.no_grad()
def of_generation(task: Generation, batch: Batch, step: int) -> dict[str, Grid]:
    """Images of fixed and of fresh latents, of interpolations, under truncation, by class, and beside real ones."""
    device, shape = next(task.generator.parameters()).device, task.latent_shape
    fixed, fresh = latents(task.seed, 0, shape), latents(task.seed, step, shape)

    def draw(z: Tensor, labels: Tensor | None = None) -> Tensor:
        return shown(task.enlarge(images_of(task.generator, z.to(device), labels)), task.range)

    def rows(z: Tensor, of_row: Tensor) -> Tensor:
        """Images of z [R, N, *latent_shape], each row of the class of its number where the generator has classes."""
        labels = of_row % max(1, task.classes)
        return draw(z.flatten(0, 1), labels.repeat_interleave(z.shape[1]))

    made = draw(fresh)
    found = {"fixed": Grid(draw(fixed)), "fresh": Grid(made)}
    strips = path(fixed[:ROWS], fixed[ROWS : 2 * ROWS], COLUMNS).transpose(0, 1)
    of_row = tuple(row % task.classes for row in range(ROWS)) if task.classes else ()
    found["strips"] = Grid(rows(strips, torch.arange(ROWS)), COLUMNS, classes=of_row)
    truncated = fixed[:ROWS, None] * torch.tensor(TRUNCATIONS).view(-1, *[1] * len(shape))
    found["truncation"] = Grid(rows(truncated, torch.arange(ROWS)), len(TRUNCATIONS), classes=of_row)
    if task.classes:
        # Rows of one class, columns of one latent.
        chosen = torch.linspace(0, task.classes - 1, min(task.classes, CLASSES)).round().long()
        same = fixed[:COLUMNS].expand(len(chosen), *fixed[:COLUMNS].shape)
        found["classes"] = Grid(rows(same, chosen), COLUMNS, classes=tuple(chosen.tolist()))
    real = shown(task.enlarge(batch[task.real][:COMPARED]), task.range)
    found["beside"] = Grid(real, 4, made[:COMPARED][: len(real)])
    if task.neighbors is not None:
        compared = made[:COMPARED]
        found["nearest"] = Grid(torch.stack([compared, task.neighbors.of(compared)], 1).flatten(0, 1), COLUMNS)
    return found


@torch.no_grad()
def of_pairs(
    generator: nn.Module,
    batch: Batch,
    held_out: Batch | None,
    span: tuple[float, float] = (-1.0, 1.0),
    mode: str = "nearest",
) -> dict[str, Grid]:
    """Sources, what is made of them and their targets, in three rows: of held-out pairs, and of the last batch.

    span: the range of all of them. mode: how sources are enlarged to the targets' size.
    """
    found = {}
    for kind, pairs in (("fixed", held_out), ("fresh", batch)):
        if pairs is not None:
            source, target = (shown(some(pairs[name]), span) for name in ("source", "target"))
            made = shown(generator(some(pairs["source"])), span)
            found[kind] = Grid(in_rows(source, made, target, mode), len(target))
    return found


@torch.no_grad()
def of_cycles(generator: nn.Module, batch: Batch, held_out: Batch | None) -> dict[str, Grid]:
    """Images of each domain, what is made of them, and what is made of that in turn, in three rows: of held-out images
    and of the last batch. Their names: "fixed_a" for A → B → A of held-out ones."""
    ways: Any = generator
    found = {}
    for kind, images in (("fixed", held_out), ("fresh", batch)):
        for domain, there, back in (("a", "a_to_b", "b_to_a"), ("b", "b_to_a", "a_to_b")):
            if images is not None:
                source = some(images[domain])
                made = ways[there](source)
                rows = [shown(each, (-1.0, 1.0)) for each in (source, made, ways[back](made))]
                found[f"{kind}_{domain}"] = Grid(in_rows(rows[0], rows[1], rows[2]), len(source))
    return found


@torch.no_grad()
def of_reconstructions(
    generator: nn.Module, batch: Batch, held_out: Batch | None, span: tuple[float, float] = (-1.0, 1.0)
) -> dict[str, Grid]:
    """Images and below them their reconstructions: of held-out ones, and of the last batch."""
    found = {}
    for kind, images in (("fixed", held_out), ("fresh", batch)):
        if images is not None:
            real = some(images["real"])
            found[kind] = Grid(torch.cat([shown(real, span), shown(generator(real), span)]), len(real))
    return found


@torch.no_grad()
def of_translations(generator: nn.Module, batch: Batch, held_out: Batch | None, identity: bool) -> dict[str, Grid]:
    """Images of domain a above what is made of them, and where `identity` says so those of b above what should be the
    same: "fixed_a" of held-out images, "fresh_a" of the last batch."""
    found = {}
    for kind, images in (("fixed", held_out), ("fresh", batch)):
        for domain in ("a", "b") if identity else ("a",):
            if images is not None:
                source = some(images[domain])
                rows = [shown(each, (-1.0, 1.0)) for each in (source, generator(source))]
                channels = max(row.shape[1] for row in rows)
                rows = [row.expand(-1, channels, *row.shape[2:]) for row in rows]
                found[f"{kind}_{domain}"] = Grid(torch.cat(rows), len(source))
    return found


def some(images: Tensor) -> Tensor:
    """PAIRS of images, from all of them: held-out ones are in the order of their set, in which classes may follow each
    other."""
    return images[:: max(len(images) // PAIRS, 1)][:PAIRS]


def in_rows(source: Tensor, made: Tensor, target: Tensor, mode: str = "nearest") -> Tensor:
    """A grid's images [3·N, C, H, W] of N pairs: sources as large as targets, both in color where one of them is.

    Sources that are no pictures, of other than 1 or 3 channels, are left out, as are those of targets that are none.
    """
    rows = [made, target]
    if source.dim() == target.dim() == 4 and {source.shape[1], target.shape[1]} <= {1, 3}:
        rows.insert(0, interpolate(source, size=target.shape[2:], mode=mode))
    channels = max(row.shape[1] for row in rows)
    return torch.cat([row.expand(-1, channels, *row.shape[2:]) for row in rows])
