"""What a step takes from Python: numbers, texts and tensors in attributes, closures and globals, and random generators.

A graph that was captured below Python keeps these values: it is valid only while they are the same, and a step that
changes them itself cannot be such a graph. They are found while the step runs, from each function that it calls: the
function's arguments, closure and globals, followed along the names in its code.
"""

from __future__ import annotations

import collections
import io
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.engine.host_values import (
    CONTAINERS,
    LEAVES,
    Names,
    computed_weights,
    containers,
    global_generators,
    names_in,
    refill,
    same,
    same_content,
    same_state,
    shown,
)

#: Code of these packages holds no values of the user's, except attributes of torch's and fastgan's modules.
_LIBRARIES = frozenset(sys.stdlib_module_names) | {
    "torch", "numpy", "fastgan", "triton", "sympy", "mpmath", "networkx", "jinja2", "fsspec", "filelock", "packaging",
    "setuptools", "typing_extensions", "optree",
}  # fmt: skip
#: Elements of a container, and of a NumPy array, that are compared at each call.
_MAX_ELEMENTS = 4096
_MAX_DEPTH = 6
_MISSING = object()
#: Built-in functions whose effect or value a graph does not repeat, and the modules that they are in.
_BUILTINS = {
    **dict.fromkeys(("print", "input"), "builtins"),
    "open": "io",
    **dict.fromkeys(("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "process_time"), "time"),
    **dict.fromkeys(("now", "today", "utcnow"), "datetime"),
}

#: Functions of torch.random.
_SEEDING = frozenset(("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "fork_rng"))

#: Name, a function that gives the present value, the value before the run, and a function that restores it.
_Value = tuple[str, Callable[[], Any], Any, Callable[[Any], None]]


class Unfollowable(RuntimeError):
    """The step takes something from Python, or does something there, that a graph cannot repeat."""


class HostState:
    """The values that one run of a step took from Python, as they were before it.

    step: None for one of fastgan's own, of which only the user's functions and modules are followed. args: its
    arguments, which are no such values. changed: which values the run changed, as a reason, or "". not_for_dynamo: why
    Dynamo would capture it wrongly, or "". strict: raise Unfollowable within the run where it prints, logs or asks
    for the time, and where it reads an iterator, before that is advanced.
    """

    def __init__(self, step: Callable[..., Any] | None, args: Any = (), strict: bool = True) -> None:
        self.changed = self.not_for_dynamo = ""
        self._step, self._strict, self._runs = step, strict, True
        self._given = containers(args)
        self._values: list[_Value] = []
        self._entries: list[tuple[dict[str, Any], str, Any]] = []  # those of _values that lie in a dictionary of names
        self._others: list[_Value] = []  # the rest of _values
        self._copies: list[tuple[str, Any, Any]] = []
        self._generators: list[tuple[str, Callable[[], Any], Callable[[Any], None], Any]] = []
        self._seen: set[Any] = set()
        self._computed: list[tuple[dict[str, Any], str, Tensor]] = []  # by hooks, from parameters, before each use
        self._kept: list[Any] = []  # keeps their ids from being used again
        self._refused = ""
        self._importing: types.FrameType | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context for the run. At its end the values are as before, also after an exception."""
        import gc

        self._before = {id(value) for value in gc.get_objects()}
        before, self._generators = sys.getprofile(), global_generators()
        if self._step is not None:
            self._note(self._step, "the step", frozenset(), 0)
        if self._refused:
            raise Unfollowable(self._refused)
        sys.setprofile(self._event)
        try:
            # On a GPU the functions and hooks of a backward pass would run in a thread of their own.
            with torch.autograd.set_multithreading_enabled(False):
                yield
        finally:
            sys.setprofile(before)
            del self._before
            self._importing = None
            self._seen.clear()
            self._kept.clear()
            self.changed = self.restore()
        if self._refused:  # the step may have caught the exception
            raise Unfollowable(self._refused)

    @property
    def unchanged(self) -> bool:
        """Whether all values are those that the run found."""
        for space, key, value in self._entries:  # most of them: in a plain loop
            now = space.get(key, _MISSING)
            if now is not value and not same(now, value):
                return False
        return all(same(now(), value) for _, now, value, _ in self._others) and all(
            same_content(held, copy) for _, held, copy in self._copies
        )

    def difference(self) -> str:
        """A value that is another one now, as `name == value`, or ""."""
        found = [(name, value) for name, now, value, _ in self._values if not same(now(), value)]
        found += [(name, copy) for name, held, copy in self._copies if not same_content(held, copy)]
        return f"{found[0][0]} == {shown(found[0][1])}" if found else ""

    def computed_weights(self) -> list[tuple[nn.Module, str]]:
        """The modules that the step's closure, attributes and globals lead to whose weights a hook computes, without a
        run."""
        self._before, self._strict, self._runs = set(), False, False
        self._note(self._step, "the step", frozenset(), 0)
        modules = [value for value in self._kept if isinstance(value, nn.Module)]
        found = {id(module): module for module in modules}
        return [(module, name) for module in found.values() for name in computed_weights(module)]

    # --- during the run -----------------------------------------------------------------------------------------------

    def _event(self, frame: types.FrameType, event: str, value: Any) -> None:
        if frame is self._importing:
            self._importing = None if event == "return" else frame
        elif self._importing is not None:
            return
        elif event == "call" and frame.f_code.co_name == "<module>":
            self._importing = frame  # what an import runs is no part of the step
        elif event == "call":
            self._called(frame)
        elif event == "c_call":
            self._called_builtin(frame, value)
        if self._refused:
            raise Unfollowable(self._refused)

    def _called(self, frame: types.FrameType) -> None:
        code, module, root = frame.f_code, str(frame.f_globals.get("__name__", "")), _root(frame)
        if root in _LIBRARIES:
            logs = root == "logging" or module.startswith("torch.utils.tensorboard")
            if logs and _root(frame.f_back) not in _LIBRARIES:
                self._refuse("it logs, which a graph does not repeat")
            if module in ("torch.random", "torch.cuda.random") and code.co_name in _SEEDING:
                self._refuse("it sets the state of random generators, which a graph does not repeat")
            if root in ("torch", "fastgan") and code.co_argcount:
                first = frame.f_locals.get(code.co_varnames[0])
                if isinstance(first, nn.Module) and id(first) in self._before:
                    self._note(first, type(first).__name__, frozenset(), 0)
            return
        names = names_in(code)
        for name in code.co_names:
            if name in frame.f_globals:
                self._note_entry(frame.f_globals, name, name, names, 0)
        for name, value in list(frame.f_locals.items()):
            if id(value) in self._before:
                self._note(value, type(value).__name__ if name in ("self", "module") else name, names, 0)

    def _called_builtin(self, frame: types.FrameType, function: Any) -> None:
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)  # of a class method, the class
        if name == "write" and isinstance(owner, io.IOBase) and _root(frame) not in _LIBRARIES:
            self._refuse("it writes to a file, which a graph does not repeat")
        if name not in _BUILTINS or _root(frame) in _LIBRARIES:
            return
        module = owner.__module__ if isinstance(owner, type) else getattr(function, "__module__", None)
        if str(module).lstrip("_") == _BUILTINS[name]:
            self._refuse(f"it calls {name}, which a graph does not repeat")

    def _refuse(self, reason: str) -> None:
        if self._strict:
            self._refused = self._refused or reason

    # --- what is reachable --------------------------------------------------------------------------------------------

    def _note(self, value: Any, name: str, names: Names, depth: int) -> None:
        """Follow a value along the names in the code that has it."""
        if isinstance(value, Tensor) and (value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None)):
            self.not_for_dynamo = f"{name} has a hook of its gradient, which a graph of Dynamo does not call"
        if isinstance(value, (*LEAVES, Tensor)) or depth > _MAX_DEPTH:
            return
        key = id(value), names
        if key in self._seen or id(value) in self._given:
            return
        self._seen.add(key)
        self._kept.append(value)
        if isinstance(value, types.FunctionType):
            self._note_function(value, name, depth)
        elif isinstance(value, types.MethodType):
            function: Any = value.__func__
            if isinstance(function, types.FunctionType):
                self._note_function(function, name, depth)
                names |= names_in(function.__code__)
            self._note(value.__self__, type(value.__self__).__name__, names, depth + 1)
        elif isinstance(value, nn.Module):
            self._note_module(value, name, names, depth)
        elif isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] not in _LIBRARIES:
                for each in names & vars(value).keys():
                    self._note_entry(vars(value), each, f"{name}.{each}", names, depth + 1)
        elif isinstance(value, type):
            self._note_class(value, name, names, depth)
        elif isinstance(value, CONTAINERS):
            self._note_container(value, name, names, depth)
        elif not self._note_numpy(value, name):
            self._note_object(value, name, names, depth)

    def _note_function(self, function: types.FunctionType, name: str, depth: int) -> None:
        if function.__module__ is not None and function.__module__.partition(".")[0] in _LIBRARIES - {"fastgan"}:
            return
        names = names_in(function.__code__)
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):

            def contents(cell: Any = cell) -> Any:
                try:
                    return cell.cell_contents
                except ValueError:  # empty
                    return _MISSING

            def restore(value: Any, cell: Any = cell) -> None:
                cell.cell_contents = value

            self._hold(free, contents, restore, ("cell", id(cell)))
            self._note(contents(), free, names, depth + 1)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._note(default, name, names, depth + 1)
        if not self._runs:
            for each in names & function.__globals__.keys():
                self._note(function.__globals__[each], each, names, depth + 1)

    def _note_methods(self, value: Any, names: Names, depth: int) -> Names:
        """Follow the methods that code without a run can call, and those that they extend. Returns their names too."""
        if self._runs:
            return names
        found, new = names, names
        while new:
            methods = [getattr(type(value), each, None) for each in new]
            if "super" in found:
                methods += [vars(base).get(each) for base in type(value).__mro__[1:] for each in found]
            functions = [method for method in methods if isinstance(method, types.FunctionType)]
            for function in functions:
                self._note_function(function, function.__name__, depth)
            new = frozenset().union(*(names_in(function.__code__) for function in functions)) - found
            found |= new
        return found

    def _note_module(self, module: nn.Module, name: str, names: Names, depth: int) -> None:
        own = type(module).__module__.partition(".")[0] == "fastgan"
        if not own and type(module).__module__.partition(".")[0] != "torch":
            names = self._note_methods(module, names | {"forward"}, depth)
        for attribute, value in list(vars(module).items()):
            if attribute in ("_modules", "_parameters", "_buffers"):
                continue
            if isinstance(value, Tensor) and attribute in computed_weights(module):
                if self._first("computed", id(module), attribute):
                    self._computed.append((vars(module), attribute, value))
                continue
            if isinstance(value, LEAVES) or (isinstance(value, Tensor) and not own) or attribute in names:
                self._note_entry(vars(module), attribute, f"{type(module).__name__}.{attribute}", names, depth + 1)
            elif attribute.endswith("_hooks") and value:
                for hook in value.values():
                    self._note(hook, attribute, names, depth + 1)
        if not own and type(module).__module__.partition(".")[0] != "torch":
            self._note_class_attributes(module, name, names, depth)
        for held, kind in ((module._buffers, "the buffer "), (module._parameters, "the weight ")):
            for attribute in held:
                self._note_entry(held, attribute, f"{kind}{type(module).__name__}.{attribute}", names, depth + 1)
        for attribute, child in module._modules.items():
            self._note(child, attribute, names, depth)

    def _note_class(self, value: type, name: str, names: Names, depth: int) -> None:
        for base in value.__mro__:
            if base.__module__.partition(".")[0] in _LIBRARIES:
                continue
            for each in names & vars(base).keys():
                if isinstance(vars(base)[each], (*LEAVES, Tensor, *CONTAINERS)):
                    self._hold(
                        f"{base.__name__}.{each}",
                        lambda base=base, each=each: vars(base).get(each, _MISSING),  # type: ignore[misc]
                        lambda old, base=base, each=each: setattr(base, each, old),  # type: ignore[misc]
                        ("class", id(base), each),
                    )
                    self._note(vars(base)[each], f"{base.__name__}.{each}", names, depth + 1)

    def _note_class_attributes(self, value: Any, name: str, names: Names, depth: int) -> None:
        """Attributes of the class, which an instance's own may replace during the run."""
        self._note_class(type(value), name, names, depth)
        own = getattr(value, "__dict__", None)
        if own is not None:
            for each in names:
                if each not in own and isinstance(getattr(type(value), each, _MISSING), (*LEAVES, Tensor)):
                    self._note_entry(own, each, f"{type(value).__name__}.{each}", names, depth + 1)

    def _note_container(self, value: Any, name: str, names: Names, depth: int) -> None:
        if len(value) > _MAX_ELEMENTS:
            return self._refuse(f"it reads {name}, a {type(value).__name__} of {len(value)} values")
        if not isinstance(value, tuple | frozenset) and self._first("copy", id(value)):
            self._copies.append((name, value, value.copy()))
        if isinstance(value, collections.deque) and value.maxlen is not None:
            self.not_for_dynamo = f"{name} is a deque with maxlen, which Dynamo does not keep to"
        for element in value.values() if isinstance(value, dict) else value:
            self._note(element, name, names, depth + 1)
        return None

    def _note_numpy(self, value: Any, name: str) -> bool:
        """NumPy's and Python's random generators, and arrays. Returns whether it is one of them."""
        numpy = sys.modules.get("numpy")
        if isinstance(value, random.Random):
            if self._first("copy", id(value)):
                self._generators.append((name, value.getstate, value.setstate, value.getstate()))
            return True
        if numpy is None:
            return False
        if isinstance(value, numpy.random.Generator | numpy.random.RandomState | numpy.random.BitGenerator):
            bits = getattr(value, "bit_generator", getattr(value, "_bit_generator", value))
            if self._first("copy", id(bits)):
                self._generators.append((name, lambda: bits.state, lambda s: setattr(bits, "state", s), bits.state))
            return True
        if isinstance(value, numpy.ndarray):
            if value.size > _MAX_ELEMENTS:
                self._refuse(f"it reads {name}, a NumPy array of {value.size} values; pass it as a tensor")
            elif self._first("copy", id(value)):
                self._copies.append((name, value, value.copy()))
            return True
        return isinstance(value, numpy.generic)

    def _note_object(self, value: Any, name: str, names: Names, depth: int) -> None:
        if hasattr(type(value), "__next__"):
            return self._refuse(f"it reads {name}, whose next value a graph does not take")
        if type(value).__module__ == "functools" and hasattr(value, "func"):  # a partial function
            for part in (value.func, value.args, value.keywords):
                self._note(part, name, names, depth + 1)
        if type(value).__module__.partition(".")[0] in _LIBRARIES - {"fastgan", "types"}:
            return None
        names = self._note_methods(value, names, depth)
        own: dict[str, Any] = getattr(value, "__dict__", {})
        for each in names & own.keys():
            self._note_entry(own, each, f"{type(value).__name__}.{each}", names, depth + 1)
        for base in type(value).__mro__:
            slots = vars(base).get("__slots__", ())
            for each in names & {slots} if isinstance(slots, str) else names & set(slots):
                self._hold(
                    f"{type(value).__name__}.{each}",
                    lambda each=each: getattr(value, each, _MISSING),  # type: ignore[misc]
                    lambda old, each=each: setattr(value, each, old),  # type: ignore[misc]
                    ("slot", id(value), each),
                )
                self._note(getattr(value, each, None), f"{type(value).__name__}.{each}", names, depth + 1)
        self._note_class_attributes(value, name, names, depth)
        return None

    def _note_entry(self, space: dict[str, Any], key: str, name: str, names: Names, depth: int) -> None:
        def restore(value: Any) -> None:
            if value is _MISSING:
                space.pop(key, None)
            else:
                space[key] = value

        if self._hold(name, lambda: space.get(key, _MISSING), restore, ("entry", id(space), key)):
            self._others.pop()
            self._entries.append((space, key, self._values[-1][2]))
        self._note(space.get(key), name, names, depth)

    def _hold(self, name: str, now: Callable[[], Any], restore: Callable[[Any], None], key: Any) -> bool:
        """Hold a value once. Returns whether it was not held before."""
        if not self._first(*key):
            return False
        self._values.append((name, now, now(), restore))
        self._others.append(self._values[-1])
        return True

    def _first(self, *key: Any) -> bool:
        """Whether this is the first time that the run meets something: later it may have changed it."""
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    # --- after the run ------------------------------------------------------------------------------------------------

    def restore(self) -> str:
        """Give the values that they had before the run to those that have changed since. Returns a reason, or ""."""
        reason = ""
        for space, name, weight in self._computed:
            space[name] = weight
        for name, held, copy in self._copies:
            if not same_content(held, copy):
                reason = reason or f"it changes {name}, which a graph does not"
                refill(held, copy)
        for name, now, value, restore in self._values:
            if not same(now(), value):
                how = "replaces" if isinstance(value, Tensor) else "changes"
                cure = "; change it in place" if isinstance(value, Tensor) else ""
                reason = reason or f"it {how} {name}, which a graph does not{cure}"
                restore(value)
        for name, state, restore, before in self._generators:
            if not same_state(state(), before):
                restore(before)
                reason = (
                    f"it draws random numbers on the host, from {name}, which a graph would repeat; draw them with"
                    " torch or give them to the step as tensors"
                )
        return reason


def _root(frame: types.FrameType | None) -> str:
    """The package whose code a frame runs."""
    return "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]
