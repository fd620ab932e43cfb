"""Families of networks by name.

A new family is one module with a function that returns a generator and a discriminator,

    build(resolution, channels, latent, width, classes, d_norm, *, OPTION: TYPE = DEFAULT, ...)

and one line in FAMILIES. The keyword-only arguments are the family's own options: they are known from the signature,
so that `--model.OPTION` on the command line and `options` in a configuration need no further list.

This module imports neither PyTorch nor a family: the names can be listed without. A family is imported when its options
are asked for or its networks are built.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

#: family name → the module with its function `build`
FAMILIES: dict[str, str] = {
    "biggan": "fastgan.models.biggan",
    "compact": "fastgan.models.esrgan.srvgg",
    "dcgan": "fastgan.models.dcgan",
    "esrgan": "fastgan.models.esrgan.rrdb",
    "mlp": "fastgan.models.mlp",
    "progan": "fastgan.models.progan",
    "projected": "fastgan.models.projected",
    "r3gan": "fastgan.models.r3gan",
    "resnet": "fastgan.models.resnet",
    "stylegan": "fastgan.models.stylegan.stylegan1",
    "stylegan-xl": "fastgan.models.stylegan.stylegan_xl",
    "stylegan2": "fastgan.models.stylegan.stylegan2",
    "stylegan3": "fastgan.models.stylegan.stylegan3",
}
#: Those whose generators make images of images, and not of latents.
OF_IMAGES = frozenset({"compact", "esrgan"})


def build(
    name: str,
    *,
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int = 0,
    d_norm: str = "none",
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """A new generator and discriminator of a family, with weights drawn from PyTorch's global random numbers.

    resolution: height and width of the images, in pixels. channels: 1 (gray) or 3 (color). latent: size of z. width:
    channels or units, as each family's module defines them. classes: number of class labels that both networks take; 0
    for unconditional networks. d_norm: normalization in the discriminator, "none", "batch" or "spectral". options: the
    family's own, see `option_types` (such as `condition`, how labels enter) and docs/networks.md.

    Raises UsageError for an unknown family, an unknown option, a value of another type than the option's, and sizes or
    options that the family does not support.
    """
    function = _build_function(name)
    for argument, value in (("resolution", resolution), ("channels", channels), ("latent", latent), ("width", width)):
        if value < 1:
            raise UsageError(f"{argument}: expected a number >= 1, got {value}")
    if classes < 0:
        raise UsageError(f"classes: expected a number >= 0, got {classes}")
    for option, value in options.items():
        kind = _option_type(name, option, value)
        if not _is_a(value, kind):
            raise UsageError(f"{option}: {name} expects {_type_name(kind)}, got {value!r}")
    return function(resolution, channels, latent, width, classes, d_norm, **options)


def option_types(name: str) -> dict[str, Any]:
    """The options of a family and their types, as annotated: int, float, str, bool, or a union such as int | None.

    Raises UsageError for an unknown family.
    """
    function = _build_function(name)
    types_of = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: types_of.get(p.name, str) for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_option(name: str, option: str, text: str) -> Any:
    """The value of a family's option from the text of a command line: "128" → 128, "none" → None where None is allowed.

    Raises UsageError for an unknown family or option, and for a text that is not of the option's type.
    """
    kind = _option_type(name, option, text)
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
    raise UsageError(f"{option}: {name} expects {_type_name(kind)}, got {text!r}")


def _build_function(name: str) -> Callable[..., tuple[nn.Module, nn.Module]]:
    if name not in FAMILIES:
        raise UsageError(f"model: expected one of {', '.join(FAMILIES)}, got {name!r}{_nearest(name, FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).build


def _option_type(name: str, option: str, value: Any) -> Any:
    known = option_types(name)
    if option not in known:
        has = f"has the options {', '.join(known)}" if known else "has no options"
        raise UsageError(f"{option}: {name} {has}, got {option}={value!r}{_nearest(option, known)}")
    return known[option]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
