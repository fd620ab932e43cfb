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

from fastgan.engine.capture import ExternalState
from fastgan.engine.cuda_graphs import CudaGraph
from fastgan.errors import UsageError

#: A step is compiled for so many combinations of shapes, dtypes and other arguments, and for no more.
MAX_VARIANTS = 8
MODES = ("default", "max-autotune", "graph")

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class _Variant(Generic[R]):
    """What runs a step for one kind of arguments, and what was fixed in it when it was captured."""

    run: Callable[..., R]
    around: list[ExternalState]

    @property
    def holds(self) -> bool:
        return all(around.unchanged for around in self.around)


class CompiledStep(Generic[P, R]):
    """A step that runs as a graph. `how` tells for each variant how it was captured, `why_eager` why it was not."""

    def __init__(self, step: Callable[P, R], mode: str = "default", cuda_graph: bool | str = "auto"):
        if not callable(step):
            raise UsageError(f"step: expected a function of tensors, got {type(step).__name__}")
        if mode not in MODES:
            raise UsageError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if cuda_graph not in (True, False, "auto"):
            raise UsageError(f"cuda_graph: expected True, False or 'auto', got {cuda_graph!r}")
        if mode == "graph" and cuda_graph is False:
            raise UsageError("cuda_graph: mode graph is nothing but a CUDA graph, got False; leave one of them out")
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
        # The order in which arguments are named means nothing, and graphs go by it.
        kwargs = dict(sorted(kwargs.items()))  # type: ignore[assignment]
        key, devices = _key(args, kwargs)
        for variant in self._variants.get(key, ()):
            if variant.holds:
                return variant.run(*args, **kwargs)
        # A tensor on the host would be fixed in a graph.
        cuda = devices == {"cuda"}
        if self._cuda_graph is True and not cuda:
            asked = "mode: graph" if self._mode == "graph" else "cuda_graph: True"
            raise UsageError(f"{asked} takes a step whose tensors are on one GPU, got {', '.join(devices) or 'none'}")
        if sum(map(len, self._variants.values())) == MAX_VARIANTS:
            raise UsageError(
                f"step: {self._name} has been compiled for {MAX_VARIANTS} combinations of shapes, other arguments and"
                f" training flags, and now comes {_shown(args, kwargs)}; give it batches of one size (drop the last,"
                " smaller one)"
            )
        start = time.perf_counter()
        around: list[ExternalState] = []
        try:
            with _quiet():
                run, result = self._build(args, kwargs, cuda, around)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            # A step that is wrong, or was called wrongly, fails here in its own words, and may be captured yet.
            result = self.step(*args, **kwargs)
            self.why_eager = _sentence(error)
            warnings.warn(f"fastgan.compile: {self._name} runs eagerly: {self.why_eager}", stacklevel=2)
            return result
        self.seconds += time.perf_counter() - start
        self._variants.setdefault(key, []).append(_Variant(run, around))
        return result

    @property
    def _name(self) -> str:
        return getattr(self.step, "__name__", type(self.step).__name__)

    def _build(self, args: Any, kwargs: Any, cuda: bool, around: list[ExternalState]) -> tuple[Callable[..., R], R]:
        """What runs this variant from now on, and its first result; in `around`, what it takes for fixed."""
        captured = functools.partial(self._captured, around)
        if not cuda or self._cuda_graph is False:
            return captured(args, kwargs)
        around.append(ExternalState(self.step, args, kwargs))
        reason, told = "", len(self.how)
        if self._mode != "graph":
            try:
                return CudaGraph.captured(around[0], captured, args, kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # Most of what a GPU gains is the launches saved, and those are saved without a compiler too.
                reason = f" (compiler: {_sentence(error)})"
                del around[1:], self.how[told:]
        graph = CudaGraph(self.step, around[0], args, kwargs)
        result = graph(*args, **kwargs)
        self.how.append(f"CUDA graph{reason}")
        return graph, result

    def _captured(self, around: list[ExternalState], args: Any, kwargs: Any) -> tuple[Callable[..., R], R]:
        from fastgan.engine.trace import trace

        try:
            run = self._by_dynamo()
            result = run(*args, **kwargs)
            self.how.append("Dynamo")
        except Exception as error:
            reason = _sentence(error)
            # A step that cannot run at all fails here in its own words.
            around.append(ExternalState(self.step, args, kwargs))
            run = trace(self.step, around[-1], args, kwargs, self._inductor)
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
            "fallback_random": True,  # draws as eager draws: a seed gives the same noise in both
        }
        if self._mode == "max-autotune":
            options |= torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def compile(  # the field's own word
    step: Callable[P, R], *, mode: str = "default", cuda_graph: bool | str = "auto"
) -> CompiledStep[P, R]:
    """Compile a whole training step, with the `torch.autograd.grad`, `.backward()` and penalties inside, as one graph.

    step: a function of tensors (and of numbers, strings and None, for each value of which it is compiled anew) that
    returns tensors in tuples, lists or dicts. It may use and change modules, buffers and `.grad` of its surroundings.
    What it returns should be detached. mode: "default"; "max-autotune" for Inductor's search of kernels; "graph" for no
    compiler: the step as it is, on a GPU, recorded once and launched as a whole, which is also what comes of a step
    there that the compiler fails at. cuda_graph: "auto" replays a CUDA graph where the arguments are on a GPU, True
    insists, False does not.

    The graph comes from Dynamo with autograd tracing where this PyTorch has it and it can follow the step, else from
    make_fx, for which branches and numbers other than arguments are fixed at capture. Zeros that PyTorch's double
    backward computes with are removed, on plain modules too (engine/zero_gradients.py). Random numbers are drawn as in
    eager mode. Shapes seen anew, and modules in another mode, compile anew, up to 8 variants, then UsageError. What
    cannot be captured (an optimizer's step, for one) runs eagerly, with one warning that says why.
    """
    return CompiledStep(step, mode, cuda_graph)


@contextlib.contextmanager
def _autograd_tracing() -> Iterator[None]:
    """Dynamo's switch for autograd calls inside of graphs, on for this call alone."""
    import torch._dynamo

    # Dynamo counts the variants of a function for the whole process; here each step counts its own.
    limits = torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
    with torch._dynamo.config.patch(trace_autograd_ops=True), limits, _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's compiler warns itself of."""
    with warnings.catch_warnings():
        # Dynamo looks at .grad of every tensor that it meets, and Inductor's own modules are scripted.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        # Whether products round to TF32 is the caller's choice, and weights are older than the stream of a recording.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        yield


def _key(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], set[str]]:
    """What a variant is compiled for, and the kinds of devices that the tensors are on."""
    flat, spec = tree_flatten((args, kwargs))
    parts: list[Any] = [
        spec,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.is_autocast_enabled("cpu"),
    ]
    devices: set[str] = set()
    same: dict[int, int] = {}  # a graph of step(x, x) is none of step(x, y)
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
