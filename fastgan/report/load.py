"""Reads a run directory into a dataclass. Only config.json is required; all other missing parts stay empty."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastgan._util.schema import read_json, read_json_file
from fastgan.errors import DataError, UsageError
from fastgan.report.legacy import modernized_config, modernized_export, modernized_row
from fastgan.report.text import number

KINDS = ("fixed", "fresh", "beside", "nearest", "strips", "truncation", "classes")
"""The kinds of sample grids, `samples/KIND-STEP.png`, in the order in which a page shows them."""


@dataclass(frozen=True)
class Run:
    """What a run directory holds. `notes`: one sentence for each file that could not be read."""

    name: str
    #: Fields of Config by name, whether config.json groups them by topic or not. "loss" is the name of the loss.
    config: dict[str, Any]
    #: Whether the adversarial loss has no lower bound.
    unbounded: bool
    environment: dict[str, Any]
    command: str
    dataset: dict[str, Any]
    networks: dict[str, Any]
    status: dict[str, Any]
    metrics: list[dict[str, Any]]
    export: dict[str, Any]
    evaluations: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    #: "among": the number of training images that were searched for nearest neighbors; "of": the number of all.
    neighbors: dict[str, Any]
    #: The grid of real images, if there is one.
    real: Path | None = None
    #: Whether the generator maps images to images, and not latents.
    from_images: bool = False
    #: Kind → step → PNG file; kinds without a file are absent.
    sample_grids: dict[str, dict[int, Path]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(directory: Path) -> Run:
    """Read a run directory, of this version or an earlier one.

    Raises UsageError if there is no config.json, DataError if it cannot be read.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise UsageError(f"run: expected a run directory with a config.json in it, got {directory}")
    try:
        head = read_json_file(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(head, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(head).__name__}")
    head = modernized_config(head)
    loss = _mapping(head.get("loss"))

    notes: list[str] = []
    metrics = _read_metrics(directory / "metrics.jsonl", notes)
    real = directory / "samples" / "real.png"
    return Run(
        name=directory.resolve().name,
        config=_config(head, loss),
        unbounded=bool(loss.get("unbounded")),
        environment=_mapping(head.get("environment")),
        command=str(head.get("command") or ""),
        dataset=_mapping(head.get("dataset")),
        networks=_mapping(head.get("networks")),
        status=_read_optional(directory / "status.json", notes),
        metrics=metrics,
        export=modernized_export(_read_optional(directory / "generator.onnx.json", notes)),
        evaluations=_read_list(directory / "eval.json", notes),
        layers=_read_list(directory / "layers.json", notes),
        neighbors=_mapping(head.get("neighbors")),
        real=real if real.is_file() else None,
        from_images=bool(head.get("source_channels")),
        sample_grids={kind: sample_grids_in(directory, kind) for kind in _kinds_in(directory)},
        notes=notes,
    )


def is_run(directory: Path) -> bool:
    """Whether a directory is a run: its config.json is one that a run of fastgan, of any version, has written."""
    try:
        facts = read_json((Path(directory) / "config.json").read_bytes())
        return isinstance(facts["config"], dict) and "fastgan" in facts["environment"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _kinds_in(directory: Path) -> list[str]:
    """The kinds of sample grids that are there: those of the built-in tasks first, then those of other tasks."""
    paths = (Path(directory) / "samples").glob("*.png")
    found = {match[1] for path in paths if (match := re.fullmatch(r"(.+)-\d+\.png", path.name))}
    return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS))


def sample_grids_in(directory: Path, kind: str) -> dict[int, Path]:
    """The sample grids of one kind in a run directory, by step, in order."""
    found = {}
    for path in (Path(directory) / "samples").glob(f"{kind}-*.png"):
        if match := re.fullmatch(rf"{kind}-(\d+)\.png", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _config(head: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Config by name. The loss may be one of the user's own, which the configuration does not name."""
    fields = _fields(_mapping(head.get("config")))
    return fields | {"loss": loss["name"]} if fields and isinstance(loss.get("name"), str) else fields


def _fields(table: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in table.items():
        fields |= _fields(value) if isinstance(value, Mapping) and value else {name: value}
    return fields


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_optional(path: Path, notes: list[str]) -> dict[str, Any]:
    record = _read_json(path, dict, notes)
    return record if isinstance(record, dict) else {}


def _read_list(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    records = _read_json(path, list, notes)
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def _read_json(path: Path, kind: type, notes: list[str]) -> object:
    """The content of a file, or None if it is missing or, with a note, if it is not of that kind."""
    if not path.is_file():
        return None
    try:
        record = read_json_file(path)
    except (ValueError, OSError):
        record = None
    if not isinstance(record, kind):
        notes.append(f"{path.name} could not be read and is left out.")
        return None
    return record


def _read_metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    damaged = 0
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except ValueError:
            row = None
        step = number(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            # A last line without its newline is still being written, or was cut off by a kill.
            damaged += i < len(lines) - 1
            continue
        # A resumed run goes back to its checkpoint: it computes the later steps again.
        while rows and rows[-1]["step"] >= step:
            rows.pop()
        rows.append({**modernized_row(row), "step": step})
    if damaged:
        some = "1 line" if damaged == 1 else f"{damaged} lines"
        notes.append(f"{some} of {path.name} could not be read and {'is' if damaged == 1 else 'are'} left out.")
    return rows
