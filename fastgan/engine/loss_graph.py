"""A scalar loss and the gradients of all weights as one node of the autograd graph, replayed as one CUDA graph.

The derivative of a scalar is the same up to a factor whatever comes after it. So value and gradients are computed
together in the forward pass, and the backward pass scales them: a gradient penalty, with its double backward, becomes
one launch. After a few ordinary runs with the same shapes it is captured; weights are read in place, so that
optimizers, averages, `load_state_dict` and spectral norms work as before.

What cannot be captured runs as before, with a reason that `fastgan.explain` shows. On the CPU that is everything:
computing the gradients early saves nothing there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine import cuda_graphs
from fastgan.engine.capturable import host_generators, network_signature, why_not
from fastgan.engine.capture import ExternalState
from fastgan.errors import first_line
from fastgan.ops._capture import before_capture
from fastgan.ops._eager import is_eager

#: Ordinary runs of a loss with the same arguments' shapes before it is captured.
ORDINARY_RUNS = 3
#: Captures of one loss of one network, with other shapes or after changes; after that it runs as before.
MAX_CAPTURES = 8

#: A loss of (network, *arguments).
Compute = Callable[..., Tensor]


def scalar_loss(name: str, compute: Compute, network: Any, images: Tensor, *args: Any) -> Tensor:
    """compute(network, images, *args), a scalar whose only weights are those of the network, perhaps as one node.

    name: of the loss, for reports. args: tensors, which are constants of the loss and get no gradient, Python values on
    which it depends, and containers of both.
    """
    if not torch.is_grad_enabled() or not is_eager():
        return compute(network, images, *args)
    if not on_gpu(images):
        _note(network, name, "its images are not on a GPU")
        return compute(network, images, *args)
    flat, spec = tree_flatten((images, *args))
    key = name, compute, str(spec), _settings(), tuple(map(_description, flat))
    graphs = _graphs.get(network, {}) if isinstance(network, nn.Module) else {}
    graph = graphs.get(key)
    if graph is not None and graph.valid(flat):
        return graph.node(flat)
    reason = why_not(network, flat)
    if not reason:
        graphs = _graphs.setdefault(network, {})
        graph = graphs.setdefault(key, LossGraph(network, compute, spec))
        graph.prepare(flat, may_capture=sum(one.captures for one in graphs.values()) < MAX_CAPTURES)
        reason = graph.reason
    _note(network, name, reason)
    return compute(network, images, *args) if graph is None or not graph.captured else graph.node(flat)


def on_gpu(images: Tensor) -> bool:
    return images.is_cuda


def _settings() -> tuple[Any, ...]:
    """What a captured loss depends on besides its arguments and the network."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    return dtype, torch.backends.cudnn.deterministic, torch._C._get_fp32_precision_getter("cuda", "conv")


def _description(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value if isinstance(value, int | float | str | type(None)) else (type(value), id(value))


class Gradients:
    """The gradients of one run. All replays share their tensors: a run whose backward pass comes after the next replay
    gets copies before it."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def copy(self) -> None:
        copies = [torch.empty_like(t) for t in self.tensors]
        torch._foreach_copy_(copies, self.tensors)
        self.tensors = copies


class LossGraph:
    """A loss with arguments of one structure: ordinary runs, then a capture, then replays.

    reason: why it is not replayed, or "". captures: how often it was captured.
    """

    def __init__(self, network: nn.Module, compute: Compute, spec: Any) -> None:
        self._network = weakref.ref(network)  # which owns its graphs, in a table that must not keep it alive
        self._compute, self._spec = compute, spec
        self.reason, self.captures, self._runs = "", 0, 0
        self._graph: Any = None
        self._signature: Any = None
        self._weights: list[Tensor] = []
        self._last: Callable[[], Gradients | None] = lambda: None

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def valid(self, flat: list[Any]) -> bool:
        """Whether it was captured, and nothing that the graph holds fixed has changed since."""
        if self._graph is None or any(isinstance(value, Tensor) and value.requires_grad for value in flat):
            return False
        if self._addresses == self._current_addresses() and self._signature == network_signature(self._network()):
            return not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing()
        # Weights were replaced or frozen, train() or eval() was called, or an attribute has another value.
        self._graph, self._runs = None, 0
        return False

    def _current_addresses(self) -> list[int]:
        """Where the weights, buffers and other tensors lie that the graph reads."""
        return [tensor.data_ptr() for tensor in self._outside]

    def prepare(self, flat: list[Any], may_capture: bool) -> None:
        """Count an ordinary run, or capture after enough of them."""
        if self._graph is not None or self.reason:
            return
        self._runs += 1
        if self._runs <= ORDINARY_RUNS:
            return
        if not may_capture:
            self.reason = f"it was captured {MAX_CAPTURES} times, with other shapes or after changes of the network"
            return
        try:
            self._capture(flat)
        except Exception as error:  # whatever a capture does not allow
            self._graph, self.reason = None, first_line(error)

    def node(self, flat: list[Any]) -> Tensor:
        """The value of a replay, whose gradient scales those of the replay."""
        return _Node.apply(self, flat, *self._weights)

    def _ordinary(self, flat: list[Any]) -> Tensor:
        return self._compute(self._network(), *tree_unflatten(flat, self._spec))

    def _capture(self, flat: list[Any]) -> None:
        network = self._network()
        assert network is not None
        weights: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]

        def run(flat: list[Any]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad():
                value = self._ordinary(flat)
                return value.detach(), torch.autograd.grad(value, weights, allow_unused=True)

        signature, generators = network_signature(network), host_generators()
        # A run whose effects are undone: it finds the state, and raises where the loss waits for the GPU.
        state = ExternalState(run, (flat,), {})
        self._outside, self._repeatable = state.tensors, not (state.draws or state.changes)
        if host_generators() != generators:
            raise RuntimeError("its network draws random numbers on the host, which a graph would repeat")
        if network_signature(network) != signature:
            raise RuntimeError("its network changes attributes when it runs, which a graph does not")
        self._given = [value.detach().clone() if isinstance(value, Tensor) else value for value in flat]
        device = next(value.device for value in flat if isinstance(value, Tensor))
        self.captures += 1
        with state.restored():
            before_capture()
            self._graph, (self._value, found) = cuda_graphs.recorded(device, lambda: run(self._given))
        self._signature, self._weights, self._addresses = signature, weights, self._current_addresses()
        self._gradients = [gradient for gradient in found if gradient is not None]
        numbers = iter(range(len(found)))
        self._places = [None if gradient is None else next(numbers) for gradient in found]

    def replay(self, flat: list[Any]) -> tuple[Tensor, Gradients]:
        """The value, and the gradients of the weights that have one."""
        waiting = self._last()
        if waiting is not None and waiting.tensors is self._gradients:
            waiting.copy()
        with torch.no_grad():
            given, values = ([t for t in each if isinstance(t, Tensor)] for each in (self._given, flat))
            torch._foreach_copy_(given, values)
            self._graph.replay()
            gradients = Gradients(self._gradients)
            self._last = weakref.ref(gradients)
            return self._value.clone(), gradients

    def scaled(self, gradients: Gradients, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all weights times the gradient of the loss."""
        scaled = torch._foreach_mul(gradients.tensors, upstream)
        return tuple(None if place is None else scaled[place] for place in self._places)

    def differentiable(self, flat: list[Any], upstream: Tensor) -> tuple[Tensor | None, ...]:
        """`scaled` for create_graph: by the ordinary graph. From then on the loss runs as before.

        Raises RuntimeError where another run of the loss would give other numbers.
        """
        self.reason, self._graph = "its gradients are differentiated again", None
        if not self._repeatable:
            raise RuntimeError(
                "the gradients of a loss that was replayed as a CUDA graph cannot be differentiated, since its network"
                " draws random numbers or changes its buffers; from its next run on the loss is not replayed"
            )
        value = self._ordinary(flat)
        return torch.autograd.grad(value, self._weights, upstream, create_graph=True, allow_unused=True)


class _Node(torch.autograd.Function):
    """The loss in the autograd graph; its inputs are the weights."""

    @staticmethod
    def forward(ctx: Any, graph: LossGraph, flat: list[Any], *weights: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        value, ctx.gradients = graph.replay(flat)
        ctx.graph, ctx.flat, ctx.count = graph, flat, len(weights)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> tuple[Any, ...]:
        if upstream is None:
            return (None,) * (2 + ctx.count)
        if torch.is_grad_enabled():
            return None, None, *ctx.graph.differentiable(ctx.flat, upstream)
        return None, None, *ctx.graph.scaled(ctx.gradients, upstream)


# --- all networks -----------------------------------------------------------------------------------------------------

_graphs: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, LossGraph]] = weakref.WeakKeyDictionary()
_notes: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()


def _note(network: Any, name: str, reason: str) -> None:
    if isinstance(network, nn.Module):
        _notes.setdefault(network, {})[name] = reason


def reasons(network: nn.Module) -> dict[str, str]:
    """For each loss of a network that ran: why it is not replayed as a CUDA graph, or "" if it is or soon will be."""
    return dict(_notes.get(network, {}))
