"""Times training iterations of image tasks: fastgan's Trainer against plain PyTorch in the style of the public code.

    python benchmarks/task_iterations.py [--device cuda] [--case SUBSTRING] [--only PROVIDER ...] [--out CSV] [--resume]

Both train the same networks from the same weights on the same batches (public_steps.py has the plain iterations), in
alternating rounds of one process. An iteration is everything between two batches: forward and backward passes, updates,
the average of the generator's weights where the public code has one. Before anything is timed, the gradients of both
are compared. On a CPU with one thread the time is the process's CPU time, which other processes disturb less than the
wall time; with more threads, and on a GPU, it is wall time.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from iterations import Iterations
from plain import plain_pytorch
from public_steps import Batch
from table import GPU_TIMES, gpu_times, has, resumed, write
from task_cases import Case, Networks, cases
from torch import Tensor, nn

import fastgan
from fastgan._util.timing import Timing, alternate, rounds_in, watch
from fastgan.tasks.base import Noise
from fastgan.testing.timing import Graph, times
from fastgan.train.device import float32_products, why_slow
from fastgan.train.step import TaskSteps

#: provider → (how the public step runs) or (Config.compile of the Trainer).
PUBLIC: dict[str, dict[str, Any]] = {
    "eager": {},
    "eager channels_last": {"layout": torch.channels_last},
    "compile": {"layout": torch.channels_last, "compiled": True},
}
OURS = {"fastgan": "off", "fastgan+compile": "on"}
OURS_CUDA = {"fastgan": "off", "fastgan graph": "graph", "fastgan+compile": "on"}
SINGLE = {"cpu": "fp32", "cuda": "tf32"}
_KEY = ("task", "provider", "precision", "side", "batch", "device", "threads", "torch", "fastgan")
_TIMES = {"cpu": ("clock", "iteration_ms", "q20_ms", "q80_ms"), "cuda": GPU_TIMES}
COLUMNS = {device: (*_KEY, "ratio_vs_eager", *figures, "build_s", "note") for device, figures in _TIMES.items()}
#: Largest relative difference of gradients. In float32 a pre-activation within rounding of zero can fall on the other
#: side of the activation's kink, and norms over few pixels amplify rounding. The float64 networks are followed by
#: losses in float32.
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-2}


def networks_of(case: Case, side: int, device: str, plain: bool) -> Networks:
    """A generator and its discriminator with the same initial weights in every call."""
    torch.manual_seed(0)
    if plain:
        with plain_pytorch():
            pair = case.build(side)
    else:
        pair = case.build(side)
    return pair[0].to(device), pair[1].to(device)


def trainer_of(case: Case, side: int, batch: int, device: str, precision: str, compile: str) -> fastgan.Trainer:
    config = fastgan.Config.from_flags(
        batch=batch, precision=precision, compile=compile, lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999, device=device,
        **case.config_for(side),
    )  # fmt: skip
    return fastgan.Trainer(*networks_of(case, side, device, plain=False), config.loss.adversarial, config)


class Public:
    """The public step on one batch after another."""

    def __init__(self, case: Case, side: int, batch: int, device: str, precision: str, how: dict[str, Any]):
        networks = networks_of(case, side, device, plain=True)
        self.step = case.public(*networks, case.options, bf16=precision == "bf16", **how)
        self.batches = [case.batch(side, batch, device, seed) for seed in range(4)]
        self.count, self.about = 0, ""

    def __call__(self) -> None:
        self.count += 1
        with plain_pytorch():
            self.step.iterate(self.batches[self.count % len(self.batches)])

    replay = None


class Ours:
    """fastgan's Trainer on the same batches."""

    def __init__(self, case: Case, side: int, batch: int, device: str, precision: str, compile: str):
        self.trainer = trainer_of(case, side, batch, device, precision, compile)
        batches = [case.batch(side, batch, device, seed) for seed in range(4)]
        self.iterations = Iterations(self.trainer, batches)
        assert self.trainer.steps is not None
        self.about = self.trainer.steps.about

    def __call__(self) -> None:
        self.iterations()

    @property
    def replay(self) -> Callable[[], object] | None:
        """Replays the last iteration, without its data, where it is one CUDA graph."""
        iteration = self.trainer._graph
        recorders = [] if iteration is None else [recorder for recorder, _ in iteration._variants.values()]
        return recorders[0]._graph.replay if len(recorders) == 1 and recorders[0]._graph is not None else None


def verify(case: Case, device: str) -> None:
    """AssertionError unless the gradients of both networks equal those of the public step."""
    for dtype, limit in LIMITS.items():
        _verify(case, device, dtype, limit)


def _verify(case: Case, device: str, dtype: torch.dtype, limit: float) -> None:
    side, _ = case.sizes["cpu"]
    # One image alone gives wrong gradients in plain PyTorch on a CPU (2.13): its instance norm takes a gradient in
    # channels_last, such as that of CUT's patches, for a contiguous one.
    count = 2
    plain, trainer = networks_of(case, side, device, True), trainer_of(case, side, count, device, "fp32", "off")
    frozen = getattr(trainer.task, "perceptual", None) or nn.Identity()
    for network in (*plain, trainer.generator, trainer.discriminator, frozen):
        network.to(dtype)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
            if hasattr(layer, "weight_u"):
                layer.eval()  # a spectral norm moves on with every pass, of which they have other numbers
    batch = {name: images.to(dtype) for name, images in case.batch(side, count, device).items()}
    own, noise = drawn(trainer, batch)
    with plain_pytorch():
        want = case.public(*plain, case.options).gradients(batch, noise["generator"])
    got = gradients(trainer, own, noise)
    for name, vector in want.items():
        error = float((got[name] - vector).norm() / vector.norm())
        assert error <= limit, f"{case.name}: the {name}'s gradients differ by {error:.1e} in {dtype}"


def drawn(trainer: fastgan.Trainer, batch: Batch) -> tuple[Batch, dict[str, Noise]]:
    """A batch as the Trainer's steps take it, and their noise."""
    state, task = trainer.state, trainer.task
    batch = task.transform(task.collate(batch), state.random)
    return batch, {name: state.draw(name, batch) for name in ("discriminator", "generator")}


def gradients(trainer: fastgan.Trainer, batch: Batch, noise: dict[str, Noise]) -> dict[str, Tensor]:
    """The gradient of each network in the Trainer's steps, as one vector."""
    steps, found = TaskSteps(trainer.task), {}
    for name in ("discriminator", "generator"):
        _, parts = getattr(steps, name)(batch, noise[name])
        found[name] = torch.cat([g.flatten() for g in parts if g is not None])
    return found


def measure(case: Case, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The rows of a case."""
    device = options.device
    side, batch = case.sizes[device]
    with float32_products(tf32=False):
        verify(case, device)
    single, ours = SINGLE[device], OURS_CUDA if device == "cuda" else OURS
    wanted = [(provider, single) for provider in (*PUBLIC, *ours)]
    # On a CPU compiling takes minutes, and is measured in float32 alone.
    compiled = ("compile", "fastgan+compile") if device == "cpu" else ()
    wanted += [(provider, "bf16") for provider in (*PUBLIC, *ours) if provider not in compiled]
    wanted = [pair for pair in wanted if not options.only or pair[0] in options.only]
    ready: dict[tuple[str, str], Any] = {}
    notes: dict[tuple[str, str], str] = {}
    seconds: dict[tuple[str, str], float] = {}
    for provider, precision in wanted:
        if slow := why_slow(precision, torch.device(device)):
            notes[provider, precision] = f"not measured: {slow}"
            continue
        torch._dynamo.reset()
        start = time.perf_counter()
        build = functools.partial(Public, how=PUBLIC[provider]) if provider in PUBLIC else functools.partial(
            Ours, compile=ours[provider]
        )  # fmt: skip
        contestant = build(case, side, batch, device, precision)
        for _ in range(8 if device == "cuda" else 2):
            contestant()
        ready[provider, precision], seconds[provider, precision] = contestant, time.perf_counter() - start
    found = timed(ready, device, options.seconds)
    base = found["eager", single][0].median
    for provider, precision in wanted:
        row: dict[str, object] = {
            "task": case.name, "provider": provider, "precision": precision, "side": side, "batch": batch,
            "device": options.device_name, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "fastgan": fastgan.__version__,
        }  # fmt: skip
        if (provider, precision) not in ready:
            yield row | {"note": notes[provider, precision]}
            continue
        timing, figures = found[provider, precision]
        yield (
            row
            | figures
            | {
                "ratio_vs_eager": f"{base / timing.median:.2f}",
                "build_s": f"{seconds[provider, precision]:.0f}",
                "note": ready[provider, precision].about,
            }
        )


def timed(
    ready: dict[tuple[str, str], Any], device: str, seconds: float
) -> dict[tuple[str, str], tuple[Timing, dict[str, object]]]:
    """For each contestant the times of one iteration, and its columns."""
    if device == "cuda":
        labels = {"|".join(key): contestant for key, contestant in ready.items()}
        graphs = {label: Graph(c.replay) for label, c in labels.items() if c.replay is not None}
        found = times(labels, device, seconds, graphs=graphs)
        return {key: (found["|".join(key)].wall, gpu_times(found["|".join(key)])) for key in ready}
    one = torch.get_num_threads() == 1
    start = time.perf_counter()
    for contestant in ready.values():
        contestant()
    rounds = rounds_in(seconds * len(ready), time.perf_counter() - start, (5, 60))
    labels = {"|".join(key): contestant for key, contestant in ready.items()}
    reads = alternate(labels, _cpu_time if one else watch, rounds)
    rows = {}
    for key in ready:
        timing = Timing.of([read() for read in reads["|".join(key)]])
        rows[key] = timing, {
            "clock": "CPU" if one else "wall", "iteration_ms": f"{timing.median:.1f}", "q20_ms": f"{timing.q20:.1f}",
            "q80_ms": f"{timing.q80:.1f}",
        }  # fmt: skip
    return rows


def _cpu_time(function: Callable[[], object]) -> Callable[[], float]:
    """CPU time of this process."""
    start = time.process_time()
    function()
    took = (time.process_time() - start) * 1e3
    return lambda: took


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only tasks whose name contains this")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PROVIDER", help="only these providers; eager is always measured"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on each contestant")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if options.only:
        options.only.append("eager")
    options.device_name = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    )
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows, failed = resumed(options.out, options.resume), 0
    for case in cases():
        if options.case not in case.name or has(rows, {"task": case.name}):
            continue
        try:
            with float32_products(tf32=SINGLE[options.device] == "tf32"):
                found = list(measure(case, options))
        except Exception as error:  # wrong gradients, or a GPU's error: the other tasks are still worth their time
            failed += 1
            print(f"NOT TIMED: {case.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        rows += found
        for row in found:
            milliseconds = row.get("iteration_ms", row.get("wall_ms", ""))
            print(f"{row['task']:14} {row['provider']:20} {row['precision']:5} {milliseconds:>9} ms"
                  f" {row.get('ratio_vs_eager', ''):>6}x  {row['note']}", flush=True)  # fmt: skip
        if options.out:  # after every task, so that an interrupted run leaves its rows
            write(options.out, rows, COLUMNS[options.device])
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
