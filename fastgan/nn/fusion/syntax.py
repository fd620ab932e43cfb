"""Questions about a user's code, asked of its syntax tree and its classes."""

from __future__ import annotations

import ast
from typing import Any


def dotted(node: ast.expr) -> str | None:
    """a.b.c as text; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        root = dotted(node.value)
        return None if root is None else f"{root}.{node.attr}"
    return None


def class_attribute(kind: Any, name: str) -> Any:
    """An attribute of a class as it is stored, found without running properties; None if there is none."""
    return next((vars(ancestor)[name] for ancestor in kind.__mro__ if name in vars(ancestor)), None)


def load(name: str, where: ast.AST) -> ast.Name:
    return ast.copy_location(ast.Name(name, ast.Load()), where)


def call_of(name: str, x: ast.expr, where: ast.AST) -> ast.Call:
    return ast.copy_location(ast.Call(load(name, where), [x], []), where)


def is_call_of(node: Any, name: str) -> Any:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def is_name(node: Any, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def only_target(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


#: Functions that a condition may call between a layer and its activation.
_HARMLESS = {"isinstance", "hasattr", "callable", "len"}


def is_harmless(test: ast.expr, name: str) -> bool:
    """Whether a condition neither reads `name` nor has effects."""
    allowed = (
        ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Tuple, ast.List,
        ast.expr_context, ast.boolop, ast.unaryop, ast.cmpop,
    )  # fmt: skip
    for node in ast.walk(test):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _HARMLESS or node.keywords:
                return False
        elif not isinstance(node, allowed) or (isinstance(node, ast.Name) and node.id == name):
            return False
    return True


def assignments_overwritten(function: ast.FunctionDef) -> set[ast.stmt]:
    """Assignments to a name whose tensor may be overwritten in place before the name is assigned again."""
    anywhere = _changed_in_place(function)
    found: set[ast.stmt] = set()
    for parent in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            statements: Any = getattr(parent, field, None)
            for i, statement in enumerate(statements if isinstance(statements, list) else ()):
                name = only_target(statement)
                if name is not None and name in anywhere and _is_overwritten(name, statements[i + 1 :]):
                    found.add(statement)
    return found


def _is_overwritten(name: str, statements: list[ast.stmt]) -> bool:
    for statement in statements:
        if name in _changed_in_place(statement):
            return True
        if only_target(statement) == name or isinstance(statement, ast.Return):
            return False
    return True  # the end of a loop or branch: what follows is unknown


def _changed_in_place(tree: ast.AST) -> set[str]:
    """Names whose tensor a piece of code may overwrite: x += y, x[...] = y, x.mul_(y), f(x, inplace=True)."""
    names = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = [target for target in node.targets if isinstance(target, ast.Subscript)]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_") and node.func.attr[-2:] != "__":
                targets = [node.func.value]
            if any(keyword.arg == "inplace" for keyword in node.keywords):
                targets += node.args[:1]
        for target in targets:
            while isinstance(target, ast.Subscript | ast.Attribute):
                target = target.value
            if isinstance(target, ast.Name):
                names.add(target.id)
    return names
