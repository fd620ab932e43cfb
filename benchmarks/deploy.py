"""Times trained generators in PyTorch, fastgan's back-ends and ncnn, in alternating rounds.

    python benchmarks/deploy.py [--case SUBSTRING] [--photos FOLDER] [--out benchmarks/results/deploy.csv]
    python benchmarks/deploy.py --device cuda [--out benchmarks/results/deploy_cuda.csv]

Outputs are compared with eager PyTorch first; a provider whose outputs differ is not timed.

On the CPU: eager PyTorch of the same network in both memory formats and compiled, fastgan's back-ends (fp32, and int8
with its PSNR on photographs), and ncnn with the same weights. On a GPU: latency of a small generator, frames per second
in fp16. Both: a video from file to file against the network alone. Inputs and outputs are in host memory, or in the
GPU's; `pixels` rows have bytes in host memory as inputs and outputs, as for a video. --quick: small networks and sizes,
to test the script.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generators import Case, cases, inputs, photographs
from runners import CannotRun, OnGpu, of_session, providers
from table import write

import fastgan
from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.errors import FastganError
from fastgan.runtime.benchmark import decibels
from fastgan.runtime.hardware import cpu_features, cpu_name, installed, usable_cores
from fastgan.runtime.pixel_conversion import to_bytes
from fastgan.runtime.session import Session

COLUMNS = (
    "case", "provider", "precision", "task", "batch", "size", "device", "threads", "median_ms", "q20_ms", "q80_ms",
    "fps", "ratio_vs_eager", "max_error", "psnr_dB", "runs", "weights", "library", "torch", "fastgan", "python",
    "cpu_features", "note",
)  # fmt: skip
#: Largest error in fp32 against eager, relative to the range of values; least PSNR in dB of other precisions.
FP32_LIMIT, PSNR_FLOOR = 1e-3, 30.0
Row = dict[str, Any]


@dataclass
class Ready:
    call: Any
    notes: Row
    session: Session | None = None


def measure(case: Case, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The rows of a case: all providers in the same rounds, eager PyTorch first."""
    torch._dynamo.reset()
    case.open()
    x, calibration = inputs(case, options)
    with torch.no_grad():
        wanted = case.network(torch.from_numpy(x)).numpy()
    ready: dict[tuple[str, str], Ready] = {}
    builders = providers(case, calibration, folder, options)
    for key, build in builders.items():
        log(options, f"{case.name} batch {case.shape[0]}: {' '.join(key)}")
        found = prepare(build, case, key[1], options.device, x, wanted)
        if isinstance(found, Ready):
            ready[key] = found
        else:
            yield row(case, key, options, **found)
    calls = {key: one.call.prepared(x) if isinstance(one.call, OnGpu) else functools.partial(one.call, x)
             for key, one in ready.items()}  # fmt: skip
    times = side_by_side(calls, options.seconds)
    base = quantile(times["eager", "fp32"], 0.5) if ("eager", "fp32") in times else None
    for key, found in times.items():
        yield row(case, key, options, **figures(found, case.shape[0], base), **ready[key].notes)
    if case.spec.kind == "image":
        yield from pixels(case, x, ready, options)
    if case.video:
        yield from video(case, x, ready, options)


def prepare(
    build: Callable[[], Any], case: Case, precision: str, device: str, x: np.ndarray, wanted: np.ndarray
) -> Ready | dict[str, object]:
    """A provider whose outputs agree with `wanted`, or columns with the reason why there is none."""
    try:
        call = build()
        opened = call if isinstance(call, Session) else None
        call = of_session(call) if opened else call
        got = call(x)
    except Exception as error:  # that a compiler, a package or a device fails is a result too
        reason = next(iter(str(error).strip().splitlines()), "")
        kind = "" if isinstance(error, (CannotRun, FastganError)) else f"{type(error).__name__}: "
        return {"note": f"not available: {kind}{reason[:160]}"}
    if got.shape != wanted.shape:
        return {"note": f"WRONG, not timed: {list(got.shape)}, expected {list(wanted.shape)}"}
    low, high = case.spec.range
    error, psnr = float(np.abs(got - wanted).max()), decibels(wanted, got, case.spec.range)
    notes: Row = {"max_error": f"{error:.1e}", "psnr_dB": f"{psnr:.1f}"}
    # On a GPU PyTorch rounds float32 convolutions to TF32 by default.
    exact = precision == "fp32" and device == "cpu"
    if not (error <= FP32_LIMIT * (high - low) if exact else psnr >= PSNR_FLOOR):
        return {**notes, "note": "WRONG, not timed: differs too much from eager"}
    if opened:
        notes["library"] = f"{opened.title} on {opened.provider}"
    return Ready(call, notes, opened)


def side_by_side(calls: dict[Any, Callable[[], object]], seconds: float) -> dict[Any, list[float]]:
    """Milliseconds of every call."""
    if not calls:
        return {}
    each = sum(watch(call)() for call in calls.values()) / 1e3
    if each < seconds * len(calls):
        for _ in range(2):
            each = sum(watch(call)() for call in calls.values()) / 1e3
    pending = alternate(calls, watch, rounds_in(seconds * len(calls), each, (3, 2000)))
    return {key: [read() for read in reads] for key, reads in pending.items()}


def pixels(
    case: Case, x: np.ndarray, ready: dict[tuple[str, str], Ready], options: argparse.Namespace
) -> Iterator[Row]:
    """uint8 frames to uint8 frames, both in host memory."""
    frames = to_bytes(x, case.spec.range)
    sessions = {key: one.session for key, one in ready.items() if one.session is not None}
    for one in sessions.values():
        one.warm_up(frames)
    calls = {key: functools.partial(one.pixels, frames) for key, one in sessions.items()}
    for key, times in side_by_side(calls, options.seconds).items():
        yield row(case, key, options, task="pixels", **figures(times, len(frames), None), **ready[key].notes)


def video(case: Case, x: np.ndarray, ready: dict[tuple[str, str], Ready], options: argparse.Namespace) -> Iterator[Row]:
    """A video from file to file against the network alone on as many frames, in alternating rounds."""
    key = next(
        (k for k in (("openvino", "int8"), ("fastgan compile", "fp16"), ("onnxruntime", "fp32")) if k in ready), None
    )
    try:
        import av

        from fastgan.upscale.video import upscale_video  # isort: skip
    except ImportError as error:
        yield row(case, ("fastgan", ""), options, task="video", note=f"not available: {error}")
        return
    if key is None:
        yield row(case, ("fastgan", ""), options, task="video", note="not available: no back-end ran")
        return
    one = ready[key].session
    assert one is not None
    count, batch = (
        (8 if options.quick else 48 if options.device == "cpu" else 240),
        (2 if options.device == "cpu" else 4),
    )
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "clip.mp4", Path(folder) / "larger.mp4"
        write_clip(av, clip, to_bytes(x, case.spec.range)[0], count)
        frames = np.repeat(to_bytes(x, case.spec.range), batch, 0)
        values = np.repeat(x, batch, 0)
        run = of_session(one)
        run = run.prepared(values) if isinstance(run, OnGpu) else functools.partial(run, values)
        one.warm_up(frames)
        run()

        def alone() -> None:
            for _ in range(count // batch):
                run()

        def whole() -> None:
            upscale_video(one, clip, out, batch=batch, overwrite=True, progress=_nothing)

        whole()
        calls = {"model": alone, "video": whole}
        times = {
            k: [read() for read in reads] for k, reads in alternate(calls, watch, 1 if options.quick else 3).items()
        }
    base = quantile(times["model"], 0.5)
    for task, note in (("model", f"{count} frames, batches of {batch}"), ("video", "")):
        share = base / quantile(times[task], 0.5)
        note = note or f"{count} frames from file to file: {100 * share:.0f} % of the network alone"
        per_frame = [ms / count for ms in times[task]]
        yield row(
            case,
            key,
            options,
            **{**figures(per_frame, 1, None), **ready[key].notes, "task": f"video, {task}", "note": note},
        )


def _nothing(*_: object) -> None:
    pass


def write_clip(av: Any, path: Path, picture: np.ndarray, count: int) -> None:
    """A video of a camera that moves over an image."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            moved = np.ascontiguousarray(np.roll(picture[:height, :width], (i, 2 * i), (0, 1)))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
        file.mux(stream.encode())


def figures(times: list[float], batch: int, base: float | None) -> Row:
    median, q20, q80 = (quantile(times, share) for share in (0.5, 0.2, 0.8))
    return {
        "median_ms": f"{median:.4f}",
        "q20_ms": f"{q20:.4f}",
        "q80_ms": f"{q80:.4f}",
        "fps": f"{1e3 * batch / median:.4g}",
        "ratio_vs_eager": "" if base is None else f"{base / median:.2f}",
        "runs": len(times),
    }


def row(case: Case, key: tuple[str, str], options: argparse.Namespace, **values: object) -> Row:
    return {
        "case": case.name,
        "provider": key[0],
        "precision": key[1],
        "task": "model",
        "batch": case.shape[0],
        "size": "x".join(map(str, case.shape[:1:-1])) if len(case.shape) == 4 else "",
        "device": options.device_name,
        "threads": options.threads,
        "weights": case.weights,
        "torch": torch.__version__,
        "library": f"ncnn {installed('ncnn')}" if key[0] == "ncnn" else f"PyTorch {torch.__version__}",
        "fastgan": fastgan.__version__,
        "python": platform.python_version(),
        "cpu_features": " ".join(name.replace(" ", "-") for name in cpu_features()),
        **values,
    }


def print_table(rows: list[Row]) -> None:
    head = (
        "case",
        "provider",
        "precision",
        "task",
        "batch",
        "size",
        "median_ms",
        "fps",
        "ratio_vs_eager",
        "psnr_dB",
        "note",
    )
    lines = [list(head), *([str(row.get(name, "")) for name in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def log(options: argparse.Namespace, text: str) -> None:
    print(f"{time.perf_counter() - options.began:6.0f} s  {text}", file=sys.stderr, flush=True)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose name contains this")
    parser.add_argument("--only", nargs="+", default=[], metavar="PROVIDER", help="only these providers")
    parser.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="images to compare on (the first) and calibrate with"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads (default: the usable cores)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, for each row")
    parser.add_argument("--quick", action="store_true", help="small networks and sizes, to test the script")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    options.device_name = torch.cuda.get_device_name() if options.device == "cuda" else cpu_name()
    options.pictures, options.source = photographs(options.photos)
    options.began = time.perf_counter()
    return options


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    log(
        options,
        f"{options.device_name} ({', '.join(cpu_features())}), {options.threads} threads,"
        f" photographs: {options.source}",
    )
    if os.getloadavg()[0] > 0.5:
        log(options, "other processes are running: the times are not reliable")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options):
            try:
                rows += measure(case, options, Path(folder))
            except ImportError as error:
                rows.append({"case": case.name, "note": f"not available: {error}"})
            if options.out:  # after each case, so that an interrupted run leaves its rows
                write(options.out, rows, COLUMNS)
    print_table(rows)
    wrong = any("WRONG" in str(row.get("note", "")) for row in rows)
    return 1 if wrong or not any("median_ms" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
