"""`fastgan.compile`: a whole training step, inner and outer backward included, as one compiled graph."""

from __future__ import annotations

import functools
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastgan.engine.capture import ExternalState
from fastgan.engine.cuda_graphs import CudaGraph
from fastgan.engine.dynamo import DynamoStep, NotCompiled, quiet
from fastgan.engine.host_state import HostState, Unfollowable
from fastgan.errors import UsageError

#: The most combinations of shapes, dtypes and other arguments that one step is compiled for.
MAX_VARIANTS = 8
#: Calls in a row that compile because one value in Python has changed: it changes in each step.
MAX_CHANGES = 4
MODES = ("default", "max-autotune", "graph")

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class _Variant(Generic[R]):
    """The compiled step for one combination of arguments, and the external state that was fixed at its capture."""

    run: Callable[..., R]
    states: list[ExternalState]

    @property
    def valid(self) -> bool:
        return all(state.unchanged for state in self.states)


class CompiledStep(Generic[P, R]):
    """A step that runs as a graph.

    how: for each variant, how it was captured. why_eager: why calls without a variant run eagerly, or "". seconds: of
    all captures and compilations, with the calls that caused them.
    """

    def __init__(self, step: Callable[P, R], mode: str = "default", cuda_graph: bool | str = "auto"):
        if not callable(step):
            raise UsageError(f"step: expected a function of tensors, got {type(step).__name__}")
        if mode not in MODES:
            raise UsageError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if cuda_graph not in (True, False, "auto"):
            raise UsageError(f"cuda_graph: expected True, False or 'auto', got {cuda_graph!r}")
        if mode == "graph" and cuda_graph is False:
            raise UsageError("cuda_graph: expected True or 'auto' with mode graph, which is a CUDA graph, got False")
        # Inductor imports triton, which `import fastgan` must not.
        from fastgan.engine.passes import Passes

        functools.update_wrapper(self, step)
        self.step, self.passes = step, Passes()
        self.seconds = 0.0
        self.how: list[str] = []
        self.why_eager = ""
        self._changes: list[str] = []
        self._unsupported = ""
        self._warned = False
        self._mode, self._cuda_graph = mode, mode == "graph" or cuda_graph
        self._variants: dict[tuple[Any, ...], list[_Variant[R]]] = {}
        self._dynamo: DynamoStep | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        # The order of keyword arguments has no meaning, but graphs take them by position.
        kwargs = dict(sorted(kwargs.items()))  # type: ignore[assignment]
        missed = ""
        if self._dynamo is not None:
            if self.why_eager:
                return self._dynamo.run_or_eager(*args, **kwargs)
            try:
                result = self._dynamo.run(*args, **kwargs)
                self._changes = []
                return result
            except NotCompiled as error:
                missed = str(error)
        elif self.why_eager and not self._variants:
            return self.step(*args, **kwargs)
        key, devices = _key(args, kwargs)
        variants = self._variants.get(key, [])
        for variant in variants:
            if variant.valid:
                self._changes = []
                return variant.run(*args, **kwargs)
        if self.why_eager:
            return self.step(*args, **kwargs)
        # A CUDA graph would keep the value that a tensor on the host has now.
        cuda = devices == {"cuda"}
        if self._cuda_graph is True and not cuda:
            asked = "mode: graph" if self._mode == "graph" else "cuda_graph: True"
            raise UsageError(f"{asked} takes a step whose tensors are on one GPU, got {', '.join(devices) or 'none'}")
        missed = missed or next((state.host.difference() for v in variants[-1:] for state in v.states), "")
        if reason := self._limit(missed, args, kwargs):
            return self._eagerly(reason, args, kwargs)
        start = time.perf_counter()
        states: list[ExternalState] = []
        try:
            with quiet():
                run, result = self._build(args, kwargs, cuda, states)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.seconds += time.perf_counter() - start
            # A wrong step, or a wrong call, raises its own error here, and a later call may still be captured.
            return self._eagerly(_reason(error), args, kwargs)
        self.seconds += time.perf_counter() - start
        if run is not self._dynamo:
            self._variants.setdefault(key, []).append(_Variant(run, states))
        if self._unsupported and not self._warned:
            self._warned = True
            warnings.warn(
                f"fastgan.compile: {self._name} is captured by make_fx, since Dynamo does not support it:"
                f" {self._unsupported}",
                stacklevel=2,
            )
        return result

    @property
    def variants(self) -> int:
        """How often the step was compiled or captured."""
        return len(self.how)

    @property
    def _name(self) -> str:
        return getattr(self.step, "__name__", type(self.step).__name__)

    def _limit(self, missed: str, args: Any, kwargs: Any) -> str:
        """Why this call is not compiled for, or "". missed: the value that was another one at the last capture, or the
        condition of Dynamo that does not hold."""
        value, equal, _ = missed.partition(" == ")
        if equal and "size mismatch" not in missed:
            self._changes.append(value)
            if self._changes[-MAX_CHANGES:] == [value] * MAX_CHANGES:
                return f"{value} changes from call to call; give the step as tensors what changes"
        if self.variants < MAX_VARIANTS:
            return ""
        return (
            f"it has been compiled for {MAX_VARIANTS} combinations of shapes, other arguments, training flags and"
            f" values in Python, got another one: {missed if equal else _shown(args, kwargs)}; use batches of one size"
            " (drop the last, smaller one), and give the step as tensors what changes"
        )

    def _eagerly(self, reason: str, args: Any, kwargs: Any) -> R:
        """This call, and all later ones that have no graph, without one."""
        result = self.step(*args, **kwargs)
        self.why_eager = reason
        warnings.warn(f"fastgan.compile: {self._name} runs eagerly: {reason}", stacklevel=3)
        return result

    def _build(self, args: Any, kwargs: Any, cuda: bool, states: list[ExternalState]) -> tuple[Callable[..., R], R]:
        """A function that runs this variant, and its first result. Appends the state that it fixes to `states`."""
        captured = functools.partial(self._captured, states)
        if not cuda or self._cuda_graph is False:
            run, result = captured(args, kwargs)
            if isinstance(run, DynamoStep):
                self._dynamo = run
            return run, result
        states.append(ExternalState(self.step, args, kwargs))
        if "cpu" in states[0].draws_on:
            raise RuntimeError("it draws random numbers on the host, which a CUDA graph would repeat")
        reason, entries = "", len(self.how)
        if self._mode != "graph":
            try:
                return CudaGraph.captured(states[0], captured, args, kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # A CUDA graph without a compiler still saves the launches, which is most of the gain on a GPU.
                reason = f" (compiler: {_sentence(error)})"
                del states[1:], self.how[entries:]
        graph = CudaGraph(self.step, states[0], args, kwargs)
        result = graph(*args, **kwargs)
        self.how.append(f"CUDA graph{reason}")
        return graph, result

    def _captured(self, states: list[ExternalState], args: Any, kwargs: Any) -> tuple[Callable[..., R], R]:
        from fastgan.engine.trace import trace

        try:
            run: Callable[..., R] = self._dynamo or self._by_dynamo()
            result = run(*args, **kwargs)
            self.how.append("Dynamo")
            return run, result
        except Exception as error:
            refused = error
        # A step that cannot run at all raises its own error here.
        states.append(ExternalState(self.step, args, kwargs))
        try:
            run = trace(self.step, states[-1], args, kwargs, self._inductor)
            result = run(*args, **kwargs)
        except Exception as error:
            raise error if isinstance(error, torch.OutOfMemoryError) else refused from error
        self.how.append(f"make_fx (Dynamo: {_sentence(refused)})")
        self._unsupported = _reason(refused)
        return run, result

    def _by_dynamo(self) -> DynamoStep:
        host = HostState(self.step)
        weights = host.computed_weights()
        if host.not_for_dynamo:
            raise Unfollowable(host.not_for_dynamo)
        return DynamoStep(self.step, self._inductor, weights)

    def _inductor(self, function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "post_grad_custom_pre_pass": self.passes,
            "fallback_random": True,  # a seed gives the same random numbers as in eager mode
        }
        if self._mode == "max-autotune":
            options |= torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        return torch.compile(function, fullgraph=True, options=options)


class CompiledForward(Generic[P, R]):
    """A function of tensors whose results keep their graph: both its forward and its backward pass run compiled.

    A `CompiledStep` takes its gradients inside, this one leaves them to the caller. why_eager: why it runs eagerly, or
    "".
    """

    def __init__(self, function: Callable[P, R]):
        self.function, self.why_eager = function, ""
        self._run = torch.compile(function, fullgraph=True, options={"fallback_random": True})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.why_eager:
            try:
                with quiet():
                    return self._run(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a wrong call raises its own error below
                self.why_eager = _reason(error)
        return self.function(*args, **kwargs)


def compile(step: Callable[P, R], *, mode: str = "default", cuda_graph: bool | str = "auto") -> CompiledStep[P, R]:
    """Compile a whole training step, with the `torch.autograd.grad`, `.backward()` and penalties inside, as one graph.

    step: a function of tensors (and of numbers, strings and None, for each value of which it is compiled anew) that
    returns tensors in tuples, lists or dicts. It may use and change modules, buffers and `.grad` outside of it. What it
    returns should be detached. mode: "default"; "max-autotune" for Inductor's search of kernels; "graph" for a CUDA
    graph of the eager step without a compiler. cuda_graph: "auto" replays a CUDA graph if the arguments are on a GPU,
    True raises UsageError if they are not, False uses none.

    The graph comes from Dynamo with autograd tracing if this PyTorch has it and Dynamo supports the step, else from
    make_fx, with one warning that gives Dynamo's reason. If compilation fails on a GPU, the step runs as a CUDA graph
    without a compiler. Zeros in PyTorch's double backward are removed, on plain modules too (engine/zero_gradients.py).
    Random numbers are those of eager mode. New shapes, other training flags, and other values of what the step takes
    from Python (attributes, closures, globals) compile anew, up to 8 variants; Dynamo's graphs take a number that
    changes as an input, after the second variant. Whatever has no graph runs eagerly, with one warning that gives the
    reason: a ninth variant, a value that changes from call to call, a step that cannot be captured (one that contains
    an optimizer step or draws from NumPy, for example), or a branch or shape at which the compiler fails later.
    """
    return CompiledStep(step, mode, cuda_graph)


def _key(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], set[str]]:
    """The key of a variant, and the types of the devices that the tensors are on."""
    flat, spec = tree_flatten((args, kwargs))
    parts: list[Any] = [
        spec,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.is_autocast_enabled("cpu"),
    ]
    devices: set[str] = set()
    same: dict[int, int] = {}  # step(x, x) needs another graph than step(x, y)
    for value in flat:
        if isinstance(value, Tensor):
            devices.add(value.device.type)
            first = same.setdefault(id(value), len(same))
            parts.append((value.shape, value.stride(), value.dtype, value.device, value.requires_grad, first))
        else:
            if type(value).__hash__ is None:
                raise UsageError(
                    "step: expected tensors, numbers, strings, None and tuples, lists or dicts of them as arguments,"
                    f" got {type(value).__name__}"
                )
            parts.append((type(value), value))
    return tuple(parts), devices


def _shown(args: Any, kwargs: Any) -> str:
    flat, _ = tree_flatten((args, kwargs))
    return ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else repr(v) for v in flat)


#: Parts of what Dynamo and PyTorch say, and the cure.
_CURES = {
    "requires_grad_() call": "write x = x.detach().requires_grad_() instead of changing an argument",
    "setattr() on Tensor.requires_grad": "write x = x.detach().requires_grad_() instead of changing an argument",
    "consumed returned tensor": "return tensors detached, as loss.detach()",
    "builtin operator `print`": "return what it prints, detached, and print it outside of the step",
    "Data-dependent": "return the tensor, detached, and look at its value outside of the step",
    "Tensor.item": "return the tensor, detached, and look at its value outside of the step",
    "value of a tensor": "return the tensor, detached, and look at its value outside of the step",
}


def _reason(error: Exception) -> str:
    if isinstance(error, Unfollowable):
        return str(error)
    sentence = _sentence(error)
    if skipped := re.search(r"marked that the function `([\w.]+)` should not be traced", str(error)):
        cure = "; call it outside of the compiled step" if skipped[1].startswith("Optimizer.") else ""
        return f"it calls {skipped[1]}, which Dynamo does not trace{cure}"
    cure = next((cure for part, cure in _CURES.items() if part in str(error).partition("Explanation")[0]), "")
    return f"{sentence}; {cure}" if cure else sentence


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].endswith("raised:"):  # what a backend of torch.compile raised
        del lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
