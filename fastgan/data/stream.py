"""Batches for training: images are kept on the device as uint8 where they fit, and normalized there."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan._util.files import amount
from fastgan._util.memory import free_host_memory
from fastgan._util.options import option
from fastgan.data.imageset import ImageSet
from fastgan.data.prefetch import Prefetch
from fastgan.errors import DataError, UsageError

_CHUNK = 1 << 28  # bytes copied to the device at a time
_SAMPLED = 16  # images that the fingerprint of a set hashes


class BatchStream:
    """An endless iterator of batches [batch, C, H, W], float32 in [-1, 1] on `device`, reshuffled every epoch.

    labels: yield pairs of such a batch and its labels, int64 [batch]. Raises UsageError where the set has none.
    partners: yield in place of each image another one of its class, drawn anew every epoch; the same where it is the
    only one. A stream with and one without `partners`, alike in all else, yield the pairs. Needs labels too.

    The order depends on the seed and the number of images only: `position`, the number of images that all ranks
    together have yielded, is the whole state.

    rank, world: index of this process, and their number. Of each batch · world images in the order, rank r yields the
    r-th batch: N ranks yield together what a single one yields with N times the batch, and a run can be resumed with
    another world size.
    held_out: number of images, drawn by the seed, that are never yielded; the attribute `held_out` is a batch of them.
    Of tiles of larger pictures all tiles of their pictures are not yielded.
    share: a set is kept on the device where it takes at most this fraction of the free memory there. Otherwise a thread
    gathers batches in advance, through pinned memory on CUDA; the batches are bit-identical.
    Raises UsageError for arguments out of range.
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
        partners: bool = False,
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
        self._name, self._count, self._identity = images.name, len(images), identity(images, labels)
        self._batch, self._rank, self._world, self._device = batch, rank, world, device
        given, apart = _split(images, held_out, seed)
        self._position, self._order = 0, _Order(given, seed, device)
        if partners:
            every = torch.from_numpy(np.array(labels_of(images)))
            self._order = _Partners(given, seed, device, every)
            apart = _next_of_class(torch.from_numpy(apart), every).numpy()
        unseen = normalize(torch.from_numpy(images.images[apart]).to(device))
        self.held_out = unseen if self._labels is None else (unseen, self._labels[torch.from_numpy(apart).to(device)])
        self._prefetch: Prefetch | None = None
        if images.images.nbytes <= share * free_memory(device):
            self._images: Tensor | np.ndarray = _copy(images.images, device)
        else:
            self._images = images.images

    @property
    def position(self) -> int:
        """The number of images that all ranks together have yielded."""
        return self._position

    @property
    def given(self) -> np.ndarray:
        """Indices of the images that are yielded, int64: all but those held out."""
        return self._order.given.cpu().numpy()

    @property
    def where(self) -> str:
        """Where the images are stored: "resident, 7.8 MB on cpu", or "memory map, prefetched"."""
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
        # Only now: where gathering fails, the position is unchanged.
        self._position += self._batch * self._world
        return normalize(pixels) if self._labels is None else (normalize(pixels), self._labels[rows])

    def _prefetched(self, images: np.ndarray) -> Tensor:
        if self._prefetch is None:
            # The thread must hold no reference to `self`; it has an order of its own.
            order = self._order.on(torch.device("cpu"))
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
        """The state to save in a checkpoint; it can be loaded with another number of ranks."""
        return {
            "position": self._position,
            "name": self._name,
            "count": self._count,
            **self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises DataError for a state of other images or loaders."""
        if not isinstance(state, dict) or not isinstance(state.get("position"), int):
            found = f"the keys {', '.join(map(str, state))}" if isinstance(state, dict) else type(state).__name__
            raise DataError(
                f"the state belongs to another data loader: expected a state with a position, got {found}; use the"
                " loader that the run was started with"
            )
        # Old checkpoints hold the position only, or no fingerprint of the labels.
        if other := [name for name, value in self._identity.items() if state.get(name, value) != value]:
            what = "images" if "fingerprint" in other else "labels of the images"
            raise DataError(
                f"the state belongs to the {what} {state.get('name', 'of another set')} ({state['count']:,}), not to "
                f"{self._name} ({self._count:,}); use the images of the original run, or start a new run"
            )
        self._stop()
        self._position = state["position"]


def _split(images: ImageSet, held_out: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Indices of the yielded images, ascending, int64; and of the held-out ones."""
    count, pictures = len(images), images.pictures
    if pictures is None or not held_out:
        apart = np.sort(np.random.default_rng((seed, count)).permutation(count)[:held_out])
        return torch.from_numpy(np.setdiff1d(np.arange(count), apart)), apart
    # Tiles overlap: what a network has been trained on must not be part of what measures it.
    sizes = np.bincount(pictures)
    random = np.random.default_rng((seed, len(sizes)))
    order = random.permutation(len(sizes))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), held_out)) + 1
    if enough >= len(sizes):
        most = count - int(sizes[order[-1]])
        raise UsageError(
            f"held_out: expected at most {most:,}, as tiles are held out with their whole pictures, of which"
            f" {images.name} has {len(sizes):,}, got {held_out:,}"
        )
    mine = np.isin(pictures, order[:enough])
    return torch.from_numpy(np.flatnonzero(~mine)), np.sort(random.permutation(np.flatnonzero(mine))[:held_out])


class _Order:
    """order(start, n): indices of the images at positions start .. start + n - 1 of the endless order, int64 [n].

    given: indices of all images that are yielded.
    """

    def __init__(self, given: Tensor, seed: int, device: torch.device):
        self.seed, self.given = seed, given.to(device)
        self._images = len(given)
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def on(self, device: torch.device) -> _Order:
        """The same order on another device."""
        return _Order(self.given, self.seed, device)

    def __call__(self, start: int, n: int) -> Tensor:
        parts = []
        while n:
            epoch, first = divmod(start, self._images)
            part = self._permutation_of(epoch)[first : first + n]
            parts.append(part)
            start, n = start + len(part), n - len(part)
        return torch.cat(parts)

    def _permutation_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            # SeedSequence mixes seed and epoch; with their sum, seed 1 would begin with epoch 1 of seed 0.
            (seed,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
            source = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
            self._epoch = epoch
            self._permutation = self._of(
                self.given[torch.randperm(self._images, generator=source).to(self.given.device)]
            )
        return self._permutation

    def _of(self, permutation: Tensor) -> Tensor:
        """What is yielded for the images of an epoch in their order."""
        return permutation


class _Partners(_Order):
    """The order of images that go with those of `_Order`: each is of the same class as the one at its position."""

    def __init__(self, given: Tensor, seed: int, device: torch.device, labels: Tensor):
        super().__init__(given, seed, device)
        self._labels = labels.to(device)

    def on(self, device: torch.device) -> _Order:
        return _Partners(self.given, self.seed, device, self._labels)

    def _of(self, permutation: Tensor) -> Tensor:
        return _next_of_class(permutation, self._labels)


def _next_of_class(indices: Tensor, labels: Tensor) -> Tensor:
    """For each of some images, int64 [n], the next one of its class among them, the first one for the last: int64 [n].

    labels: of all images.
    """
    places = labels[indices].argsort(stable=True)
    by_class, classes = indices[places], labels[indices][places]
    after = torch.arange(1, len(indices) + 1, device=indices.device)
    first = torch.searchsorted(classes, classes)
    last = torch.searchsorted(classes, classes, right=True)
    return torch.empty_like(indices).scatter_(0, places, by_class[torch.where(after == last, first, after)])


def labels_of(images: ImageSet) -> np.ndarray:
    """The labels of a set, int64 [N]. Raises UsageError where it has none."""
    if images.labels is None and images.why_unlabeled:
        raise UsageError(f"labels: {images.name} has none, as {images.why_unlabeled}")
    if images.labels is None:
        raise UsageError(
            f"labels: {images.name} has none, and conditional networks need them; use labeled images (a folder for each"
            f" class, a zip with dataset.json, IDX or npz with labels), or omit {option('condition')}"
        )
    return images.labels


def normalize(pixels: Tensor) -> Tensor:
    """uint8 0..255 → float32 in [-1, 1], on the same device."""
    return pixels.float().div_(127.5).sub_(1)


def fingerprint(images: np.ndarray) -> str:
    """SHA-256 of the shape and of a few images of uint8 [N, C, H, W]: identifies a set without reading all of it."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for i in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).round().astype(np.int64)):
        digest.update(images[i].tobytes())
    return digest.hexdigest()


def identity(images: ImageSet, labels: bool) -> dict[str, str]:
    """Fingerprints by which a resumed run knows its images again, and its labels where it trains with them."""
    found = {"fingerprint": fingerprint(images.images)}
    if labels:
        found["labels"] = hashlib.sha256(np.ascontiguousarray(labels_of(images)).tobytes()).hexdigest()
    return found


def free_memory(device: torch.device) -> int:
    """Free bytes on a CUDA device, or of host memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_memory()


def _copy(images: np.ndarray, device: torch.device) -> Tensor:
    """Copy the images to the device in chunks, so that a memory map is not loaded into memory as a whole."""
    copy = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, _CHUNK // images[0].nbytes)
    for start in range(0, len(images), step):
        copy[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return copy
