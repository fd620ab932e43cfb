"""Renders view models by Jinja2 templates of this package into one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **view: Any) -> str:
    """One page. template: a file of fastgan/report/templates; view: its variables. Every value is escaped."""
    return _environment().get_template(template).render(view)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fastgan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # of the filter tojson
    # The only text that is not escaped: two files of this package.
    environment.globals["style"] = Markup(_read("page.css"))
    environment.globals["script"] = Markup(_read("page.js"))
    return environment


def _read(name: str) -> str:
    return files("fastgan.report").joinpath("templates", name).read_text("utf-8")
