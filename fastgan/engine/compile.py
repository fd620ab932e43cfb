"""`fastgan.compile`: a whole training step, inner and outer backward included, as one compiled graph."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastgan.engine.capturable import host_generators
from fastgan.engine.capture import ExternalState
from fastgan.engine.cuda_graphs import CudaGraph
from fastgan.errors import UsageError

#: The most combinations of shapes, dtypes and other arguments that one step is compiled for.
MAX_VARIANTS = 8
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
    """A step that runs as a graph. how: for each variant, how it was captured. why_eager: why it was not, or ""."""

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
        self._mode, self._cuda_graph = mode, mode == "graph" or cuda_graph
        self._variants: dict[tuple[Any, ...], list[_Variant[R]]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.why_eager:
            return self.step(*args, **kwargs)
        # The order of keyword arguments has no meaning, but graphs take them by position.
        kwargs = dict(sorted(kwargs.items()))  # type: ignore[assignment]
        key, devices = _key(args, kwargs)
        for variant in self._variants.get(key, ()):
            if variant.valid:
                return variant.run(*args, **kwargs)
        # A CUDA graph would keep the value that a tensor on the host has now.
        cuda = devices == {"cuda"}
        if self._cuda_graph is True and not cuda:
            asked = "mode: graph" if self._mode == "graph" else "cuda_graph: True"
            raise UsageError(f"{asked} takes a step whose tensors are on one GPU, got {', '.join(devices) or 'none'}")
        if sum(map(len, self._variants.values())) == MAX_VARIANTS:
            raise UsageError(
                f"step: {self._name} has been compiled for {MAX_VARIANTS} combinations of shapes, other arguments and"
                f" training flags, got another one: {_shown(args, kwargs)}; use batches of one size (drop the last,"
                " smaller one)"
            )
        start = time.perf_counter()
        states: list[ExternalState] = []
        try:
            with _quiet():
                run, result = self._build(args, kwargs, cuda, states)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            # A wrong step, or a wrong call, raises its own error here, and a later call may still be captured.
            result = self.step(*args, **kwargs)
            self.why_eager = _sentence(error)
            warnings.warn(f"fastgan.compile: {self._name} runs eagerly: {self.why_eager}", stacklevel=2)
            return result
        self.seconds += time.perf_counter() - start
        self._variants.setdefault(key, []).append(_Variant(run, states))
        return result

    @property
    def _name(self) -> str:
        return getattr(self.step, "__name__", type(self.step).__name__)

    def _build(self, args: Any, kwargs: Any, cuda: bool, states: list[ExternalState]) -> tuple[Callable[..., R], R]:
        """A function that runs this variant, and its first result. Appends the state that it fixes to `states`."""
        captured = functools.partial(self._captured, states)
        if not cuda or self._cuda_graph is False:
            return captured(args, kwargs)
        generators = host_generators()
        states.append(ExternalState(self.step, args, kwargs))
        if "cpu" in states[0].draws_on or host_generators() != generators:
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
            run = self._by_dynamo()
            result = run(*args, **kwargs)
            self.how.append("Dynamo")
        except Exception as error:
            reason = _sentence(error)
            # A step that cannot run at all raises its own error here.
            states.append(ExternalState(self.step, args, kwargs))
            run = trace(self.step, states[-1], args, kwargs, self._inductor)
            result = run(*args, **kwargs)
            self.how.append(f"make_fx (Dynamo: {reason})")
        return run, result

    def _by_dynamo(self) -> Callable[..., R]:
        compiled = self._inductor(self.step)

        def run(*args: Any, **kwargs: Any) -> R:
            with _autograd_tracing():
                return compiled(*args, **kwargs)

        return run

    def _inductor(self, function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "post_grad_custom_pre_pass": self.passes,
            "fallback_random": True,  # a seed gives the same random numbers as in eager mode
        }
        if self._mode == "max-autotune":
            options |= torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def compile(step: Callable[P, R], *, mode: str = "default", cuda_graph: bool | str = "auto") -> CompiledStep[P, R]:
    """Compile a whole training step, with the `torch.autograd.grad`, `.backward()` and penalties inside, as one graph.

    step: a function of tensors (and of numbers, strings and None, for each value of which it is compiled anew) that
    returns tensors in tuples, lists or dicts. It may use and change modules, buffers and `.grad` outside of it. What it
    returns should be detached. mode: "default"; "max-autotune" for Inductor's search of kernels; "graph" for a CUDA
    graph of the eager step without a compiler. cuda_graph: "auto" replays a CUDA graph if the arguments are on a GPU,
    True raises UsageError if they are not, False uses none.

    The graph comes from Dynamo with autograd tracing if this PyTorch has it and Dynamo supports the step, else from
    make_fx, which fixes branches and numbers other than arguments at capture. If compilation fails on a GPU, the step
    runs as a CUDA graph without a compiler. Zeros in PyTorch's double backward are removed, on plain modules too
    (engine/zero_gradients.py). Random numbers are those of eager mode. New shapes, and modules in another mode, compile
    anew, up to 8 variants, then UsageError. A step that cannot be captured (one that contains an optimizer step, for
    example) runs eagerly, with one warning that gives the reason.
    """
    return CompiledStep(step, mode, cuda_graph)


@contextlib.contextmanager
def _autograd_tracing() -> Iterator[None]:
    """A context that lets Dynamo trace autograd calls into graphs."""
    import torch._dynamo

    # Dynamo counts the variants of a function for the whole process; here each CompiledStep counts its own.
    limits = torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
    with torch._dynamo.config.patch(trace_autograd_ops=True), limits, _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the warnings that PyTorch's compiler causes itself, and without what it leaves behind."""
    with warnings.catch_warnings(), _without_stale_source():
        # Dynamo reads .grad of every tensor, and Inductor's own modules are scripted.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        # TF32 is the caller's choice, and weights were made on another stream than the capture's.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        yield


@contextlib.contextmanager
def _without_stale_source() -> Iterator[None]:
    """A context after which Dynamo's constant None comes from nowhere again.

    All its Nones are one object. In torch 2.13 a `.grad` that is None can leave its own source on it, and then every
    later graph that returns None fails to compile.
    """
    from torch._dynamo.variables import constant

    try:
        yield
    finally:
        if (shared := getattr(constant, "CONSTANT_VARIABLE_NONE", None)) is not None:
            shared.source = None


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


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
