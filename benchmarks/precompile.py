"""Compiles the Triton kernels of gpu.sh beforehand, on a computer without a GPU, into a cache that a GPU then finds.

    TRITON_CACHE_DIR=CACHE python benchmarks/precompile.py [--arch 90] [--tests]
    TRITON_CACHE_DIR=CACHE python benchmarks/precompile.py --relocate      (where the cache was copied to)

The first command runs fastgan's own launchers on tensors of the CPU that claim to be on a GPU: each launch compiles its
kernel for that architecture and runs nothing. Run it with the Python, Triton and fastgan of the GPU's computer: Triton
keys its cache by its own files (libtriton of that Python version among them), the source of the kernel, the signature,
the constants, the options and the version of ptxas. Where one of them differs, kernels are compiled anew, as without a
cache. The index files hold absolute paths, which the second command rewrites.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import convolutions
import steps
import stylegan_ops
import torch
from torch import nn

import fastgan._util.native
from fastgan.ops import _autotune
from fastgan.ops.conv import triton as conv_triton
from fastgan.ops.conv.triton_configs import Gpu, shared_memory
from fastgan.testing.benchmark_modes import MODES, step
from fastgan.testing.case import Inputs, OpCase
from fastgan.testing.cases import CASES
from fastgan.train.device import float32_products

FLOATS = (torch.bfloat16, torch.float32)
#: Sizes decide which kernels are compiled only by whether they are multiples of 16, and these batches are.
BATCH = 16
#: Of an H200: configs are ordered by how well they fill these.
MULTIPROCESSORS = 132


class Compiled:
    """Counts the kernels that launches have compiled, or found in the cache."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """JITFunction.run without the launch."""

        def run(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            kernel = original(function, *args, grid=grid, warmup=True, **options)
            self.names[kernel.hash] = kernel.name
            return kernel

        return run


def _every_candidate(device: torch.device, key: Any, runs: Callable[[], Any], tensors: Any) -> Any:
    """In place of autotuning: launch each candidate, and return the library's result."""
    candidates = runs()
    for name, candidate in candidates.items():
        if not name.startswith(_autotune.LIBRARY):
            with contextlib.suppress(Exception):  # one that does not compile is not timed either
                candidate(*tensors)
    return candidates[_autotune.LIBRARY](*tensors)


def _filled(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """No kernel writes the results, and zeros or NaN in them would be noticed as errors."""

    def run(*args: Any, **options: Any) -> torch.Tensor:
        return allocate(*args, **options).fill_(1)

    return run


@contextlib.contextmanager
def pretended_gpu(arch: int) -> Iterator[Compiled]:
    """A context in which fastgan takes tensors of the CPU for tensors of a GPU, and launches compile and do not run."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import CompiledKernel
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    gpu = mock.Mock()
    gpu.get_current_target.return_value = GPUTarget("cuda", arch, 32)
    gpu.get_current_device.return_value = gpu.get_current_stream.return_value = 0
    driver.set_active(gpu)
    # Without the text of intermediate code, which nothing reads, the cache is a fifth as large.
    triton.knobs.compilation.store_binary_only = True
    compiled = Compiled()
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (torch.Tensor, "is_cuda", property(lambda self: True)),
            (torch, "empty", _filled(torch.empty)),
            (torch.Tensor, "new_empty", _filled(torch.Tensor.new_empty)),
            (torch.cuda, "device", lambda device: contextlib.nullcontext()),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (fastgan._util.native, "why_not", lambda name: "kernels are compiled for a GPU here"),
            (_autotune, "fastest", _every_candidate),
            (conv_triton, "_gpu", lambda x: Gpu(MULTIPROCESSORS, shared_memory((arch // 10, arch % 10)))),
            (JITFunction, "run", compiled.run(JITFunction.run)),
            (CompiledKernel, "_init_handles", lambda self: None),
            (CompiledKernel, "run", property(lambda self: lambda *args: None)),
            (CompiledKernel, "__getitem__", lambda self, grid: lambda *args, **options: None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield compiled


def work(tests: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """What launches the kernels of gpu.sh. tests: also those of the contract tests, of all dtypes."""
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for dtype in FLOATS:
        for layer in convolutions.LAYERS:
            for name in convolutions.passes(layer):
                given = convolutions.operands(name, layer, BATCH, dtype, "cpu")
                yield f"{name} {layer} {dtype}", functools.partial(getattr(conv_triton, name), *given)
        for one in steps.STEPS:
            for layout, memory_format in layouts.items():
                real, fake = one.images(dtype, "cpu", memory_format, BATCH)
                network = steps.networks(one, "cpu", dtype, memory_format)["fastgan"]
                yield f"{one.name} {layout} {dtype}", functools.partial(_step, one, network, real, fake)
    # Convolutions are left out: their candidates are many, and autotuning compiles them where it measures them.
    passes = [entry for entry in stylegan_ops.entries() if not entry.flops]
    for dtype, layout, entry in itertools.product((*FLOATS, torch.float16), layouts, passes):
        x = torch.ones(1, *entry.size, dtype=dtype).contiguous(memory_format=layouts[layout])
        yield f"{entry.op} {layout} {dtype}", functools.partial(entry.candidates["fastgan"], x, *entry.draw(x))
    for case in CASES:
        timed = [(shape, FLOATS) for shape in case.bench_shapes]
        tested = [(case.shape, case.dtypes.get("triton", ()))] if tests and case.core else []
        for shape, dtypes in timed + tested:
            for dtype in dtypes:
                for layout, memory_format in layouts.items():
                    if len(shape) != 4 and layout != "contiguous":
                        continue
                    inputs = case.inputs(dtype, "cpu", memory_format, shape=shape)
                    for mode in MODES:
                        yield (
                            f"{case.name} {mode} {shape} {layout} {dtype}",
                            functools.partial(_case, case, inputs, mode),
                        )


def _step(one: steps.Step, network: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> None:
    one.loss(network, real, fake).backward()


def _case(case: OpCase, inputs: Inputs, mode: str) -> None:
    step(case.call, inputs, mode)()


def precompile(arch: int, tests: bool) -> Compiled:
    """Compile all kernels into Triton's cache. What fails is printed, and the rest goes on."""
    with pretended_gpu(arch) as compiled, float32_products(tf32=True):
        for name, run in work(tests):
            start, before = time.perf_counter(), len(compiled.names)
            try:
                run()
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            if more := len(compiled.names) - before:
                print(f"{name}: {more} kernels in {time.perf_counter() - start:.1f} s", flush=True)
    return compiled


def relocate(cache: Path) -> int:
    """Let the index files of a copied cache name the files beside them. Returns how many there are."""
    count = 0
    for index in cache.glob("*/__grp__*.json"):
        paths = json.loads(index.read_text())["child_paths"]
        here = {name: str(index.parent / Path(path).name) for name, path in paths.items()}
        index.write_text(json.dumps({"child_paths": here}))
        count += 1
    return count


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, default=90, help="compute capability, 90 for an H200")
    parser.add_argument("--tests", action="store_true", help="also the kernels of the contract tests")
    parser.add_argument("--relocate", action="store_true", help="only rewrite the paths of a cache that was copied")
    options = parser.parse_args(argv)
    if not os.environ.get("TRITON_CACHE_DIR"):
        parser.error("TRITON_CACHE_DIR: expected the folder of the cache, got none")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.relocate:
        print(f"{relocate(Path(os.environ['TRITON_CACHE_DIR']).resolve())} kernels")
        return 0
    start = time.perf_counter()
    compiled = precompile(options.arch, options.tests)
    print(f"{len(compiled.names)} kernels for sm_{options.arch} in {time.perf_counter() - start:.0f} s")
    return 0 if compiled.names else 1


if __name__ == "__main__":
    sys.exit(main())
