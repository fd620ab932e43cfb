"""fuse: runs a network of plain PyTorch on fastgan's ops. fusion_report: each module as fused or skipped, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from fastgan.errors import UsageError
from fastgan.nn.fusion.fused_classes import set_class
from fastgan.nn.fusion.plan import PlannedModule, fusion_plan, why_sealed
from fastgan.nn.spectral_group import group_spectral_norms, why_ungrouped

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """One module: its dotted name ("" is the root), its class, its status "fused" or "skipped", and how or why."""

    name: str
    kind: str
    status: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The rows of all modules of a network. As text: a table, one module a line."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        cells = [(row.name or "(root)", row.kind, f"{row.status}: {row.reason}") for row in self.rows]
        widths = [max(len(cell[i]) for cell in cells) for i in range(2)]
        lines = [f"{name:{widths[0]}}  {kind:{widths[1]}}  {status}" for name, kind, status in cells]
        if any(row.status == "fused" for row in self.rows):
            lines.append("Where no input gradient can follow, PyTorch runs what is fused on a CPU (see fuse).")
        return "\n".join(lines)


def fuse(module: M) -> M:
    """Run a network of plain PyTorch on fastgan's ops. Changes it in place and returns it.

    The state dict and the numbers stay the same. torch.nn's convolutions, transposed convolutions and activations run
    on fastgan's ops, activations in place too. In nn.Sequential, and in users' modules whose forward calls an
    activation on the result of a layer, both run as one op, also with an `if` in between, in loops over a ModuleList,
    and for users' convolutions that call `super().forward` or `F.conv2d`; consecutive Conv2d blocks of a Sequential run
    as one stack. A user's activation that adds a bias before, or multiplies by a gain or clamps after it, joins the
    layer before. Filters that are the same for each channel run as `upfirdn2d`. PyTorch's spectral norms of both kinds
    are computed as one group. Instance norms without parameters and running statistics run on a CPU as one op with the
    ReLU or leaky ReLU after them, in every run. A gradient penalty then computes only what it needs. Parameters,
    buffers, hooks, isinstance, copies and pickles are as before. Modules that cannot be fused exactly are skipped;
    `fusion_report` gives the reasons.

    On a CPU all but filters, instance norms and stacks with activations out of place run PyTorch's own operations in
    eager runs in which no input gradient can follow (inference, steps without a penalty): there they are as fast. A run
    is one in which an input gradient can follow if the layer's input depends on a leaf that requires a gradient and is
    no nn.Parameter. In those runs large convolutions of 5×5 or more to at most 4 channels, the last ones of many
    generators, compute several pixels at once, with the same numbers but for rounding.

    Differences: The output of a leaky ReLU is saved for the backward pass. Overwriting it outside of the forward that
    computed it (`y = block(x); y += x`, also where the block multiplies it by a gain), or by an activation module in
    place in a forward of your own, which PyTorch allows unless the leaky ReLU itself is in place, raises PyTorch's
    error. Convolutions and linear layers with hooks of torch.nn.utils.weight_norm or spectral_norm can be copied after
    a run, which PyTorch refuses.

    Raises UsageError for an argument that is not a module, or that is compiled: call fuse first, then compile.
    torch.jit.script raises it for a fused network; torch.jit.trace, torch.export, torch.fx and torch.compile take one.
    """
    _check(module)
    group_spectral_norms(module)
    for planned in fusion_plan(module):
        if planned.fused and planned.becomes is not None and not isinstance(planned.module, planned.becomes):
            set_class(planned.module, planned.becomes)
    return module


def fusion_report(module: nn.Module) -> Report:
    """Each module of a network as fused or skipped by `fuse`, with the reason. Raises UsageError as `fuse` does."""
    _check(module)
    norms = why_ungrouped(module)
    return Report(tuple(_row(planned, norms.get(planned.name)) for planned in fusion_plan(module)))


def _row(planned: PlannedModule, norm: str | None) -> Row:
    """norm: None without a spectral norm, "" with a grouped one, else the reason why it is not grouped."""
    spectral = "" if norm is None else "; spectral norm " + (f"not grouped: {norm}" if norm else "grouped")
    return Row(planned.name, planned.kind, "fused" if planned.fused else "skipped", planned.reason + spectral)


def _check(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise UsageError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    sealed = why_sealed(module)
    if sealed:
        raise UsageError(f"module: expected one that is not compiled (call fuse first, then compile), got {sealed}")
