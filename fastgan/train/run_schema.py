"""What the JSON files of a run may hold, whoever wrote them: types and bounds."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from fastgan._util.schema import (
    flag,
    list_of,
    number,
    optional,
    shown,
    table,
    text,
    whole,
)
from fastgan.errors import UsageError

_COUNT = whole(0)
_SIDE = whole(1, 65_535)

#: config.json, of older versions too: those of its parts that something is computed from.
CONFIG = table(
    {
        "config": table({}),
        "image_shape": optional(list_of(_SIDE, 3, 3)),
        "latent_shape": list_of(whole(1, 1 << 24), 0, 8),
        "world": whole(1, 1 << 20),
        "command": text(1 << 20, names=True),
    },
    required=("config",),
)

_RATES = table({}, others=number(1e-30, 1e30))
#: state.json of a checkpoint.
STATE = table(
    {
        "step": _COUNT,
        "images": _COUNT,
        "seconds": number(0),
        "skipped": _COUNT,
        "back_off": number(1e-30, 1),
        "rollbacks": list_of(table({"rates": _RATES})),
        "restored": list_of(table({"rates": _RATES})),
        "iterated": table({}, others=list_of(text())),
        "random": table({}, others=text(1 << 20)),
        "global_random": table({}, required=("python", "numpy")),
    },
    required=("step",),
)
#: A line of metrics.jsonl.
ROW = table({"step": _COUNT}, required=("step",))

#: Whole numbers of a configuration: beyond any that means something, and below what overflows in C.
_MOST = 1 << 48


def check_fields(kind: type, values: Any, topic: str = "") -> dict[str, Any]:
    """The values of a dataclass's fields, as config.json has them. UsageError for one of another type than the field's.

    JSON has one kind of numbers: a whole one may stand for a float. topic: for messages.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"config: expected a table for {topic or 'the configuration'}, got {shown(values)}")
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        allowed = _members(hints[name]) if name in hints else ()
        if allowed and not any(_is_a(value, member) for member in allowed):
            names = " or ".join("null" if member is type(None) else member.__name__ for member in allowed)
            raise UsageError(f"config: expected {names} for {name}, got {shown(value)}")
    return dict(values)


def _members(hint: Any) -> tuple[type, ...]:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.get_args(hint)
    return (typing.get_origin(hint) or hint,)


def _is_a(value: Any, kind: type) -> bool:
    schema = {int: whole(-_MOST, _MOST), float: number(), bool: flag, str: text(names=True)}.get(kind)
    if schema is None:
        return isinstance(value, kind)
    try:
        schema(value, "")
    except ValueError:
        return False
    return True
