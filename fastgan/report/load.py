"""Reads a run directory into a plain record. Only config.json must be there; whatever else is missing stays empty."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastgan.errors import DataError, UsageError
from fastgan.report.text import number

KINDS = ("fixed", "fresh", "beside", "nearest", "strips", "truncation", "classes")
"""The kinds of panels, `samples/KIND-STEP.png`, in the order in which a page shows them."""


@dataclass(frozen=True)
class Run:
    """What a run directory holds. `notes` says in words what could not be read."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    command: str
    dataset: dict[str, Any]
    networks: dict[str, Any]
    status: dict[str, Any]
    metrics: list[dict[str, Any]]
    export: dict[str, Any]
    evaluations: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    #: How many training images the nearest were looked for among, and of how many.
    neighbors: dict[str, Any]
    real: Path | None = None
    #: Whether images are made of sources, and not of latent codes.
    of_sources: bool = False
    #: Kind of panel → step → picture; kinds without a picture are absent.
    panels: dict[str, dict[int, Path]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(directory: Path) -> Run:
    """Read a run directory; raises UsageError if it is none, DataError if its config.json cannot be read."""
    directory = Path(directory)
    frozen = directory / "config.json"
    if not frozen.is_file():
        raise UsageError(f"run: expected a run directory with a config.json in it, got {directory}")
    try:
        head = json.loads(frozen.read_bytes())
    except ValueError as error:
        raise DataError(f"{frozen} is not valid JSON: {error}") from error
    if not isinstance(head, dict):
        raise DataError(f"{frozen}: expected a JSON object, got {type(head).__name__}")

    notes: list[str] = []
    metrics = _read_metrics(directory / "metrics.jsonl", notes)
    real = directory / "samples" / "real.png"
    return Run(
        name=directory.resolve().name,
        config=_config(head),
        environment=_mapping(head.get("environment")),
        command=str(head.get("command") or ""),
        dataset=_mapping(head.get("dataset")),
        networks=_mapping(head.get("networks")),
        status=_read_optional(directory / "status.json", notes),
        metrics=metrics,
        export=_read_optional(directory / "generator.onnx.json", notes),
        evaluations=_read_list(directory / "eval.json", notes),
        layers=_read_list(directory / "layers.json", notes),
        neighbors=_mapping(head.get("neighbors")),
        real=real if real.is_file() else None,
        of_sources=bool(head.get("source_channels")),
        panels={kind: found for kind in KINDS if (found := panels_in(directory, kind))},
        notes=notes,
    )


def _config(head: dict[str, Any]) -> dict[str, Any]:
    """The configuration, with the game that was played, which may be one of the user's own."""
    config = _mapping(head.get("config"))
    return config | {"game": head["game"]} if config and isinstance(head.get("game"), str) else config


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_optional(path: Path, notes: list[str]) -> dict[str, Any]:
    record = _read_json(path, dict, notes)
    return record if isinstance(record, dict) else {}


def _read_list(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    records = _read_json(path, list, notes)
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def _read_json(path: Path, kind: type, notes: list[str]) -> object:
    """What a file holds, or None where it is not there, or holds nothing of that kind, which is noted."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
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
            row = json.loads(line)
        except ValueError:
            row = None
        step = number(row.get("step")) if isinstance(row, dict) else None
        if step is None:
            # A last line without its newline is one still being written, or cut off by a kill.
            damaged += i < len(lines) - 1
            continue
        # A resumed run goes back to its checkpoint: what it had logged beyond that point never happened.
        while rows and rows[-1]["step"] >= step:
            rows.pop()
        rows.append({**row, "step": step})
    if damaged:
        some = "1 line" if damaged == 1 else f"{damaged} lines"
        notes.append(f"{some} of {path.name} could not be read and {'is' if damaged == 1 else 'are'} left out.")
    return rows


def panels_in(directory: Path, kind: str) -> dict[int, Path]:
    """The panels of one kind that a run directory holds, by their steps, in order."""
    found = {}
    for path in (Path(directory) / "samples").glob(f"{kind}-*.png"):
        if match := re.fullmatch(rf"{kind}-(\d+)\.png", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))
