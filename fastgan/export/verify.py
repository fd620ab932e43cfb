"""Compares an exported file with its network: the file is run, and its outputs are compared with float64."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgan._util.memory import free_host_memory
from fastgan.errors import ExportError, first_line
from fastgan.export.precision import Precision, compute, find_precision, to_float64
from fastgan.export.verification_inputs import Fits, random_inputs, sized_inputs, verification_batches
from fastgan.runtime.dry_run import blanks, dry_run
from fastgan.runtime.spec import Inputs, Spec

#: Runs a file: inputs (labels int64, others float32) → images float32.
Run = Callable[..., np.ndarray]

#: The largest error of an export, relative to PyTorch's own error at that precision: the order of summation differs.
FACTOR = 2.0
#: The error allowed where the reference is in float32, relative to the largest output.
TOLERANCE_FLOAT32 = 1e-4
#: The most bytes of activations for which a network is compared; batches and sizes are reduced to it.
MEMORY = 2**30
#: Seconds for which a finished file is timed at each batch size.
_TIMED = 0.3


@dataclass
class Reference:
    """The outputs of a network in float64 on inputs of several batches and sizes, and the limits for an export of it.

    limit: the largest absolute error allowed (None: only `floor` counts). floor: the least PSNR, dB. dtype: "float32"
    for a network that does not run in float64.
    """

    spec: Spec
    precision: Precision
    inputs: list[Inputs]
    outputs: list[np.ndarray]
    limit: float | None
    floor: float
    dtype: str = "float64"

    @classmethod
    def of(
        cls,
        network: nn.Module,
        spec: Spec,
        precision: str = "fp32",
        like: nn.Module | None = None,
        inputs: list[Inputs] | None = None,
    ) -> Reference:
        """network: float32, in eval mode, on the CPU; it is computed in float64.

        like: the network as PyTorch computes it at that precision, with float32 inputs and outputs (None: `network`
        itself). Its error determines the limit; int8 has none. inputs: to compare on, instead of
        `verification_batches`.

        Raises ExportError where PyTorch's own error at that precision is too large: the network overflows, or its
        output is random.
        """
        row = find_precision(precision)
        if inputs is None:
            inputs = inputs_for(network, spec)
        outputs, dtype = _exact_outputs(network, inputs)
        for given, output in zip(inputs, outputs, strict=True):
            if not np.isfinite(output).all():
                raise ExportError(f"the network gives NaN or infinity in {dtype}, at {_input_size(spec, given)}")
        reference = cls(spec, row, inputs, outputs, None, row.floor, dtype)
        if precision == "int8":
            return reference
        like = like or network
        pytorch = [compute(like, tensors(given), precision).numpy() for given in inputs]
        reference._check_pytorch(pytorch, like)
        scale = max(float(np.abs(output).max()) for output in outputs)
        error = max(float(np.abs(a - b).max()) for a, b in zip(pytorch, outputs, strict=True))
        reference.limit = max(FACTOR * error, row.roundings * torch.finfo(row.dtype).eps * scale)
        if dtype == "float32":  # PyTorch's own error is not known
            reference.limit = max(reference.limit, TOLERANCE_FLOAT32 * scale)
        return reference

    def compare(self, run: Run, what: str = "the exported model") -> dict[str, Any]:
        """Run a file and compare its outputs. Raises ExportError, with `what` as its subject, where they differ.

        Returns {"parity": a row for each input, "psnr": over all, "limit", "psnr_floor", "reference": its dtype}.
        """
        rows, results = [], []
        for given, expected in zip(self.inputs, self.outputs, strict=True):
            where = _input_size(self.spec, given)
            try:
                got = np.asarray(run(*given))
            except Exception as error:  # whatever the runtime raises, it cannot run the file at this size
                raise ExportError(f"{what} fails at {where}: {first_line(error)}") from error
            if got.shape != expected.shape:
                raise ExportError(f"{what} gives {list(got.shape)} at {where}, expected {list(expected.shape)}")
            distance = np.abs(got - expected)
            results.append(got)
            worst = float(distance.max())
            if not np.isfinite(worst):
                raise ExportError(f"{what} gives NaN or infinity in {self.precision.name}, at {where}")
            if self.limit is not None and not worst <= self.limit:  # not `>`, which is False for NaN
                raise ExportError(f"{what} has an error of {worst:.2e} at {where}; {self.limit:.1e} is allowed")
            row: dict[str, Any] = {"batch": len(given[0])}
            if self.spec.kind == "image":
                row |= {"height": given[0].shape[2], "width": given[0].shape[3]}
            elif self.spec.kind == "signal":
                row["length"] = given[0].shape[2]
            row |= {"max_abs_error": worst, "mean_abs_error": float(distance.mean())}
            rows.append(row | {"psnr": psnr([got], [expected], self.spec.range)})
        overall = psnr(results, self.outputs, self.spec.range)
        if not overall >= self.floor:
            raise ExportError(
                f"{what} has a PSNR of {overall:.1f} dB against the network;"
                f" {self.precision.name} needs {self.floor:.0f}"
            )
        found = {"parity": rows, "psnr": overall, "limit": self.limit, "psnr_floor": self.floor}
        return {**found, "reference": self.dtype}

    def _check_pytorch(self, outputs: list[np.ndarray], network: nn.Module) -> None:
        """Raise ExportError where PyTorch's outputs at this precision are not finite or below the PSNR floor."""
        name = self.precision.name
        overflown = [given for given, o in zip(self.inputs, outputs, strict=True) if not np.isfinite(o).all()]
        overall = psnr(outputs, self.outputs, self.spec.range)
        if not overflown and overall >= self.floor:
            return
        worst = self.inputs[0] if not overflown else overflown[0]
        layer = _first_overflow(network, worst) if name != "fp32" else ""
        if not overflown and (call := _calls_differ(network, worst)):
            raise ExportError(
                f"network: its output is random: {call}. Export a module whose forward() switches the noise off"
                " (noise_mode='const' in StyleGAN)"
            )
        if overflown or layer:
            instead = "bf16, which has the range of fp32, or fp32" if name == "fp16" else "fp32"
            beyond = f"; the first module whose output is not finite is {layer}" if layer else ""
            where = _input_size(self.spec, worst)
            raise ExportError(f"precision: the network overflows in {name}, at {where}{beyond}; export it in {instead}")
        more = "; export it in fp32" if name != "fp32" else "; it suffers from cancellation, or computes in half types"
        raise ExportError(
            f"precision: the network in PyTorch in {name} has a PSNR of {overall:.1f} dB against float64,"
            f" {self.floor:.0f} are needed{more}"
        )


def verify(run: Run, spec: Spec, network: nn.Module, precision: str = "fp32") -> dict[str, Any]:
    """Compare a file in any runtime with its network (eval mode, CPU). See `Reference.compare`."""
    return Reference.of(network, spec, precision).compare(run)


def psnr(images: list[np.ndarray], references: list[np.ndarray], limits: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB over all images, clipped to `limits`; at most 200, NaN if an image has one."""
    low, high = limits
    squares = [
        np.square(np.clip(a, low, high) - np.clip(b, low, high)) for a, b in zip(images, references, strict=True)
    ]
    error = sum(float(s.sum()) for s in squares) / sum(s.size for s in squares) / (high - low) ** 2
    return float(-10 * np.log10(max(error, 1e-20))) if np.isfinite(error) else float("nan")


def smallest_units(network: nn.Module, spec: Spec) -> int:
    """The least height and width, or length, that a network accepts, in units of spec.multiple: reflection padding
    needs more than one pixel, for example. Raises ExportError where it runs at no size up to 64 units."""
    if not spec.sizes:
        return 1
    for units in range(1, 65):
        side = units * spec.multiple
        shape = (1, spec.channels, *(side for _ in spec.sizes))
        if _dry_bytes(network, spec, shape) is not None:
            return units
        if units == 1 or side <= 64:  # control flow that depends on values: it may run on real ones
            try:
                compute(network, tensors(sized_inputs(spec, shape)), "float32")
                return units
            except ExportError as error:
                failure = error
    raise failure


def _dry_bytes(network: nn.Module, spec: Spec, shape: tuple[int, ...]) -> int | None:
    """Bytes of activations in float32; None where the network does not run without data."""
    try:
        return dry_run(network, blanks(spec, shape))[1]
    except Exception:  # the network is the user's code
        return None


def memory_bound(network: nn.Module, spec: Spec, smallest: int) -> Fits:
    """Whether the activations of a network in float64, for a first input of a shape, take at most MEMORY bytes.

    They are counted on tensors without data; a network that does not run on these is not bounded. Raises ExportError
    where the smallest input needs more memory than is free.
    """

    def bytes_of(shape: tuple[int, ...]) -> int | None:
        wanted = _dry_bytes(network, spec, shape)
        return None if wanted is None else 2 * wanted

    least = (1, *(spec.latent_shape or (spec.channels, *(smallest * spec.multiple for _ in spec.sizes))))
    one = bytes_of(least)
    if one is None:
        return lambda shape: True
    if one > (free := free_host_memory()):
        raise ExportError(
            f"comparing the network with float64 takes {one / 1e9:.1f} GB at its smallest input {list(least)},"
            f" {free / 1e9:.1f} GB of memory are free"
        )

    def fits(shape: tuple[int, ...]) -> bool:
        # Proportional to the size but for attention; far below the bound that is exact enough.
        estimate = one * math.prod(shape) / math.prod(least)
        return estimate < MEMORY / 16 or (bytes_of(shape) or 0) <= MEMORY

    return fits


def inputs_for(network: nn.Module, spec: Spec) -> list[Inputs]:
    """The batches and sizes to compare a network on, as many as fit into the memory for it."""
    smallest, elements = smallest_units(network, spec), 1
    if not spec.sizes:
        elements = compute(network, tensors(random_inputs(spec, 1, seed=0)), "float32").numel()
    return list(verification_batches(spec, elements, smallest, memory_bound(network, spec, smallest)))


def _exact_outputs(network: nn.Module, inputs: list[Inputs]) -> tuple[list[np.ndarray], str]:
    """The outputs in float64, or in float32 where the network does not run in float64; and the name of the dtype."""
    exact = copy.deepcopy(network).double()
    try:
        return [compute(exact, to_float64(tensors(given)), "float64").numpy() for given in inputs], "float64"
    except ExportError as error:
        try:
            return [compute(network, tensors(given), "float32").numpy() for given in inputs], "float32"
        except ExportError:
            raise error from None


def _calls_differ(network: nn.Module, inputs: Inputs) -> str:
    """How far two calls on the same inputs are apart, or "" where they agree."""
    one, other = (compute(network, tensors(inputs), "float32") for _ in range(2))
    apart = float((one - other).abs().max())
    return f"two calls on the same input differ by {apart:.2g}" if apart else ""


def measure_speed(run: Run, spec: Spec) -> dict[str, float]:
    """Latents: latency at batch 1 in ms, images per second at batch 64. Images: latency of one of about 128×128;
    signals: of one of about 64 frames."""
    if not spec.sizes:
        return {
            "latency_ms_batch1": 1000 * _median_seconds(run, random_inputs(spec, 1, seed=0)),
            "images_per_second_batch64": 64 / _median_seconds(run, random_inputs(spec, 64, seed=0)),
        }
    side = spec.multiple * max(1, round((128 if spec.kind == "image" else 64) / spec.multiple))
    name = f"{side}x{side}" if spec.kind == "image" else f"{side}_frames"
    given = sized_inputs(spec, (1, spec.channels, *(side for _ in spec.sizes)))
    return {f"latency_ms_{name}_batch1": 1000 * _median_seconds(run, given)}


def _median_seconds(run: Run, inputs: Inputs) -> float:
    run(*inputs)
    times: list[float] = []
    while sum(times) < _TIMED or len(times) < 3:
        start = time.perf_counter()
        run(*inputs)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def tensors(inputs: Inputs) -> list[torch.Tensor]:
    """The inputs as tensors that share their memory."""
    return [torch.from_numpy(x) for x in inputs]


def _first_overflow(network: nn.Module, inputs: Inputs) -> str:
    """The name of the first module whose output is not finite, or ""."""
    found: list[str] = []

    def check(name: str, result: Any) -> None:
        if not found and isinstance(result, torch.Tensor) and not result.isfinite().all():
            found.append(name)

    handles = [
        module.register_forward_hook(lambda m, i, result, name=name: check(name, result))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            network(*tensors(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found[0].removeprefix("network.") if found else ""


def _input_size(spec: Spec, inputs: Inputs) -> str:
    (x, *_) = inputs
    if spec.kind == "image":
        return f"batch {len(x)} of {x.shape[3]}×{x.shape[2]} pixels"
    return f"batch {len(x)}" + (f" of {x.shape[2]} frames" if spec.kind == "signal" else "")
