"""Batches for training: images stay on the device as bytes where they fit, and are normalized there."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan._util.files import amount
from fastgan._util.memory import free_host_memory
from fastgan.data.imageset import ImageSet
from fastgan.data.prefetch import Prefetch
from fastgan.errors import DataError, UsageError

_CHUNK = 1 << 28  # bytes copied to the device at a time
_SAMPLED = 16  # images by which a set is known again


class BatchStream:
    """An endless iterator of batches [batch, C, H, W], float32 in [-1, 1], each epoch in a fresh order.

    labels: give pairs of such a batch and its labels, int64 [batch]. Raises UsageError where the set has none.

    The order is a function of the seed and the number of images alone: `position`, the number of images given so far by
    all ranks together, is the whole state.

    rank, world: this process, of how many. Of each batch · world images in the order, rank r gets the r-th batch: N
    ranks see together what a single one sees with N times the batch, and a run can go on with another world.
    held_out: so many images, drawn by the seed, are never given; they are `held_out`, M of them in the form of a batch.
    share: a set stays on the device when it takes at most this share of the memory free there (25 % where not given).
    Otherwise a thread gathers batches from where the set is, ahead, through pinned memory on CUDA; the batches are the
    same, bit for bit.
    """

    def __init__(
        self,
        images: ImageSet,
        batch: int,
        seed: int,
        device: torch.device,
        *,
        rank: int = 0,
        world: int = 1,
        held_out: int = 0,
        share: float = 0.25,
        labels: bool = False,
    ):
        if batch < 1:
            raise UsageError(f"batch: expected a number >= 1, got {batch}")
        if not 0 <= rank < world:
            raise UsageError(f"rank: expected a number from 0 to world - 1 = {world - 1}, got {rank}")
        if not 0 <= held_out < len(images):
            raise UsageError(f"held_out: expected 0 or more, fewer than the {len(images):,} images, got {held_out}")
        if not 0 <= share <= 1:
            raise UsageError(f"share: expected a share of the device's free memory, 0 to 1, got {share}")
        self._labels = torch.from_numpy(np.array(labels_of(images))).to(device) if labels else None
        self._name, self._count, self._fingerprint = images.name, len(images), fingerprint(images.images)
        self._batch, self._rank, self._world, self._device = batch, rank, world, device
        given, apart = _split(len(images), held_out, seed)
        self._position, self._order = 0, _Order(given, seed, device)
        unseen = normalize(torch.from_numpy(images.images[apart]).to(device))
        self.held_out = unseen if self._labels is None else (unseen, self._labels[torch.from_numpy(apart).to(device)])
        self._prefetch: Prefetch | None = None
        if images.images.nbytes <= share * free_memory(device):
            self._images: Tensor | np.ndarray = _copy(images.images, device)
        else:
            self._images = images.images

    @property
    def position(self) -> int:
        """How many images all ranks together were given so far."""
        return self._position

    @property
    def given(self) -> np.ndarray:
        """Numbers of the images that are given: all but those held out."""
        return self._order.given.cpu().numpy()

    @property
    def where(self) -> str:
        """Where the images are: "resident, 7.8 MB on cpu", or "memory map, prefetched"."""
        if isinstance(self._images, Tensor):
            return f"resident, {amount(self._images.nbytes)} on {self._device}"
        return f"{'memory map' if isinstance(self._images, np.memmap) else 'host memory'}, prefetched"

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        first = self._position + self._rank * self._batch
        resident = isinstance(self._images, Tensor)
        rows = self._order(first, self._batch) if resident or self._labels is not None else None
        pixels = self._images[rows] if isinstance(self._images, Tensor) else self._prefetched(self._images)
        # Only now: where gathering fails, nothing was given.
        self._position += self._batch * self._world
        return normalize(pixels) if self._labels is None else (normalize(pixels), self._labels[rows])

    def _prefetched(self, images: np.ndarray) -> Tensor:
        if self._prefetch is None:
            # The thread keeps what it is given, so that holds no `self`, and has an order of its own.
            order = _Order(self._order.given.cpu(), self._order.seed, torch.device("cpu"))
            first, batch, step = self._position + self._rank * self._batch, self._batch, self._batch * self._world
            self._prefetch = Prefetch(images, lambda i: order(first + i * step, batch).numpy(), self._device)
        try:
            return next(self._prefetch)
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None

    def state_dict(self) -> dict[str, Any]:
        """What to save to continue exactly, here or with another number of ranks."""
        return {
            "position": self._position,
            "name": self._name,
            "count": self._count,
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises DataError where that was on other images, or other batches."""
        if not isinstance(state, dict) or not isinstance(state.get("position"), int):
            came = f"one of {', '.join(map(str, state))}" if isinstance(state, dict) else type(state).__name__
            raise DataError(
                f"the state is of batches of another kind: expected one with a position, got {came}; give the batches"
                " that the run began with"
            )
        # Older states hold the position alone.
        if state.get("fingerprint", self._fingerprint) != self._fingerprint:
            raise DataError(
                f"the state is of {state.get('name', 'another set')} ({state['count']:,} images), not of these images, "
                f"{self._name} ({self._count:,} images); give the images it was trained on, or begin a new run"
            )
        self._stop()
        self._position = state["position"]


def _split(images: int, held_out: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Numbers of the images that are given, ascending, int64; and of those that are held out."""
    apart = np.sort(np.random.default_rng((seed, images)).permutation(images)[:held_out])
    return torch.from_numpy(np.setdiff1d(np.arange(images), apart)), apart


class _Order:
    """order(start, n): which images come at places start .. start + n - 1, epoch after epoch; int64 on the device.

    given: the numbers of the images there are.
    """

    def __init__(self, given: Tensor, seed: int, device: torch.device):
        self.seed, self.given = seed, given.to(device)
        self._images = len(given)
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, start: int, n: int) -> Tensor:
        parts = []
        while n:
            epoch, first = divmod(start, self._images)
            part = self._of(epoch)[first : first + n]
            parts.append(part)
            start, n = start + len(part), n - len(part)
        return torch.cat(parts)

    def _of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            # A seed sequence mixes the two numbers well; adding them would give seed 0's epoch 1 to seed 1.
            (seed,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
            source = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
            self._epoch = epoch
            self._permutation = self.given[torch.randperm(self._images, generator=source).to(self.given.device)]
        return self._permutation


def labels_of(images: ImageSet) -> np.ndarray:
    """The labels of a set, int64 [N]. Raises UsageError where it has none."""
    if images.labels is None:
        raise UsageError(
            f"labels: {images.name} has none, and conditional networks learn from them; give labeled images (a folder"
            " for each class, a zip with dataset.json, IDX or npz with labels), or leave --condition out"
        )
    return images.labels


def normalize(pixels: Tensor) -> Tensor:
    """uint8 0..255 → float32 in [-1, 1]: the one place where pixels become network input."""
    return pixels.float().div_(127.5).sub_(1)


def fingerprint(images: np.ndarray) -> str:
    """A digest of a set's shape and a few of its images: cheap, and enough to tell one set from another."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for i in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).round().astype(np.int64)):
        digest.update(images[i].tobytes())
    return digest.hexdigest()


def free_memory(device: torch.device) -> int:
    """Bytes free on the device; of the machine's memory where it is no CUDA device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_memory()


def _copy(images: np.ndarray, device: torch.device) -> Tensor:
    """The images on the device. In pieces: a memory map is never in memory as a whole beside its copy."""
    copy = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, _CHUNK // images[0].nbytes)
    for start in range(0, len(images), step):
        copy[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return copy
