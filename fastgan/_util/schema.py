"""Checks of JSON that others may have written: types and bounds, at the place where it enters.

A schema is a function of a value and where it stands, which returns the value or raises Mismatch. `table` and `list_of`
combine them:

    CHECK = table({"scale": whole(1, 64), "range": list_of(number(), 2, 2)}, required=("scale",))
    CHECK(read_json(text), "metadata")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastgan._util.files import amount

Schema = Callable[[Any, str], Any]

#: Bytes of a JSON file that is read; the largest ones that fastgan writes are a few megabytes.
LIMIT = 64 << 20
_SHOWN = 60


class Mismatch(ValueError):
    """A value is not what its schema expects."""

    def __init__(self, where: str, expected: str, got: Any):
        super().__init__(f"{where}: expected {expected}, got {shown(got)}")


def read_json(content: str | bytes, *, pairs: Callable[[Iterable[tuple[str, Any]]], Any] | None = None) -> Any:
    """json.loads that raises ValueError, and nothing else, for a text that cannot be read, however deeply nested.

    pairs: makes an object of its pairs, see object_pairs_hook.
    """
    try:
        return json.loads(content, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_file(path: Path, schema: Schema | None = None) -> Any:
    """The content of a JSON file of at most LIMIT bytes. Raises ValueError, Mismatch among them, and OSError."""
    with path.open("rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"it is larger than {amount(LIMIT)}")
    value = read_json(content)
    return value if schema is None else schema(value, path.name)


def whole(low: int = -(1 << 53), high: int = 1 << 53) -> Schema:
    """A whole number in [low, high]."""

    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Mismatch(where, f"a whole number from {low} to {high}", value)
        return value

    return check


def number(low: float = -1e300, high: float = 1e300) -> Schema:
    """A finite number in [low, high]."""

    def check(value: Any, where: str) -> float:
        # In this order: a whole number beyond floating point has no float.
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise Mismatch(where, f"a number from {low:g} to {high:g}", value)
        return value

    return check


def text(longest: int = 10_000, *, names: bool = False) -> Schema:
    """A string that UTF-8 can encode. names: or one with file names in it, whose bytes need not be UTF-8."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise Mismatch(where, f"a string of at most {longest} characters", value)
        try:
            value.encode(errors="surrogateescape" if names else "strict")
        except UnicodeEncodeError:
            raise Mismatch(where, "a string of valid characters", value) from None
        return value

    return check


def one_of(*values: Any) -> Schema:
    """One of a few values."""

    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(each) and value == each for each in values):
            raise Mismatch(where, " or ".join(map(repr, values)), value)
        return value

    return check


def flag(value: Any, where: str) -> bool:
    """true or false."""
    if type(value) is not bool:
        raise Mismatch(where, "true or false", value)
    return value


def anything(value: Any, where: str) -> Any:
    """Any value."""
    return value


def optional(schema: Schema) -> Schema:
    """null, or what the schema expects."""
    return lambda value, where: None if value is None else schema(value, where)


def list_of(schema: Schema, shortest: int = 0, longest: int = 1_000_000) -> Schema:
    """A list of so many values."""

    def check(value: Any, where: str) -> list:
        if not isinstance(value, list) or not shortest <= len(value) <= longest:
            length = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
            raise Mismatch(where, f"a list of {length} values", value)
        return [schema(each, f"{where}[{i}]") for i, each in enumerate(value)]

    return check


def table(fields: Mapping[str, Schema], required: Iterable[str] = (), others: Schema = anything) -> Schema:
    """An object: `required` names are there, those of `fields` are checked, all other values are as `others` wants."""
    needed = tuple(required)

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch(where, "a JSON object", value)
        for name in needed:
            if name not in value:
                raise ValueError(f"{where}: {name} is missing")
        return {name: fields.get(name, others)(each, shown_name(name)) for name, each in value.items()}

    return check


def shown(value: Any) -> str:
    """A value for a message: its repr, which has no control characters, cut to a few words."""
    if isinstance(value, dict | list):
        return f"a {'JSON object' if isinstance(value, dict) else 'list'} of {len(value)} values"
    if type(value) is int and value.bit_length() > 200:  # of thousands of digits, whose repr raises ValueError
        return f"a whole number of {value.bit_length()} bits"
    words = repr(value)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."


def shown_name(name: str) -> str:
    """The name of a field for a message."""
    return name if name.isprintable() and len(name) <= _SHOWN else shown(name)
