"""A file of configuration fields as the flags that say the same."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from fastgan.errors import UsageError


def flags_of(path: Path) -> list[str]:
    """Fields of Config in TOML or JSON (a run's config.json too) as flags, for the parser to check like any others.

    Raises UsageError where it cannot be read, is neither, or holds what is no field's value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        if path.suffix == ".toml":
            fields: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            fields = json.loads(text)
        else:
            raise UsageError(f"config: expected a .toml or .json file, got {path}")
    except ValueError as error:
        raise UsageError(f"config: {path} is not readable: {error}") from error
    if isinstance(fields, dict) and isinstance(fields.get("config"), dict):  # of a run
        fields = fields["config"]
    if not isinstance(fields, dict):
        raise UsageError(f"config: expected fields and their values in {path}, got {type(fields).__name__}")
    return [word for name, value in fields.items() for word in _flag(path, name, value)]


def _flag(path: Path, name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None:  # nothing is said of it
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{name.replace('_', '-')}"]
    if not isinstance(value, str | int | float):
        raise UsageError(f"config: expected a number or a string for {name} in {path}, got {type(value).__name__}")
    return [f"{flag}={value}"]
