"""Options of the command line whose values come from a registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro


def with_choices(options: type, **fields: tuple[Mapping[str, str], Any]) -> type:
    """A copy of an options dataclass in which some fields accept the names of a registry only.

    fields: by field name, the choices with one line of help each, and the default.
    """
    replaced = []
    for name, (choices, default) in fields.items():
        text = "; ".join(f"{choice}: {about}" for choice, about in choices.items())
        kind: Any = Annotated[Literal[tuple(choices)], tyro.conf.arg(help=text)]
        replaced.append((name, kind, default))
    return dataclasses.make_dataclass(
        options.__name__, replaced, bases=(options,), namespace={"__doc__": options.__doc__}
    )
