"""The providers that deploy.py compares: PyTorch, fastgan's back-ends, ncnn."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generators import Case

from fastgan.runtime.session import Session

Call = Callable[[np.ndarray], np.ndarray]


class CannotRun(Exception):
    """The reason why a provider has no figures."""


def eager(case: Case, device: str, dtype: torch.dtype = torch.float32, layout: Any = torch.contiguous_format) -> Call:
    network = copy.deepcopy(case.network).to(device, dtype).to(memory_format=layout)
    return _tensors(network, device, dtype, layout)


def compiled(case: Case, device: str, dtype: torch.dtype = torch.float32) -> Call:
    network = torch.compile(copy.deepcopy(case.network).to(device, dtype))
    return _tensors(network, device, dtype, torch.contiguous_format)


def _tensors(network: Callable[..., torch.Tensor], device: str, dtype: torch.dtype, layout: Any) -> Call:
    def call(x: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(x).to(dtype)
        given = given.contiguous(memory_format=layout) if given.ndim == 4 else given
        with torch.no_grad():
            return network(given).float().numpy()

    def prepared(x: np.ndarray) -> Callable[[], object]:
        """On a GPU, input and result stay on it."""
        given = torch.from_numpy(x).to(device, dtype)
        given = given.contiguous(memory_format=layout) if given.ndim == 4 else given

        def run() -> None:
            with torch.no_grad():
                network(given)
            torch.cuda.synchronize()

        return run

    if device == "cpu":
        return call
    return OnGpu(prepared, lambda x: _fetch(network, torch.from_numpy(x).to(device, dtype)))


def _fetch(network: Callable[..., torch.Tensor], x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(x).float().cpu().numpy()


class OnGpu:
    """A call whose arguments can be copied to the GPU beforehand."""

    def __init__(self, prepared: Callable[[np.ndarray], Callable[[], object]], call: Call):
        self.prepared = prepared
        self._call = call

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self._call(x)


def session(model: Any, case: Case, backend: str, options: argparse.Namespace, half: bool = False) -> Session:
    latent = case.spec.latent_shape or None
    if half:
        model = copy.deepcopy(model).half()
    return Session(model, backend=backend, device=options.device, threads=options.threads, latent_shape=latent)


def of_session(one: Session) -> Any:
    if one.device == "cpu":
        return one

    def prepared(x: np.ndarray) -> Callable[[], object]:
        given = torch.from_numpy(x).to(one.device)

        def run() -> None:
            one(given)
            torch.cuda.synchronize()

        return run

    return OnGpu(prepared, one)


def ncnn(case: Case, options: argparse.Namespace) -> Call:
    """ncnn with files of the same weights, in float32."""
    if not case.pretrained:
        raise CannotRun("the network is not one that ncnn's files are at hand of")
    if case.weights != case.pretrained:
        raise CannotRun(case.weights)
    import ncnn

    from fastgan.upscale import pretrained

    net = ncnn.Net()
    net.opt.num_threads = options.threads
    net.opt.use_vulkan_compute = False
    for name in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{name}", False)
    net.opt.use_bf16_storage = False
    param = pretrained.KNOWN[case.pretrained].path
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise CannotRun(f"ncnn does not load {param.name}")

    def call(x: np.ndarray) -> np.ndarray:
        found = []
        for image in x:
            extractor = net.create_extractor()
            extractor.input(net.input_names()[0], ncnn.Mat(image).clone())
            _, result = extractor.extract(net.output_names()[0])
            found.append(np.array(result))
        return np.stack(found)

    return call


def exported(case: Case, precision: str, calibration: list[np.ndarray], folder: Path) -> Path:
    """The case's ONNX file of that precision, written by fastgan export, once."""
    from fastgan.export.api import export

    path = folder / f"{case.name}-{precision}.onnx"
    if not path.exists():
        if precision == "int8" and case.spec.kind == "image" and not calibration:
            raise CannotRun("no photographs to calibrate with (--photos)")
        given = {"calibration": calibration} if precision == "int8" else {}
        export(case.network, path, precision=precision, latent_shape=case.spec.latent_shape or None, **given)
    return path


def providers(
    case: Case, calibration: list[np.ndarray], folder: Path, options: argparse.Namespace
) -> dict[tuple[str, str], Callable[[], Any]]:
    """(provider, precision) → a function that prepares it, "eager" first."""
    device = options.device
    last = torch.channels_last
    opens = functools.partial(session, case=case, options=options)
    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("eager", "fp32"): lambda: eager(case, device),
        ("eager channels_last", "fp32"): lambda: eager(case, device, layout=last),
        ("compile", "fp32"): lambda: compiled(case, device),
        ("fastgan torch", "fp32"): lambda: opens(case.network, backend="torch"),
    }
    if device == "cpu" or not case.halves:  # on a GPU compilation is slow, and fp16 is the relevant precision
        found["fastgan compile", "fp32"] = lambda: opens(case.network, backend="compile")
    if device == "cuda" and case.halves:
        half = torch.float16
        found |= {
            ("eager", "fp16"): lambda: eager(case, device, half),
            ("eager channels_last", "fp16"): lambda: eager(case, device, half, last),
            ("compile", "fp16"): lambda: compiled(case, device, half),
            ("fastgan torch", "fp16"): lambda: opens(case.network, backend="torch", half=True),
            ("fastgan compile", "fp16"): lambda: opens(case.network, backend="compile", half=True),
        }

    def of_file(precision: str, backend: str) -> Callable[[], Session]:
        return lambda: opens(exported(case, precision, calibration, folder), backend=backend)

    if device == "cpu":
        for precision in ("fp32", "int8")[: 1 + case.int8]:
            found["onnxruntime", precision] = of_file(precision, "onnxruntime")
            found["openvino", precision] = of_file(precision, "openvino")
        if case.spec.kind == "image":
            found["ncnn", "fp32"] = lambda: ncnn(case, options)
    else:
        found["onnxruntime", "fp32"] = of_file("fp32", "onnxruntime")
        if case.halves:
            found["onnxruntime", "fp16"] = of_file("fp16", "onnxruntime")
    return {key: build for key, build in found.items() if not options.only or key[0] in options.only}
