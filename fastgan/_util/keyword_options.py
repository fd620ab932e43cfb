"""Options that are the keyword-only arguments of a function, so that they need no further list.

Networks by name, tasks and the kinds of data have such options: `--model.NAME VALUE`, `--task.NAME`, `--data.NAME`.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastgan.errors import UsageError


def option_types(function: Callable[..., Any]) -> dict[str, Any]:
    """The options and their types, as annotated: int, float, str, bool, or a union such as int | None.

    Of a class those of its constructor, and of the constructors of the classes below it, to which it hands them on.
    """
    found: dict[str, Any] = {}
    for signed in _signed(function):
        types_of = typing.get_type_hints(signed)
        parameters = inspect.signature(signed).parameters.values()
        found |= {p.name: types_of.get(p.name, str) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return found


def option_value(function: Callable[..., Any], options: Mapping[str, Any], name: str) -> Any:
    """The value of an option: the given one, else its default; None where there is no such option."""
    value = None
    for signed in _signed(function):
        if name in (parameters := inspect.signature(signed).parameters):
            value = parameters[name].default
    return options.get(name, value)


def check_options(owner: str, known: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that there is not, and for a value of another type. owner: who has the options."""
    for option, value in options.items():
        kind = _option_type(owner, known, option, value)
        if not _is_a(value, kind):
            raise UsageError(f"{option}: {owner} expects {_type_name(kind)}, got {value!r}")


def parse_option(owner: str, known: Mapping[str, Any], option: str, text: str) -> Any:
    """The value of an option from the text of a command line: "128" → 128, "none" → None where None is allowed.

    Raises UsageError for an unknown option, and for a text that is not of the option's type.
    """
    kind = _option_type(owner, known, option, text)
    for member in _members(kind):
        if member is type(None) and text.lower() == "none":
            return None
        if member is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if member in (int, float):
            try:
                return member(text)
            except ValueError:
                continue
        if member is str:
            return text
    raise UsageError(f"{option}: {owner} expects {_type_name(kind)}, got {text!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean NAME?" of the known name that is most like one, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _signed(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What has the signatures and their annotations: of a class the constructors, its own last."""
    if not isinstance(function, type):
        return [function]
    return [vars(kind)["__init__"] for kind in reversed(function.__mro__[:-1]) if "__init__" in vars(kind)]


def _option_type(owner: str, known: Mapping[str, Any], option: str, value: Any) -> Any:
    if option not in known:
        has = f"has the options {', '.join(known)}" if known else "has no options"
        raise UsageError(f"{option}: {owner} {has}, got {option}={value!r}{nearest(option, known)}")
    return known[option]


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, None first and str last: the order in which a text is tried as each of them."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    return tuple(sorted(members, key=lambda member: (member is str, member is float, member is not type(None))))


def _is_a(value: Any, kind: Any) -> bool:
    members = _members(kind)
    if isinstance(value, bool):
        return bool in members
    return isinstance(value, members) or (isinstance(value, int) and float in members)


def _type_name(kind: Any) -> str:
    return " or ".join("None" if member is type(None) else member.__name__ for member in _members(kind)[::-1])
