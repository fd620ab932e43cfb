"""Which code may get a `Pending` in place of its first tensor: code that only adds to it, multiplies it, runs an
activation on it, clamps it, reads its sizes, and returns it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from fastgan.nn.fusion import chain, pending


class _Unknown(Exception):
    """The code does something else."""


def accepts_pending(
    node: ast.FunctionDef, x: int, outer_value: Callable[[ast.expr], Any], is_activation: Callable[[ast.expr], bool],
    is_helper: Callable[[FunctionType], bool],
) -> bool:  # fmt: skip
    """Whether parameter number x of a function may be a Pending, and the function runs an activation on it.

    outer_value: of a dotted name from outside of the function. is_activation: whether a call of that is rewritten to
    `chain.apply`. is_helper: whether a user's function is rewritten, and its first parameter may be a Pending.
    """
    names = node.args.args
    if len(names) <= x or node.args.posonlyargs:
        return False
    uses = _Uses({names[x].arg}, outer_value, is_activation, is_helper)
    try:
        for _ in range(2):  # a name may be used before the line that makes it one
            uses.block(node.body)
    except _Unknown:
        return False
    return uses.activated


class _Uses:
    """Looks through the statements of a function. names: the variables that may hold a Pending."""

    def __init__(self, names: set[str], outer_value: Any, is_activation: Any, is_helper: Any):
        self.names, self.outer_value, self.is_activation, self.is_helper = names, outer_value, is_activation, is_helper
        self.activated = False

    def block(self, statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                if self.holds(node.value):
                    self.names.add(node.targets[0].id)
            elif isinstance(node, ast.Return):
                if node.value is not None:
                    self.holds(node.value)
            elif isinstance(node, ast.If):
                self.not_in(node.test)
                self.block(node.body)
                self.block(node.orelse)
            else:
                self.not_in(node)

    def not_in(self, node: ast.AST) -> None:
        """Raise _Unknown if this code may get a Pending, or return one."""
        if isinstance(node, ast.expr):
            if self.holds(node):
                raise _Unknown
            return
        if isinstance(node, ast.Name) and node.id in self.names:
            raise _Unknown
        for child in ast.iter_child_nodes(node):
            self.not_in(child)

    def holds(self, node: ast.expr) -> bool:
        """Whether the value of an expression may be a Pending."""
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult | ast.Div):
            return any([self.holds(node.left), self.holds(node.right)])
        if isinstance(node, ast.IfExp):
            self.not_in(node.test)
            return any([self.holds(node.body), self.holds(node.orelse)])
        if isinstance(node, ast.Attribute) and self.holds(node.value):
            if node.attr not in pending.ATTRIBUTES:
                raise _Unknown
            return False
        if isinstance(node, ast.Call):
            return self.call(node)
        if not isinstance(node, ast.Attribute):
            for child in ast.iter_child_nodes(node):
                self.not_in(child)
        return False

    def call(self, node: ast.Call) -> bool:
        for argument in [*node.args[1:], *(keyword.value for keyword in node.keywords)]:
            self.not_in(argument)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute) and self.holds(node.func.value):
            for argument in node.args[:1]:
                self.not_in(argument)
            if method in chain.METHODS:
                self.activated = True
                return True
            if method not in pending.METHODS:
                raise _Unknown
            return pending.METHODS[method]
        if not node.args or not self.holds(node.args[0]):
            return False
        if self.is_activation(node.func):
            self.activated = True
            return True
        value = self.outer_value(node.func)
        if value is torch.clamp:
            return True
        if isinstance(value, FunctionType) and self.is_helper(value):
            self.activated = True
            return True
        raise _Unknown
