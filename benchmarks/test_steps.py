"""The steps of run.py under pytest-benchmark."""

import os

import pytest
import torch
from steps import STEPS, providers, verify

pytest.importorskip("pytest_benchmark")
DEVICE = os.environ.get("FASTGAN_BENCH_DEVICE", "cpu")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("provider", ["fastgan", "eager"])
def test_speed(benchmark, step, layout, provider):
    if provider == "fastgan":
        verify(step, DEVICE, layout)
    batch = step.batches[DEVICE][0]
    run = providers(step, DEVICE, torch.float32, layout, batch, whole=False)[provider]()

    def once():
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{step.name} {layout}"
    benchmark.pedantic(once, rounds=10, warmup_rounds=2)
