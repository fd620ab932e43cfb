"""The cases of run.py under pytest-benchmark: `pytest benchmarks`, and `--benchmark-compare` against a stored run."""

import os

import pytest
import torch

from fastgan.testing.benchmark_modes import MODES, step
from fastgan.testing.cases import CASES
from fastgan.testing.correctness import assert_correct

pytest.importorskip("pytest_benchmark")
DEVICE = os.environ.get("FASTGAN_BENCH_DEVICE", "cpu")
TIMED = [(case, shape, layout) for case in CASES for shape in case.bench_shapes for layout in case.memory_formats]


@pytest.fixture(scope="module")
def correct():
    """Inputs of a case, checked once: a case with wrong results is not timed."""
    checked = {}

    def inputs(case, shape, layout):
        key = (case.name, shape, layout)
        if key not in checked:
            checked.clear()  # inputs are large, and the tests of one case run consecutively
            checked[key] = case.inputs(torch.float32, DEVICE, layout, shape=shape)
            assert_correct(case, checked[key])
        return checked[key]

    return inputs


@pytest.mark.parametrize(("case", "shape", "layout"), TIMED, ids=lambda v: str(v).replace(", ", "x").strip("()"))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("provider", ["fastgan", "eager"])
def test_speed(benchmark, correct, case, shape, layout, mode, provider):
    function = case.call if provider == "fastgan" else case.plain
    run = step(function, correct(case, shape, layout), mode)

    def once():
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{case.name} {'x'.join(map(str, shape))} {layout} {mode}"
    benchmark.pedantic(once, rounds=10, warmup_rounds=2)
