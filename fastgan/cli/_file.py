"""A file of configuration fields as the flags that say the same."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastgan.errors import UsageError


def flags_of(path: Path) -> list[str]:
    """Fields of Config in YAML, TOML or JSON (a run's config.json too) as flags, for the parser to check like others.

    Raises UsageError where it cannot be read, is neither, or holds what is no field's value.
    """
    from fastgan.train.config import field_names, unknown

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    once = functools.partial(_once, path)
    try:
        if path.suffix in (".yaml", ".yml"):
            fields = _yaml(text, once)
        elif path.suffix == ".toml":
            fields = tomllib.loads(text)
        elif path.suffix == ".json":
            fields = json.loads(text, object_pairs_hook=once)
        else:
            raise UsageError(f"config: expected a .yaml, .toml or .json file, got {path}")
    except ValueError as error:
        raise UsageError(f"config: {path} is not readable: {error}") from error
    if isinstance(fields, dict) and isinstance(fields.get("config"), dict):  # of a run
        fields = fields["config"]
    if not isinstance(fields, dict):
        raise UsageError(f"config: expected fields and their values in {path}, got {type(fields).__name__}")
    flags = []
    for name, value in fields.items():
        if (field := name.replace("-", "_")) not in field_names():
            raise UsageError(f"config: {unknown('field', name, field_names())} ({path})")
        flags += _flag(path, field, value)
    return flags


def _once(path: Path, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; UsageError where a name stands twice."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise UsageError(f"config: {name} stands twice in {path}")
        fields[name] = value
    return fields


def _yaml(text: str, once: Any) -> Any:
    """Values are the words as they are written, for the field says what they mean: to YAML 1.1, `1e-4` is a string and
    `off` is False. Only yes and no for a field of that kind, and null, are YAML's. Nothing is built of tags."""
    import yaml

    from fastgan.train.config import Config

    switches = {field.name for field in dataclasses.fields(Config) if isinstance(field.default, bool)}

    def plain(node: yaml.Node | None, name: str = "", depth: int = 0) -> Any:
        # What lies deeper than a run's "config" is refused whatever it is; aliases could make it endless.
        if isinstance(node, yaml.MappingNode):
            pairs = node.value if depth < 2 else []
            return once((str(key.value), plain(value, str(key.value), depth + 1)) for key, value in pairs)
        if isinstance(node, yaml.SequenceNode):
            return []
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return None
        if name.replace("-", "_") not in switches:
            return node.value
        if node.value.lower() not in yaml.SafeLoader.bool_values:
            raise UsageError(f"{name}: expected true or false, got {node.value!r}")
        return yaml.SafeLoader.bool_values[node.value.lower()]

    try:
        return plain(yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _flag(path: Path, name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None:  # nothing is said of it
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{name.replace('_', '-')}"]
    if not isinstance(value, str | int | float):
        raise UsageError(f"config: expected a number or a string for {name} in {path}, got {type(value).__name__}")
    return [f"{flag}={value}"]
