"""Reads a configuration file as command-line flags, which the parser then checks like those of a user."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastgan._util.files import amount
from fastgan._util.schema import read_json
from fastgan.errors import UsageError, first_line

#: Bytes of a file that is read.
_LIMIT = 1 << 20
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
    content = _read(path)
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


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise UsageError(f"config: {path} is larger than {amount(_LIMIT)}")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        if path.suffix in (".yaml", ".yml"):
            return _yaml(text)
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            return read_json(text, pairs=_unique)
    except RecursionError:
        raise UsageError(f"config: {path} cannot be parsed: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"config: {path} cannot be parsed: {error}") from error
    raise UsageError(f"config: expected a .yaml, .toml or .json file, got {path}")


def _yaml(text: str) -> Any:
    """YAML 1.2, in which `off` is a string and `1e-4` a number; no objects are built from tags. Raises ValueError.

    Aliases are refused: a few lines of them stand for a table of any size, or one that contains itself.
    """
    from ruamel.yaml import YAML, AliasEvent
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, AliasEvent):
                raise ValueError(f"the alias *{event.anchor} at line {event.start_mark.line + 1}: write the values out")
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (AttributeError, TypeError, KeyError, IndexError) as error:  # of ruamel.yaml for damaged texts
        raise ValueError(first_line(error)) from error


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError for a key that is there twice, of which Python's parser keeps the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f'found duplicate key "{name}"')
        found[name] = value
    return found


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
