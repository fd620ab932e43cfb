"""Does an exported network compute what the network computes? Nothing is believed of the file but its answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgan.errors import ExportError
from fastgan.export.precision import Precision, compute, doubled, first_line, precision_named
from fastgan.export.verification_inputs import probes
from fastgan.runtime.spec import Inputs, Spec

#: A runtime: what the network takes in (labels int64, all else float32), float32 out.
Run = Callable[..., np.ndarray]

#: Two computations in the same precision differ by their order of summation; this is how far the export may be from the
#: truth, in units of how far PyTorch is.
FACTOR = 2.0


@dataclass
class Standard:
    """What a network gives in float64, on inputs of several batches and sizes, and what is asked of an export of it.

    limit: the largest absolute error allowed (None: judged by `floor` alone). floor: the least PSNR, dB.
    """

    spec: Spec
    precision: Precision
    inputs: list[Inputs]
    truths: list[np.ndarray]
    limit: float | None
    floor: float

    @classmethod
    def of(
        cls,
        network: nn.Module,
        spec: Spec,
        precision: str = "fp32",
        like: nn.Module | None = None,
        inputs: list[Inputs] | None = None,
    ) -> Standard:
        """network: float32, in eval mode, on the CPU; it is computed in float64.

        like: what PyTorch computes at that precision, float32 in and out (left out: `network` itself). Its own error
        sets the limit; int8 has none. inputs: what to compare on instead of `probes`.

        Raises ExportError where PyTorch itself is off at that precision: an overflow, or a network that is random.
        """
        row = precision_named(precision)
        exact = copy.deepcopy(network).double()
        smallest = smallest_units(network, spec)
        first = doubled(tensors(next(probes(spec, 1, smallest))))
        elements = compute(exact, first, "float64")[0].numel()
        inputs = list(probes(spec, elements, smallest)) if inputs is None else inputs
        truths = [compute(exact, doubled(tensors(given)), "float64").numpy() for given in inputs]
        for given, truth in zip(inputs, truths, strict=True):
            if not np.isfinite(truth).all():
                raise ExportError(f"the network gives NaN or infinity in float64, at {_where(spec, given)}")
        standard = cls(spec, row, inputs, truths, None, row.floor)
        if precision == "int8":
            return standard
        reference = like or network
        own = [compute(reference, tensors(given), precision).numpy() for given in inputs]
        standard._believable(own, reference)
        scale = max(float(np.abs(truth).max()) for truth in truths)
        error = max(float(np.abs(o - truth).max()) for o, truth in zip(own, truths, strict=True))
        standard.limit = max(FACTOR * error, row.roundings * torch.finfo(row.dtype).eps * scale)
        return standard

    def judge(self, run: Run, what: str = "the exported model") -> dict[str, Any]:
        """Compare. {parity: a row for each input, psnr over all, limit, floor}; ExportError where it is refused."""
        rows, results = [], []
        for given, truth in zip(self.inputs, self.truths, strict=True):
            where = _where(self.spec, given)
            try:
                got = np.asarray(run(*given))
            except Exception as error:  # whatever the runtime raises at another size, the export is wrong
                raise ExportError(f"{what} fails at {where}: {first_line(error)}") from error
            if got.shape != truth.shape:
                raise ExportError(f"{what} gives {list(got.shape)} at {where}, not {list(truth.shape)}")
            distance = np.abs(got - truth)
            results.append(got)
            worst = float(distance.max())
            if not np.isfinite(worst):
                raise ExportError(f"{what} gives NaN or infinity in {self.precision.name}, at {where}")
            if self.limit is not None and not worst <= self.limit:  # not `>`: a NaN must not pass
                raise ExportError(f"{what} is off by {worst:.2e} at {where}; allowed is {self.limit:.1e}")
            row: dict[str, Any] = {"batch": len(given[0])}
            if self.spec.kind == "image":
                row |= {"height": given[0].shape[2], "width": given[0].shape[3]}
            row |= {"max_abs_error": worst, "mean_abs_error": float(distance.mean())}
            rows.append(row | {"psnr": psnr([got], [truth], self.spec.range)})
        overall = psnr(results, self.truths, self.spec.range)
        if not overall >= self.floor:
            raise ExportError(
                f"{what} has a PSNR of {overall:.1f} dB against the network;"
                f" {self.precision.name} needs {self.floor:.0f}"
            )
        return {"parity": rows, "psnr": overall, "limit": self.limit, "psnr_floor": self.floor}

    def _believable(self, own: list[np.ndarray], reference: nn.Module) -> None:
        name = self.precision.name
        overflown = [given for given, o in zip(self.inputs, own, strict=True) if not np.isfinite(o).all()]
        overall = psnr(own, self.truths, self.spec.range)
        if not overflown and overall >= self.floor:
            return
        worst = self.inputs[0] if not overflown else overflown[0]
        layer = _first_overflow(reference, worst) if name != "fp32" else ""
        if overflown or layer:
            instead = "bf16, whose range is that of fp32, or fp32" if name == "fp16" else "fp32"
            beyond = f"; the first beyond its range is {layer}" if layer else ""
            where = _where(self.spec, worst)
            raise ExportError(f"precision: the network overflows in {name}, at {where}{beyond}; export it in {instead}")
        more = "; export it in fp32" if name != "fp32" else "; it is random, or its numbers cancel"
        raise ExportError(
            f"precision: PyTorch itself computes the network in {name} with a PSNR of {overall:.1f} dB against float64,"
            f" {self.floor:.0f} are needed{more}"
        )


def verify(run: Run, spec: Spec, network: nn.Module, precision: str = "fp32") -> dict[str, Any]:
    """Compare any runtime with a network (eval mode, CPU), at several batches and sizes. See `Standard.judge`."""
    return Standard.of(network, spec, precision).judge(run)


def psnr(images: list[np.ndarray], truths: list[np.ndarray], limits: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB of all images together, as they are shown: clipped to `limits`. 200 at most."""
    low, high = limits
    squares = [np.square(np.clip(a, low, high) - np.clip(b, low, high)) for a, b in zip(images, truths, strict=True)]
    error = sum(float(s.sum()) for s in squares) / sum(s.size for s in squares) / (high - low) ** 2
    return float(-10 * np.log10(max(error, 1e-20))) if np.isfinite(error) else float("nan")


def smallest_units(network: nn.Module, spec: Spec) -> int:
    """The least height and width that an image network takes, in units of spec.multiple: padding by reflection, say,
    needs more than one pixel. ExportError where it runs on none up to 64."""
    trouble: ExportError | None = None
    for units in range(1, 65 if spec.kind == "image" else 1):
        side = units * spec.multiple
        try:
            compute(network, [torch.full((1, spec.channels, side, side), spec.range[1])], "float32")
        except ExportError as error:
            trouble = error
        else:
            return units
    if trouble is not None:
        raise trouble
    return 1


def tensors(inputs: Inputs) -> list[torch.Tensor]:
    """The same memory as tensors."""
    return [torch.from_numpy(x) for x in inputs]


def _first_overflow(network: nn.Module, inputs: Inputs) -> str:
    """The name of the first module whose result is not finite, or ""."""
    found: list[str] = []

    def look(name: str, result: Any) -> None:
        if not found and isinstance(result, torch.Tensor) and not result.isfinite().all():
            found.append(name)

    handles = [
        module.register_forward_hook(lambda m, i, result, name=name: look(name, result))
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


def _where(spec: Spec, inputs: Inputs) -> str:
    (x, *_) = inputs
    return f"batch {len(x)}" + (f" of {x.shape[3]}×{x.shape[2]} pixels" if spec.kind == "image" else "")
