"""Reads a configuration file as command-line flags, which the parser then checks like those of a user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastgan._util.table_file import read_table_file
from fastgan.errors import UsageError

#: Tables in tables are read to this depth; a YAML alias can make a table contain itself.
_DEPTH = 4
#: Begin the flags of options of the networks, the task and its data.
_OPTION = ("model.", "task.", "data.")


def flags_of(path: Path) -> list[str]:
    """The flags that a .yaml, .toml or .json file stands for: `{steps: 7}` → `["--steps=7"]`.

    Fields may be at the top level or in tables by topic (`{optim: {lr_g: 1e-3}}`): only the name of a field counts.
    Options of networks, task and data are in tables `options` of theirs. A run's config.json is read too: its table
    "config". A field of value null is left out, as if it were not there.
    Raises UsageError if the file cannot be read or parsed, or for an unknown field, a field that is given twice, or a
    value that is neither a number, a string nor a boolean.
    """
    from fastgan.train.config import field_names, switches, unknown
    from fastgan.train.config_history import of_today

    known = field_names()
    content = read_table_file(path, "config")
    if isinstance(content, dict) and isinstance(content.get("config"), dict):  # a run's config.json
        content = of_today(content["config"])
    if not isinstance(content, dict):
        raise UsageError(f"config: expected a table of fields in {path}, got {type(content).__name__}")
    given: dict[str, Any] = {}
    for name, value in _leaves(path, content):
        field = name.replace("-", "_")
        if field not in known and not field.startswith(_OPTION):
            raise UsageError(f"config: {unknown('field', name, known)} ({path})")
        if field in given:
            raise UsageError(f"config: {field} is given twice in {path}")
        if field in switches() and not isinstance(value, bool | None):
            raise UsageError(f"config: expected true or false for {field} in {path}, got {value!r}")
        given[field] = value
    return [flag for field, value in given.items() for flag in _flag(path, field, value)]


def _leaves(
    path: Path, table: Mapping[Any, Any], depth: int = 1, topic: str = "", above: str = "model"
) -> Iterator[tuple[str, Any]]:
    """(name of its flag, value) of every field in nested tables."""
    from fastgan.train.config import FLAGS

    # In config.json some fields have another name than their flag.
    flags = {own: flag for flag, own in FLAGS.items()}
    for name, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{above or 'model'}.{name}" if topic == "options" else flags.get((topic, name), str(name)), value
        elif depth == _DEPTH:
            raise UsageError(f"config: expected tables nested at most {_DEPTH} deep in {path}, got more at {name!r}")
        else:
            yield from _leaves(path, value, depth + 1, str(name), topic)


def _flag(path: Path, field: str, value: Any) -> list[str]:
    flag = field.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool) and not field.startswith(_OPTION):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if not isinstance(value, str | int | float):
        raise UsageError(
            f"config: expected a number, a string, true or false for {field} in {path}, got {type(value).__name__}"
        )
    return [f"--{flag}={value}"]
