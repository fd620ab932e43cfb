"""Reads a YAML, TOML or JSON file as tables and lists of plain values."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastgan._util.files import amount
from fastgan._util.schema import read_json
from fastgan.errors import UsageError, first_line

#: Bytes of a file that is read.
_LIMIT = 1 << 20


def read_table_file(path: Path, name: str) -> Any:
    """What a .yaml, .toml or .json file holds. name: of the argument that named it, for messages.

    Raises UsageError if the file cannot be read or parsed, is larger than 1 MiB or nested too deeply, or has aliases
    or a key twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise UsageError(f"{name}: {path} is larger than {amount(_LIMIT)}")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        if path.suffix in (".yaml", ".yml"):
            return _yaml(text)
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            return read_json(text, pairs=_unique)
    except RecursionError:
        raise UsageError(f"{name}: {path} cannot be parsed: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{name}: {path} cannot be parsed: {error}") from error
    raise UsageError(f"{name}: expected a .yaml, .toml or .json file, got {path}")


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
