"""Sample grids of a run as PNG files, and the nearest training image of each sample."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgan._util import random as rng
from fastgan._util.notebook import Picture
from fastgan.errors import UsageError
from fastgan.metrics.neighbors import nearest, thumbnails
from fastgan.report.captions import beside_rows
from fastgan.report.images import beside, grid, save_png, to_uint8
from fastgan.tasks import Generation, Task
from fastgan.tasks.base import Batch
from fastgan.tasks.sample_grids import COMPARED, Grid, images_of, shown
from fastgan.train.state import TrainState

#: Training images that are searched, and the bytes that they may take: the search has to stay a small part of a run.
AMONG, BYTES = 4096, 1 << 28


class NearestNeighbors:
    """Searches images uint8 [M, C, H, W], or an even choice of them where they are many, by pixels of thumbnails.

    Raises UsageError for images of another kind.
    """

    def __init__(self, images: np.ndarray):
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            came = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise UsageError(f"reference: expected images as uint8 [M, C, H, W] with M > 0, got {came}")
        self._images = images
        count = max(1, min(len(images), AMONG, BYTES // images[0].nbytes))
        self._chosen = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
        self._points = thumbnails(images[self._chosen])

    @property
    def about(self) -> dict[str, int]:
        """How many images are searched, of how many."""
        return {"among": len(self._chosen), "of": len(self._images)}

    @property
    def shape(self) -> list[int]:
        """[C, H, W] of the images."""
        return list(self._images.shape[1:])

    def of(self, images: Tensor) -> Tensor:
        """The image nearest to each of `images` [N, C, H, W]; both in [-1, 1]."""
        _, which = nearest(thumbnails(to_uint8(images.numpy())), self._points)
        return torch.from_numpy(self._images[self._chosen[which.numpy()]].astype(np.float32) / 127.5 - 1.0)


@torch.no_grad()
def sample(generator: nn.Module, z: Tensor, device: torch.device, labels: Tensor | None = None) -> np.ndarray:
    """Images of a generator from latents anywhere, as float32 [N, C, H, W] in numpy."""
    return images_of(generator, z.to(device), labels).float().cpu().numpy()


def save_all(state: TrainState, folder: Path) -> list[Path]:
    """Every sample grid of this step as NAME-STEP.png in a folder. The random numbers of the run stay as they are."""
    with rng.preserved(state.device), torch.no_grad():
        averaged = state.task.with_generator(state.ema.module)
        grids = averaged.samples(state.batch, state.held_out, state.step)
    dataset = state.about.get("dataset")
    class_names = dataset.get("class_names", ()) if isinstance(dataset, dict) else ()
    paths = {folder / f"{name}-{state.step:08d}.png": found for name, found in grids.items()}
    for path, found in paths.items():
        save(_grid(found), path, class_names)
    return [path for path in paths if path.exists()]


def show(state: TrainState, picture: Picture) -> None:
    """Show the first sample grid of this step in a notebook, of a run without a directory too."""
    with tempfile.TemporaryDirectory() as temporary:
        if state.run is None:
            paths = save_all(state, Path(temporary))
        else:
            paths = sorted((state.run / "samples").glob(f"*-{state.step:08d}.png"))
        first = [path for path in paths if path.name.startswith("fixed-")] or paths
        if first:
            picture.show(first[0])


def save_real(task: Task, batch: Batch, run: Path) -> None:
    """The first real images of a run as samples/real.png."""
    span = task.range if isinstance(task, Generation) else (-1.0, 1.0)
    save(Grid(shown(batch[task.real][: 4 * COMPARED], span)), run / "samples" / "real.png")


def save(found: Grid, path: Path, class_names: Sequence[str] = ()) -> None:
    """A grid as PNG, where its images are pictures of 1 or 3 channels; rows of one class with its name, or number."""
    images = found.images.float().cpu()
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        return
    # Pixels of small images are enlarged: they would be too small to see.
    scale = max(1, 64 // images.shape[-1])
    if found.beside is None:
        picture = grid(to_uint8(images.numpy()), found.columns, scale=scale)
        if found.classes:
            names = [class_names[label] if label < len(class_names) else str(label) for label in found.classes]
            picture = beside_rows(picture, names)
        save_png(picture, path)
    else:
        left, right = (
            grid(to_uint8(each.float().cpu().numpy()), found.columns, scale=scale) for each in (images, found.beside)
        )
        save_png(beside(left, right), path)


def _grid(found: Grid | Tensor | tuple[Tensor, int]) -> Grid:
    if isinstance(found, Tensor):
        return Grid(found)
    return found if isinstance(found, Grid) else Grid(*found)
