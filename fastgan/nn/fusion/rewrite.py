"""Rewrites the source of a user's method so that its activations run on fastgan's ops.

    F.leaky_relu(self.conv(x), 0.2)   becomes   apply(F.leaky_relu, defer(self.conv, x), 0.2)

and the same for `x = self.conv(x)` followed by `x = F.leaky_relu(x, 0.2)`, also with an `if` in between, and for a loop
`for layer in self.layers: x = layer(x)`. A user's function that calls an activation (`lrelu(self.conv(x))`) is
rewritten too. Names are looked up when the method runs, in the original order (see chain.py), and every other statement
stays: control flow, contexts, randomness and side effects are those of the original. A method is rewritten only if its
source, compiled again, equals the code that runs.
"""

# Why there is a source rewriter: with leaky ReLUs called as functions after convolutions and a gradient penalty, it
# saves 10 to 15 % of a discriminator step over fusing modules and Sequential alone (DCGAN 15 %, under fastgan.compile
# 14 %; StyleGAN2's residual network 10 %, compiled 11 %), because otherwise PyTorch's double backward of leaky ReLU
# sends zeros through fastgan's convolutions. Without a penalty, with batch norms in between, for ReLU (SNGAN), and
# for activation modules (R3GAN) it changes a step by -6 to +2 %, which is the noise. Measured by python
# benchmarks/fusion_rewriter.py --clock cpu --compile (benchmarks/results/fusion_rewriter.csv).

from __future__ import annotations

import ast
import builtins
import functools
from collections import Counter
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

from fastgan.nn.fusion import chain
from fastgan.nn.fusion.accepting import accepts_pending
from fastgan.nn.fusion.source import NotRewritable, compiled, definition, parse
from fastgan.nn.fusion.supported import ACTS, LAYER_FUNCTIONS, LINEAR_LAYER
from fastgan.nn.fusion.syntax import (
    assignments_overwritten,
    call_of,
    class_attribute,
    dotted,
    is_call_of,
    is_harmless,
    is_name,
    load,
    only_target,
)

_DEFER, _APPLY, _RUN, _NEXT = "_fastgan_defer", "_fastgan_apply", "_fastgan_run", "_fastgan_next"
_INHERITED, _FORCE, _OWN, _REPLACEMENT = "_fastgan_inherited", "_fastgan_force", "_fastgan_own", "_fastgan_replacement"
_HELPERS: dict[str, Any] = {
    _DEFER: chain.defer,
    _INHERITED: chain.defer_inherited,
    _APPLY: chain.apply,
    _RUN: chain.run,
    _NEXT: chain.run_next,
    _FORCE: chain.force,
    _OWN: chain.own,
    _REPLACEMENT: chain.replacement,
    **{f"_fastgan_{name}": method for name, method in chain.METHODS.items()},
}
#: Functions through which a method can read its own local names.
_READS_LOCALS = {"locals", "vars", "dir", "eval", "exec"}


#: A function that calls an activation or layer of ours contains one of these names. The source of others is not read.
_NAMES = {*chain.ACTIVATION_NAMES, *(function.__name__ for function in LAYER_FUNCTIONS)}
#: What a user's convolution calls of PyTorch's.
_INHERITED_METHODS = {"forward", "_conv_forward"}


class Rewritten(NamedTuple):
    """A rewritten function, and what is in it."""

    function: FunctionType
    #: The calls of activations.
    activations: int
    #: For each activation that may run as one op with a layer before it: the layer's path from `self`, or None where
    #: it has none, or where conditions are in between.
    pairs: tuple[str | None, ...]
    #: The calls of convolutions as functions.
    convolutions: int
    #: The loops whose modules run one after the other.
    loops: int


def called_paths(function: FunctionType) -> set[str]:
    """The attributes that a method calls on `self`: `self.act(x)` and `self.head.act(x)` give "act" and "head.act"."""
    node = definition(function)
    if not node.args.args:
        return set()
    paths = {dotted(call.func) for call in ast.walk(node) if isinstance(call, ast.Call) and call.args}
    own = f"{node.args.args[0].arg}."
    return {path.removeprefix(own) for path in paths if path is not None and path.startswith(own)}


def has_replacement(function: Any) -> bool:
    """Whether a user's function calls activations of ours; `chain.replacement` then returns the rewritten function."""
    if not isinstance(function, FunctionType) or str(function.__module__).startswith("torch."):
        return False
    if function not in chain.REPLACEMENTS:
        chain.REPLACEMENTS[function] = function  # set before it is rewritten, since it may call itself
        if _NAMES & set(function.__code__.co_names):
            try:
                found = rewritten(function, frozenset())
            except NotRewritable:
                return False
            if found is not None:
                chain.REPLACEMENTS[function] = found.function
    return chain.REPLACEMENTS[function] is not function


def rewritten(function: FunctionType, activations: frozenset[str], deferring: bool = False) -> Rewritten | None:
    """The rewritten function, or None if nothing changes. activations: the `called_paths` that are activations.

    deferring: the function may return a Deferred; None then if it never does. Raises NotRewritable if its source is not
    available.
    """
    tree, node = parse(function)
    sites = _Sites(function, node, activations, deferring)
    sites.visit_all()
    if not (sites.deferred_returns if deferring else sites.count):
        return None
    new = compiled(function, tree, node, _HELPERS)
    return Rewritten(new, sites.activations, tuple(sites.pairs), sites.convolutions, sites.loops)


@functools.cache
def takes_pending(function: FunctionType, activations: frozenset[str], x: int = 1) -> bool:
    """Whether parameter number x of the rewritten function may be a Pending; see accepting.py."""
    try:
        node = definition(function)
    except NotRewritable:
        return False
    sites = _Sites(function, node, activations, False)
    return accepts_pending(node, x, sites._outer_value, sites._is_activation, _is_helper)


def _is_helper(function: FunctionType) -> bool:
    return has_replacement(function) and takes_pending(function, frozenset(), 0)


# --- the calls to change ---------------------------------------------------------------------------------------------


class _Sites(ast.NodeTransformer):
    """Changes the calls of activations in one function, and counts them."""

    def __init__(
        self, function: FunctionType, node: ast.FunctionDef, activations: frozenset[str], deferring: bool
    ) -> None:
        self.function, self.node, self.deferring = function, node, deferring
        code = function.__code__
        self.locals = {*code.co_varnames, *code.co_cellvars}
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        self.loads = Counter(n.id for n in names if isinstance(n.ctx, ast.Load))
        stored = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
        first = node.args.args[0].arg if node.args.args else None
        self.own = f"{first}." if first is not None and first not in stored else None
        self.paths = {self.own + path for path in activations} if self.own is not None else set()
        # Between two statements a name may refer to a deferred layer, which no other code may read.
        reads_locals = bool(_READS_LOCALS & self.loads.keys())
        self.may_join = not reads_locals and not any(isinstance(n, ast.Try | ast.TryStar) for n in ast.walk(node))
        self.private = set(code.co_varnames) - set(code.co_cellvars)
        self.overwritten = assignments_overwritten(node)
        self.activations = self.convolutions = self.loops = self.replaced = self.deferred_returns = 0
        self.pairs: list[str | None] = []
        self.returns: set[ast.stmt] = set()

    @property
    def count(self) -> int:
        return self.activations + self.convolutions + self.loops + self.replaced

    def visit_all(self) -> None:
        self.node.body = [self.visit(statement) for statement in self.node.body]
        if self.deferring and self.may_join:
            self._defer_returns(self.node.body)
        for parent in ast.walk(self.node):
            for field in ("body", "orelse", "finalbody"):
                statements = getattr(parent, field, None)
                if isinstance(statements, list):
                    self._join(statements)

    # Names may have another meaning inside these.
    def _skip(self, node: Any) -> Any:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _skip
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _skip

    def visit_Assign(self, node: ast.Assign) -> Any:
        overwritten = node in self.overwritten and self._saves_its_input(node.value)
        self.generic_visit(node)
        if overwritten:
            node.value = call_of(_OWN, node.value, node.value)
        return node

    def _saves_its_input(self, node: ast.expr) -> bool:
        """Whether this is a leaky ReLU: PyTorch saves its input for the backward pass, our op its output."""
        if not isinstance(node, ast.Call):
            return False
        if has_replacement(self._outer_value(node.func)):
            return True
        path = dotted(node.func) or ""
        known = path in self.paths or ("leaky_relu" in path and self._is_activation(node.func))
        return known and all(keyword.arg != "inplace" for keyword in node.keywords)

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        first = node.args[0] if node.args and not isinstance(node.args[0], ast.Starred) else None
        if first is not None and self._is_activation(node.func):
            return self._apply(node, node.func, first, node.args[1:], node.keywords)
        if has_replacement(self._outer_value(node.func)):
            self.replaced += 1
            node.func = call_of(_REPLACEMENT, node.func, node.func)
            return node
        if isinstance(node.func, ast.Attribute) and node.func.attr in chain.METHODS and not node.args + node.keywords:
            method = ast.copy_location(ast.Name(f"_fastgan_{node.func.attr}", ast.Load()), node.func)
            return self._apply(node, method, node.func.value, [], [])
        layer = self._layer_function(node)
        if layer is not None and layer is not LINEAR_LAYER:
            self.convolutions += 1
            return ast.copy_location(ast.Call(load(_RUN, node), [node.func, *node.args], node.keywords), node)
        if first is not None and self._unknown(node) and self._may_be_layer(first):
            return self._apply(node, node.func, first, [], [])
        return node

    def _apply(
        self, node: ast.Call, function: ast.expr, x: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]
    ) -> ast.Call:
        self.activations += 1
        if self._may_be_layer(x):
            self.pairs.append(self._layer_path(x))
            x = _defer(x)
        return ast.copy_location(ast.Call(load(_APPLY, node), [function, x, *args], keywords), node)

    def _unknown(self, node: ast.Call) -> bool:
        """Whether this is act(x), where act is a variable of the function, or self.acts[i](x)."""
        function = node.func
        while isinstance(function, ast.Subscript):
            function = function.value
        if len(node.args) != 1 or node.keywords:
            return False
        if isinstance(function, ast.Name):
            return function.id in self.private
        return function is not node.func and self._own_path(function) is not None

    def _layer_function(self, node: ast.Call) -> Any:
        """The type of the layer, if this calls one as a function of PyTorch; else None."""
        value = self._outer_value(node.func)
        return next((kind for function, (_, kind) in LAYER_FUNCTIONS.items() if function is value), None)

    def _is_activation(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call):  # nn.LeakyReLU(0.2)(x): made where it is called
            return self._outer_value(node.func) in ACTS
        return dotted(node) in self.paths or chain.is_activation(self._outer_value(node))

    def _outer_value(self, node: ast.expr) -> Any:
        """The current value of a dotted name from outside the function; None for anything else."""
        path = dotted(node)
        if path is None:
            return None
        root, *attributes = path.split(".")
        if root in self.locals:
            return None
        value = self._outer(root)
        for attribute in attributes:
            # Only attributes of modules and classes are read: reading them has no side effects.
            if isinstance(value, type):
                value = class_attribute(value, attribute)
            else:
                value = getattr(value, attribute, None) if isinstance(value, ModuleType) else None
        return value

    def _own_path(self, node: ast.expr) -> str | None:
        """The path from `self` of an attribute."""
        path = dotted(node) or ""
        return path.removeprefix(self.own) if self.own is not None and path.startswith(self.own) else None

    def _layer_path(self, node: Any) -> str | None:
        """The path from `self` of the layer that a call may run, as `_may_be_layer` says; None if it has none."""
        return None if is_call_of(node, _RUN) else self._own_path(node.func)

    def _may_be_layer(self, node: ast.expr) -> bool:
        """Whether a call may be that of a layer: self.a.b(x), self.blocks[i](x), layer(x) in a loop over layers,
        F.conv2d(x, ...), or super().forward(x)."""
        if not isinstance(node, ast.Call) or is_call_of(node, _APPLY):
            return False
        if is_call_of(node, _RUN) or self._layer_function(node) is not None:
            return True
        function = node.func
        if isinstance(function, ast.Attribute) and is_call_of(function.value, "super"):
            return function.attr in _INHERITED_METHODS
        while isinstance(function, ast.Subscript):
            function = function.value
        if isinstance(function, ast.Name):
            return function.id in self.private
        return self._own_path(function) is not None

    def _outer(self, name: str) -> Any:
        """The current value of a name of the scopes around the function."""
        code = self.function.__code__
        if name in code.co_freevars:
            cell = (self.function.__closure__ or ())[code.co_freevars.index(name)]
            return cell.cell_contents if cell != CellType() else None
        return self.function.__globals__.get(name, getattr(builtins, name, None))

    # --- layers and activations in different statements ---

    def _join(self, statements: list[ast.stmt]) -> None:
        """Defer `x = layer(x)` and `for layer in layers: x = layer(x)` where what follows runs an activation on x."""
        if not self.may_join:
            return
        self.in_body = statements is self.node.body
        for i, first in enumerate(statements):
            name = only_target(first)
            if name in self.private and isinstance(first, ast.Assign) and self._may_be_layer(first.value):
                if self._is_taken(name, statements[i + 1 :], False):
                    statements[i + 1 :] = self._carried(name, statements[i + 1 :], self._layer_path(first.value), False)
                    first.value = _defer(first.value)
            elif self._is_loop(first):
                loop: Any = first
                call, name = loop.body[0].value, loop.body[0].targets[0].id
                loop.body[0].value = ast.copy_location(ast.Call(load(_NEXT, call), [call.func, *call.args], []), call)
                self.loops += 1
                statements[i + 1 :] = self._carried(name, statements[i + 1 :], None, False)

    def _is_loop(self, node: ast.stmt) -> bool:
        """for layer in layers: x = layer(x)"""
        if not isinstance(node, ast.For) or len(node.body) != 1 or node.orelse:
            return False
        name, call = only_target(node.body[0]), getattr(node.body[0], "value", None)
        if name not in self.private or not isinstance(call, ast.Call) or not self._unknown(call):
            return False
        read = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        return is_name(call.args[0], name) and read.count(name) == 1

    def _is_taken(self, name: str, rest: list[ast.stmt], inside: bool) -> bool:
        """Whether an activation takes the tensor of `name` before anything else in these statements does.

        Before it are only conditions without effects. inside: the statements of a branch, after which others follow.
        """
        if not rest:
            return False
        first = rest[0]
        if self._consumes(name, rest, inside) or self._is_deferred_return(name, first):
            return True
        return (
            isinstance(first, ast.If)
            and is_harmless(first.test, name)
            and any([self._is_taken(name, branch, True) for branch in (first.body, first.orelse)]
                    + [self._is_taken(name, rest[1:], inside)])
        )  # fmt: skip

    def _carried(self, name: str, rest: list[ast.stmt], layer: str | None, inside: bool) -> list[ast.stmt]:
        """These statements, before which `name` may be deferred, so that they run its layer in time.

        layer: its path, as in `pairs`. inside: as in `_is_taken`; the tensor may stay deferred after a branch.
        """
        if not rest:
            return [] if inside else [_force(name, self.node)]
        first = rest[0]
        if self._consumes(name, rest, inside):
            self.pairs.append(layer)
            return rest
        if self._is_deferred_return(name, first):
            self.deferred_returns += 1
            return rest
        if not isinstance(first, ast.If) or not is_harmless(first.test, name):
            return [_force(name, first), *rest]
        first.body = self._carried(name, first.body, None, True)
        first.orelse = self._carried(name, first.orelse, None, True)
        return [first, *self._carried(name, rest[1:], None, inside)]

    def _is_deferred_return(self, name: str, node: ast.stmt) -> bool:
        return node in self.returns and isinstance(node, ast.Return) and is_name(node.value, name)

    def _consumes(self, name: str, rest: list[ast.stmt], inside: bool) -> bool:
        """Whether the first statement runs an activation on the tensor of `name`, which nothing else reads."""
        statement, *later = rest
        if not isinstance(statement, ast.Assign | ast.Return) or statement.value is None:
            return False
        count = sum(is_name(n, name) for n in ast.walk(statement.value))
        gone = isinstance(statement, ast.Return) or only_target(statement) == name
        # What follows in the function's body is all that still runs.
        unread = self.in_body and not any(is_name(n, name) for one in later for n in ast.walk(one))
        if count != 1 or not (gone or (not inside and (unread or self.loads[name] == 1))):
            return False
        node: Any = statement.value
        while True:  # what is evaluated before this node are attributes and variables
            if is_call_of(node, _APPLY):
                x = node.args[1]
                if is_name(x, name):
                    return True
                node = x
            elif is_call_of(node, _DEFER) and len(node.args) > 1 and not isinstance(node.args[1], ast.Starred):
                node = node.args[1]
            elif isinstance(node, ast.Call) and self._unknown(node) and is_name(node.args[0], name):
                node.func, node.args = load(_APPLY, node), [node.func, node.args[0]]
                self.activations += 1
                return True
            elif isinstance(node, ast.Call) and node.args and dotted(node.func) is not None:
                node = node.args[0]
            elif isinstance(node, ast.BinOp):
                node = node.left
            else:
                return False

    def _defer_returns(self, statements: list[ast.stmt]) -> None:
        """Defer what the function returns, outside of loops and contexts."""
        for statement in statements:
            if isinstance(statement, ast.Return):
                self.returns.add(statement)
                if statement.value is not None and self._may_be_layer(statement.value):
                    statement.value = _defer(statement.value)
                    self.deferred_returns += 1
            elif isinstance(statement, ast.If):
                self._defer_returns(statement.body)
                self._defer_returns(statement.orelse)


def _force(name: str, where: ast.AST) -> ast.Assign:
    """name = force(name)"""
    return ast.copy_location(
        ast.Assign([ast.copy_location(ast.Name(name, ast.Store()), where)], call_of(_FORCE, load(name, where), where)),
        where,
    )


def _defer(call: Any) -> ast.Call:
    if is_call_of(call, _RUN):
        call.func = load(_DEFER, call)
        return call
    inherited = isinstance(call.func, ast.Attribute) and call.func.attr in _INHERITED_METHODS
    name = load(_INHERITED if inherited else _DEFER, call)
    return ast.copy_location(ast.Call(name, [call.func, *call.args], call.keywords), call)
