"""A step captured by Dynamo: its guards say when the graph holds, and nothing is compiled without being counted."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastgan.engine.host_values import generators_kept

_MISSED = "Detected recompile when torch.compile stance is 'fail_on_recompile'"


class NotCompiled(Exception):
    """No graph holds for this call. The text is the condition of the newest one that does not hold, or ""."""


class DynamoStep:
    """Calls a step through Dynamo. compiler: of the backend, as torch.compile.

    weights: (module, name) of the attributes that a hook computes before each run of the module, as the older
    weight_norm does. They are detached after the step: Dynamo does not let a weight leave the graph whose own graph the
    step has used up.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]],
        weights: list[tuple[nn.Module, str]],
    ):
        def detaching(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            for module, name in weights:
                setattr(module, name, getattr(module, name).detach())
            return result

        self._compiled = compiler(detaching if weights else step)
        self._shapes: list[torch.Size] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and compile before it if no graph holds.

        A second graph in a row for the same shapes takes numbers that have changed as inputs, instead of one value of
        each. (After other shapes it would take sizes as inputs, too.)
        """
        shapes = [leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        again, self._shapes = shapes == self._shapes, shapes
        with _tracing(numbers=again), generators_kept():
            return self._compiled(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run a graph that holds. Raises NotCompiled, before anything has run, if there is none."""
        try:
            with torch.compiler.set_stance("fail_on_recompile"), quiet():
                return self._compiled(*args, **kwargs)
        except RuntimeError as error:
            if not str(error).startswith(_MISSED):
                raise
            failed = re.search(r"- \d+/\d+: (.*?)(?:\s+#.*)?$", str(error), re.MULTILINE)
            condition = re.sub(r"G\['(\w+)'\]", r"\1", failed[1].strip()) if failed else ""
            raise NotCompiled(condition) from None

    def run_or_eager(self, *args: Any, **kwargs: Any) -> Any:
        """Run a graph that holds, or the step eagerly."""
        with torch.compiler.set_stance("eager_on_recompile"), quiet():
            return self._compiled(*args, **kwargs)


@contextlib.contextmanager
def _tracing(numbers: bool) -> Iterator[None]:
    """A context in which Dynamo compiles, with autograd calls in graphs. numbers: those that change become inputs."""
    import torch._dynamo

    options: dict[str, Any] = {
        "trace_autograd_ops": True,
        # Dynamo counts the variants of a function for the whole process; here each CompiledStep counts its own.
        "recompile_limit": 10_000,
        "accumulated_recompile_limit": 10_000,
        "automatic_dynamic_shapes": numbers,
        "assume_static_by_default": True,
        "allow_unspec_int_on_nn_module": numbers,
        # Otherwise draws of numpy.random come from torch's generator, and are not those of eager mode.
        "use_numpy_random_stream": True,
    }
    with torch._dynamo.config.patch(options), quiet():
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context without the warnings that PyTorch's compiler causes itself, and without what it leaves behind."""
    with warnings.catch_warnings(), _mended():
        # Dynamo reads .grad of every tensor, and Inductor's own modules are scripted.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*Function'> should not be instantiated", DeprecationWarning)
        # TF32 is the caller's choice, and weights were made on another stream than the capture's.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        yield


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """A context in which two faults of Dynamo in torch 2.13 give no wrong graphs.

    A `.grad` that the step has set, and reads, gets its place as source, and the graph's caller would read the value
    from there: `.grad = None` gave a frozen weight the gradient of another one. The constants None, True and False,
    each of which is one object, kept the source also after that, and then graphs that hold them failed to compile. And
    Inductor takes another number for one that Python's random draws: such a step is not captured.
    """
    from torch._dynamo.variables import TensorVariable, misc, user_defined

    read, draw = TensorVariable.var_getattr, user_defined.call_random_fn

    def var_getattr(self: Any, tx: Any, name: str) -> Any:
        result = read(self, tx, name)
        if name == "grad" and (
            result.is_python_constant() or tx.output.side_effects.has_pending_mutation_of_attr(self, name)
        ):
            result.source = None
        return result

    def refuse(*_: Any) -> Any:
        raise RuntimeError("it draws random numbers on the host, from random")

    # What another's torch.compile has left there counts too.
    _forget_sources()
    TensorVariable.var_getattr = var_getattr  # type: ignore[method-assign]
    misc.call_random_fn = user_defined.call_random_fn = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        TensorVariable.var_getattr = read  # type: ignore[method-assign]
        misc.call_random_fn = user_defined.call_random_fn = draw
        # Reads of .grad on other ways than var_getattr leave a source too.
        _forget_sources()


def _forget_sources() -> None:
    """Take the sources from the constants that all graphs share."""
    from torch._dynamo.variables import constant

    for name in ("NONE", "TRUE", "FALSE"):
        if (shared := getattr(constant, f"CONSTANT_VARIABLE_{name}", None)) is not None:
            shared.source = None
