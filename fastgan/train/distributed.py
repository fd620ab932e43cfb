"""Several processes that train as one.

torchrun starts them and tells each its rank; `process_group` connects them. All hold the same weights, each computes on
its own part of every batch, and what must be the same on all of them goes through `World`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fastgan._util import env, log
from fastgan.errors import RankError, UsageError
from fastgan.train.device import resolve_device

#: Tensors travel in pieces of about this size: large enough to use the network, small enough that one is under way
#: while the next is packed.
BUCKET_BYTES = 25 * 2**20
#: How long ranks wait for one that says nothing. One that ends is noticed at once.
TIMEOUT = timedelta(minutes=10)


@dataclass(eq=False)
class World:
    """This process among all. One process alone is a world of size 1, in which everything here does nothing.

    device: what this rank works on, where there are several. Every method is called on all ranks in the same order.
    Raises RankError where another rank has gone.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    _flats: dict[tuple[int, torch.dtype, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)
    _layouts: set[tuple[tuple[torch.dtype, int], ...]] = field(default_factory=set, init=False, repr=False)

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace each floating tensor by its mean over all ranks."""
        # Divided by hand: gloo knows no mean.
        self._exchange(tensors, lambda flat: dist.all_reduce(flat, async_op=True), divide=True)

    def broadcast_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by rank 0's."""
        # As bytes: a back-end need not know the type.
        self._exchange(tensors, lambda flat: dist.broadcast(flat.view(torch.uint8), src=0, async_op=True))

    def sum_(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by its sum over all ranks."""
        if self.size > 1:
            with self._contact():
                dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. Waits for all ranks, and for the device."""
        return flag if self.size == 1 else bool(self._largest(flag)[0])

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def agree(self, numbers: Mapping[str, float]) -> None:
        """Raise UsageError unless these are the same on all ranks; all give the same names."""
        if self.size == 1:
            return
        largest = self._largest(*numbers.values(), *(-n for n in numbers.values()))
        for name, most, least in zip(numbers, largest, largest[len(numbers) :], strict=False):
            if most != -least:
                raise UsageError(f"{name}: expected the same on all ranks, got {-least:g} to {most:g}")

    def seed_rank(self, seed: int, step: int) -> None:
        """Seed the default random generators (of dropout and the like) on all ranks but the first, each its own way."""
        if self.rank > 0:
            (mixed,) = np.random.SeedSequence((seed, self.rank, step)).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed >> np.uint64(1)))

    def _largest(self, *numbers: float) -> list[float]:
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with self._contact():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    @torch.no_grad()
    def _exchange(
        self, tensors: list[Tensor], start: Callable[[Tensor], dist.Work | None], *, divide: bool = False
    ) -> None:
        """Pack tensors into flat buckets, start a collective on each, unpack the results."""
        if self.size == 1 or not tensors:
            return
        layout = tuple((t.dtype, t.numel()) for t in tensors)
        if layout not in self._layouts:
            # Ranks that packed differently would wait for each other, or add up what does not belong together.
            self.agree({"tensors": len(layout), "numbers in them": sum(count for _, count in layout)})
            self._layouts.add(layout)
        under_way = []
        for i, bucket in enumerate(buckets(tensors)):
            flat = self._flat(i, bucket[0], sum(t.numel() for t in bucket))
            parts = flat.split([t.numel() for t in bucket])
            views = [part.view(t.shape) for part, t in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(views, bucket)
            with self._contact():
                under_way.append((flat, views, bucket, start(flat)))
        for flat, views, bucket, work in under_way:
            with self._contact():
                if work is not None:
                    work.wait()
            if divide:
                flat.div_(self.size)
            torch._foreach_copy_(bucket, views)

    def _flat(self, i: int, like: Tensor, count: int) -> Tensor:
        key = i, like.dtype, like.device
        if key not in self._flats or len(self._flats[key]) < count:
            self._flats[key] = torch.empty(count, dtype=like.dtype, device=like.device)
        return self._flats[key][:count]

    @contextlib.contextmanager
    def _contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo raises plain ones
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise RankError(
                f"rank {self.rank} of {self.size} lost contact with the others", _first_line(error)
            ) from error


def buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Tensors in groups of one type and device and at most BUCKET_BYTES (or one tensor), in order."""
    groups: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
    room: dict[tuple[torch.dtype, torch.device], int] = {}
    for tensor in tensors:
        key, size = (tensor.dtype, tensor.device), tensor.numel() * tensor.element_size()
        if key not in groups or size > room[key]:
            groups.setdefault(key, []).append([])
            room[key] = BUCKET_BYTES
        groups[key][-1].append(tensor)
        room[key] -= size
    return [bucket for group in groups.values() for bucket in group]


def torchrun_size() -> int:
    """How many ranks torchrun has started; 1 without it."""
    return _number("WORLD_SIZE")


def single_process() -> World:
    """A world of one. Raises UsageError under torchrun: its ranks would all write the same run, each its own."""
    if torchrun_size() > 1:
        raise UsageError(
            f"world: torchrun has started {torchrun_size()} ranks; give the Trainer the world of"
            " `with fastgan.train.distributed.process_group() as world:`"
        )
    return World()


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[World]:
    """While it lasts, this process is one of those that torchrun started together; without torchrun, it is alone.

    device: as in Config. On GPUs each rank takes that of its LOCAL_RANK, and they talk through NCCL; on the CPU through
    gloo. An error that leaves it carries `reported`: whether another rank has one to print already.
    """
    rank, size, local = _number("RANK"), torchrun_size(), _number("LOCAL_RANK")
    if size == 1:
        yield World()
        return
    # By a name of its own: the attribute of torch.distributed is the module.
    from torch.distributed.rendezvous import rendezvous

    try:
        store, *_ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    except (RuntimeError, ValueError) as error:
        where = f"{env.read('MASTER_ADDR') or 'nowhere'}:{env.read('MASTER_PORT')}"
        lost = RankError(f"rank {rank} of {size} did not meet the others at {where} (MASTER_ADDR)", _first_line(error))
        lost.reported = False
        raise lost from error
    try:
        if device.startswith("cuda:"):
            raise UsageError(f"device: each rank takes a GPU of its own; leave it out or say cuda, got {device!r}")
        place = resolve_device(device, local)
        gpu = place.type == "cuda"
        with torch.cuda.device(place) if gpu else contextlib.nullcontext():
            dist.init_process_group(
                "nccl" if gpu else "gloo",
                store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=place if gpu else None,
            )  # fmt: skip
            if rank > 0:
                log.silence()
            yield World(rank, size, place)
    except Exception as error:
        # Before the group ends: the others must not take its end for the cause.
        error.reported = _reported_before(store)  # type: ignore[attr-defined]
        if dist.is_initialized() and dist.get_backend() == "nccl":
            # Destroying it would wait for kernels that wait for the others.
            dist.distributed_c10d._abort_process_group()
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def reported_once() -> Iterator[None]:
    """What goes wrong before the ranks have met goes wrong on all of them alike: rank 0 is the one to print it."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "reported"):
            error.reported = _number("RANK") > 0  # type: ignore[attr-defined]
        raise


def _reported_before(store: dist.Store) -> bool:
    try:
        store.set_timeout(timedelta(seconds=10))
        return store.add("fastgan/reported", 1) > 1
    except RuntimeError:  # it went down with the rank that kept it
        return False


def _number(name: str) -> int:
    text = env.read(name)
    if not text.isdecimal():
        raise UsageError(f"{name}: expected a number in the environment, as torchrun sets it, got {text!r}")
    return int(text)


def _first_line(error: Exception) -> str:
    """What went wrong in one sentence, without the line of C++ that noticed and without gloo's good wishes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[[^\]]*\]\s*", "", lines[0]).split(". ")[0].rstrip(".")
