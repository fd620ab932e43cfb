"""From a function to the syntax tree of its source, and from the changed tree back to a function."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType
from typing import Any


class NotRewritable(Exception):
    """A method cannot be rewritten; the text gives the reason."""


def definition(function: FunctionType) -> ast.FunctionDef:
    return parse(function)[1]


def parse(function: FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """The syntax trees of a function's file and of its definition. Raises NotRewritable if they are not what runs."""
    code = function.__code__
    if hasattr(function, "__wrapped__"):
        raise NotRewritable("it is decorated")
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise NotRewritable("it is a generator")
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    if not text:
        raise NotRewritable("its source is not available")
    try:
        tree = ast.parse(text, code.co_filename)
        whole = compile(tree, code.co_filename, "exec", dont_inherit=True)
    except SyntaxError:
        raise NotRewritable("its source is not Python") from None
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name and _first_line(node) == code.co_firstlineno
    ]
    if len(nodes) != 1 or not any(other == code for other in _codes(whole)):
        raise NotRewritable("its source is not what runs")
    return tree, nodes[0]


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def compiled(function: FunctionType, tree: ast.Module, node: ast.FunctionDef, helpers: dict[str, Any]) -> FunctionType:
    """The changed definition as a function with the globals, defaults and closure of the old one.

    helpers: name → function; they are variables of an enclosing scope, so that the user's module gets no new names.
    """
    scope = ast.parse(f"def _fastgan_scope({', '.join(helpers)}): pass").body[0]
    assert isinstance(scope, ast.FunctionDef)
    bodies = [getattr(parent, "body", None) for parent in ast.walk(tree)]
    (home,) = [body for body in bodies if isinstance(body, list) and node in body]
    home[home.index(node)] = scope
    node.decorator_list = []
    scope.body = [node]
    ast.copy_location(scope, node)
    ast.fix_missing_locations(tree)
    old = function.__code__
    (outer,) = [c for c in _codes(compile(tree, old.co_filename, "exec", dont_inherit=True)) if c.co_name == scope.name]
    (code,) = [c for c in outer.co_consts if isinstance(c, CodeType) and c.co_name == node.name]
    cells = dict(zip(old.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: CellType(helper) for name, helper in helpers.items()}
    code = code.replace(co_qualname=old.co_qualname)
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__annotations__ = function.__annotations__
    new.__doc__ = function.__doc__
    new.__qualname__ = function.__qualname__
    new.__dict__.update(function.__dict__)
    return new
