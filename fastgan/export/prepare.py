"""Prepares a network for export: folds norms, canonicalizes modules, sets the precision, computes the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.export.canonicalize import canonicalize
from fastgan.export.precision import Precision, at_precision, compute
from fastgan.export.verification_inputs import tracing_inputs
from fastgan.export.verify import Reference, memory_bound, smallest_units, tensors
from fastgan.nn import fold
from fastgan.runtime.network_spec import without_unused_labels
from fastgan.runtime.spec import Inputs, Spec


@dataclass
class Prepared:
    """A network that is ready to be written, and what the written file is compared with.

    network: of standard PyTorch modules, computing at `precision`, with float32 inputs and outputs. exact: the same in
    float32, before it was canonicalized. inputs: on which the network is traced. smallest: the least height, width or
    length in units of spec.multiple. facts: written into the file and its report. reference: outputs and limits for
    the file.
    """

    network: nn.Module
    exact: nn.Module
    spec: Spec
    precision: Precision
    inputs: list[Tensor]
    smallest: int
    facts: dict[str, Any]
    reference: Reference


def prepare(
    network: nn.Module, spec: Spec, precision: Precision, facts: dict[str, Any], compared: list[Inputs] | None = None
) -> Prepared:
    """Work on a copy of a network. Raises UsageError where its outputs are not what its spec says.

    compared: inputs to compare the file on, by default those of `verification_batches`.
    Raises ExportError where PyTorch cannot compute it at that precision (an overflow, for example).
    """
    from fastgan import __version__

    exact = without_unused_labels(fold(network)).cpu().float().requires_grad_(False)
    smallest = smallest_units(exact, spec)
    inputs = tensors(tracing_inputs(spec, smallest))
    sample = tensors(tracing_inputs(spec, smallest, memory_bound(exact, spec, smallest)))
    spec = _with_output_channels(spec, exact, sample)
    canonical = canonicalize(exact, *sample)
    computing = at_precision(canonical, precision)
    reference = Reference.of(exact, spec, precision.name, None if computing is canonical else computing, compared)
    facts = {**facts, "precision": precision.name, "fastgan": __version__}
    return Prepared(computing, exact, spec, precision, inputs, smallest, facts, reference)


def _with_output_channels(spec: Spec, network: nn.Module, inputs: list[Tensor]) -> Spec:
    """The spec with the channels of the network's output; UsageError where the output does not fit the spec."""
    y = compute(network, inputs, "float32")
    if not isinstance(y, Tensor):
        what = "images" if spec.kind != "signal" else "signals"
        of = f" of {len(y)}" if isinstance(y, tuple | list | dict) else ""
        raise UsageError(
            f"network: expected one that returns a tensor of {what}, got {type(y).__name__}{of}; export a module whose"
            f" forward() returns the {what} alone"
        )
    n, _, *size = inputs[0].shape
    if spec.kind == "mapping":
        if tuple(y.shape) != (n, *spec.styles):
            raise UsageError(f"network: expected w {[n, *spec.styles]} for {n} latents, got {list(y.shape)}")
        return spec
    if not spec.sizes:
        if y.dim() != 4 or y.shape[0] != n:
            raise UsageError(f"network: expected images [{n}, C, H, W] for {n} latents, got {list(y.shape)}")
        return replace(spec, channels=y.shape[1])
    sizes = [spec.scale * side for side in size]
    if y.dim() != len(sizes) + 2 or y.shape[0] != n or list(y.shape[2:]) != sizes:
        shape = ", ".join(map(str, [n, "C", *sizes]))
        raise UsageError(
            f"network: expected [{shape}] for {list(inputs[0].shape)}, from its scale {spec.scale}, got {list(y.shape)}"
        )
    return replace(spec, out_channels=y.shape[1])
