"""fuse: a network of plain PyTorch on our ops, in place; fusion_report: what became of each module, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from fastgan.errors import UsageError
from fastgan.nn.fusion.fused_classes import swap
from fastgan.nn.fusion.plan import Step, is_sealed, plan
from fastgan.nn.spectral_group import group_spectral_norms, why_ungrouped

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """One module: its dotted name ("" is the root), its class, "fused" or "left", and as what, or why."""

    name: str
    kind: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The rows of a tree of modules. As text: a table, one module a line."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        cells = [(row.name or "(root)", row.kind, f"{row.verdict}: {row.reason}") for row in self.rows]
        widths = [max(len(cell[i]) for cell in cells) for i in range(2)]
        return "\n".join(f"{name:{widths[0]}}  {kind:{widths[1]}}  {verdict}" for name, kind, verdict in cells)


def fuse(module: M) -> M:
    """Puts a network on fastgan's ops, in place, and returns it. Same state dict, same numbers.

    Convolutions, transposed convolutions and activations of torch.nn run on ours wherever they stand; in nn.Sequential,
    and in a module of the user's own that calls an activation on the result of a layer, the two run as one op, and
    Conv2d blocks in a row as one stack; torch's spectral norms, of both kinds, are computed in one group. Afterwards a
    gradient penalty runs no wasted pass. Parameters, buffers, hooks, isinstance, copies and pickles are as before; what
    cannot be fused exactly is left, and `fusion_report` says why.

    One thing differs: the result of a leaky ReLU is kept for the backward pass, so that overwriting it in place
    (`y = block(x); y += x`), which PyTorch allows unless the leaky ReLU is itself in place, raises PyTorch's error.

    Raises UsageError for what is not a module, or is compiled already: fuse first, compile then.
    """
    _check(module)
    group_spectral_norms(module)
    for step in plan(module):
        if step.fused and step.becomes is not None and not isinstance(step.module, step.becomes):
            swap(step.module, step.becomes)
    return module


def fusion_report(module: nn.Module) -> Report:
    """What `fuse` does, or did, with every module of a network. `print` it. Raises UsageError as `fuse` does."""
    _check(module)
    norms = why_ungrouped(module)
    return Report(tuple(_row(step, norms.get(step.name)) for step in plan(module)))


def _row(step: Step, norm: str | None) -> Row:
    """norm: None without a spectral norm, "" with one that goes into the group, else why it does not."""
    spectral = "" if norm is None else "; spectral norm " + (f"left: {norm}" if norm else "in the group")
    return Row(step.name, step.kind, "fused" if step.fused else "left", step.reason + spectral)


def _check(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise UsageError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    sealed = is_sealed(module)
    if sealed:
        raise UsageError(f"module: expected one that is not compiled yet (fuse first, compile then), got {sealed}")
