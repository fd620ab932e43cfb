"""Runs an exported generator in ONNX Runtime. numpy in and out, no torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.deploy.spec import Spec
from fastgan.errors import ExportError, UsageError


class Session:
    """A generator from an ONNX file that `fastgan export` wrote.

    latent_shape: of one z. call: z float32 [N, *latent_shape] → images float32 [N, C, H, W] in [-1, 1], any N.
    Raises UsageError when the file is missing or onnxruntime is not installed, ExportError when it is no such model.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"model: {path} is not a file")
        try:
            import onnxruntime
        except ImportError:
            raise UsageError("onnxruntime is not installed; install it with: pip install 'fastgan[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise ExportError(f"model: {path} cannot be opened by ONNX Runtime: {_first_line(error)}") from error
        about = self._session.get_modelmeta().custom_metadata_map.get("fastgan")
        if about is None:
            raise ExportError(f"model: {path} was not written by fastgan export (its metadata is missing)")
        self.about: dict[str, Any] = json.loads(about)
        self.latent_shape = tuple(self.about["latent_shape"])
        self.spec = Spec.from_json(about)[0]
        self._input = self._session.get_inputs()[0].name

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self._session.get_providers()[0]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        if z.shape[1:] != self.latent_shape:
            raise UsageError(f"z: expected [N, {', '.join(map(str, self.latent_shape))}], got {list(z.shape)}")
        return self._session.run(None, {self._input: np.ascontiguousarray(z, np.float32)})[0]

    def measure(self, batch: int, seconds: float = 1.0) -> float:
        """Median seconds of one call at that batch size, over about `seconds` after a warm-up."""
        z = latents(batch, self.latent_shape, seed=0)
        for _ in range(3):
            self(z)
        times: list[float] = []
        while sum(times) < seconds or len(times) < 5:
            start = time.perf_counter()
            self(z)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def figures(self) -> dict[str, Any]:
        """Latency at batch 1 and throughput at batch 64, measured now."""
        return {
            "provider": self.provider,
            "latency_ms_batch1": 1000 * self.measure(1),
            "images_per_second_batch64": 64 / self.measure(64),
        }


def latents(n: int, latent_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """z [n, *latent_shape] from N(0, 1), float32: the same for a run and for its export."""
    return np.random.default_rng(seed).standard_normal((n, *latent_shape), dtype=np.float32)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
