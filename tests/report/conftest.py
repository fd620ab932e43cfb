"""A small complete run directory; each test removes or damages what it is about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastgan.report.images import save_grid

CONFIG = {
    "config": {"recipe": "demo", "steps": 3000, "betas": [0.0, 0.99], "amp": None},
    "environment": {"fastgan": "0.1.0", "torch": "2.11.0", "device": "cpu (2 threads)", "commit": None,
                    "backends": {"cpu": True, "triton": "not installed"}},
    "command": "fastgan train demo --out runs/demo",
    "dataset": {"name": "Fashion-MNIST", "count": 10000, "shape": [1, 28, 28], "license": "MIT",
                "range_real": [-1.0, 1.0]},
    "networks": {"generator": {"name": "dcgan.Generator", "parameters": 1268737},
                 "discriminator": {"name": "dcgan.Discriminator", "parameters": 412673}},
}  # fmt: skip
EXPORT = {
    "file": "generator.onnx",
    "opset": 18,
    "parity": [{"batch": 1, "max_abs_error": 1.07e-6, "mean_abs_error": 1.2e-7}],
    "limit": 1e-4,
    "runtime": {"provider": "CPUExecutionProvider", "latency_ms_batch1": 1.83, "images_per_second_batch64": 3120.4},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "demo"
    directory.mkdir()
    for name, record in (
        ("config.json", CONFIG),
        ("status.json", {"state": "finished", "step": 3000, "steps": 3000, "message": ""}),
        ("generator.onnx.json", EXPORT),
    ):
        (directory / name).write_text(json.dumps(record))
    rows = [
        {"step": 500 * i, "images": 32000 * i, "seconds": 200 * i / 6, "loss/discriminator": 1.0 / i,
         "loss/generator": 0.25 * i, "speed/images_per_second": 812.0}
        for i in range(1, 7)
    ]  # fmt: skip
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng = np.random.default_rng(0)
    for name in ("real", *(f"{kind}-{step:08d}" for kind in ("fixed", "fresh") for step in (500, 1500, 3000))):
        images = rng.integers(0, 256, (4, 1, 4, 4), np.uint8)
        save_grid(images, directory / "samples" / f"{name}.png")
    return directory
