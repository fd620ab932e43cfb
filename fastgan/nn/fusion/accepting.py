"""Which code may get a `Pending` in place of its first tensor: code that only adds to it, multiplies it, runs an
activation on it, clamps it, reads its sizes, and returns it, and uses each of these results once: a layer would run
again for the second."""

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
        uses.block(node.body)
    except _Unknown:
        return False
    return uses.activated


class _Uses:
    """Looks through the statements of a function. names: the variables that may hold a Pending."""

    def __init__(self, names: set[str], outer_value: Any, is_activation: Any, is_helper: Any):
        self.names, self.outer_value, self.is_activation, self.is_helper = names, outer_value, is_activation, is_helper
        self.activated = False
        self.used: set[str] = set()  # names whose value has been used

    def block(self, statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name, held = node.targets[0].id, self.holds(node.value)
                self.names.add(name) if held else self.names.discard(name)
                self.used.discard(name)
            elif isinstance(node, ast.Return):
                if node.value is not None:
                    self.holds(node.value)
            elif isinstance(node, ast.If):
                self.branches(node)
            else:
                self.not_in(node)

    def branches(self, node: ast.If) -> None:
        self.not_in(node.test)
        self.either(node, lambda: self.block(node.body), lambda: self.block(node.orelse))

    def either(self, node: ast.If | ast.IfExp, first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
        """Look through both branches, of which one runs."""
        names, used = set(self.names), set(self.used)
        found = [first()]
        after_first = self.names, self.used
        self.names, self.used = names, used
        found.append(second())
        if not (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return)):
            self.names, self.used = self.names | after_first[0], self.used | after_first[1]
        return found

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
            if node.id not in self.names:
                return False
            if node.id in self.used:
                raise _Unknown
            self.used.add(node.id)
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult | ast.Div):
            return any([self.holds(node.left), self.holds(node.right)])
        if isinstance(node, ast.IfExp):
            self.not_in(node.test)
            return any(self.either(node, lambda: self.holds(node.body), lambda: self.holds(node.orelse)))
        if isinstance(node, ast.Attribute):
            named = isinstance(node.value, ast.Name)  # reading an attribute does not use the tensor up
            held = node.value.id in self.names if isinstance(node.value, ast.Name) else self.holds(node.value)
            if held and not (named and node.attr in pending.ATTRIBUTES):
                raise _Unknown
            return False
        if isinstance(node, ast.Call):
            return self.call(node)
        for child in ast.iter_child_nodes(node):
            self.not_in(child)
        return False

    def call(self, node: ast.Call) -> bool:
        for argument in [*node.args[1:], *(keyword.value for keyword in node.keywords)]:
            self.not_in(argument)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute) and self._method_of_one(node.func):
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

    def _method_of_one(self, node: ast.Attribute) -> bool:
        """Whether this is a method of what may be a Pending."""
        if isinstance(node.value, ast.Name) and pending.METHODS.get(node.attr) is False:
            return node.value.id in self.names  # it does not use the tensor up
        return self.holds(node.value)
