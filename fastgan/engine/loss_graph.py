"""A scalar loss and the gradients of all weights as one node of the autograd graph, replayed as one CUDA graph.

The derivative of a scalar is the same up to a factor whatever comes after it. So value and gradients are computed
together in the forward pass, and the backward pass scales them: a gradient penalty, with its double backward, becomes
one launch. After a few ordinary runs with the same shapes it is captured; weights are read in place, so that
optimizers, averages, `load_state_dict` and spectral norms work as before.

If weights are changed in place between the forward and the backward pass, where PyTorch raises an error, the gradients
are those of the weights in the forward pass.

What cannot be captured runs as before, with a reason that `fastgan.explain` shows. On the CPU that is everything:
computing the gradients early saves nothing there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine import cuda_graphs
from fastgan.engine.capturable import network_signature, why_not, why_not_arguments
from fastgan.engine.capture import ExternalState
from fastgan.engine.host_state import HostState
from fastgan.errors import first_line
from fastgan.ops import _backend
from fastgan.ops._autotune import wrong_result
from fastgan.ops._capture import before_capture
from fastgan.ops._eager import is_eager

#: Ordinary runs of a loss with the same arguments' shapes before it is captured.
ORDINARY_RUNS = 3
#: Captures of one loss of one network, with other shapes or after changes; after that it runs as before.
MAX_CAPTURES = 8
#: Kinds of arguments of the losses of one network that are counted at a time.
MAX_KINDS = 64

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
    if reason := why_not_arguments(flat):
        _note(network, name, reason)
        return compute(network, images, *args)
    key = name, compute, str(spec), _settings(images), tuple(map(_description, flat))
    graphs = _graphs.get(network, {}) if isinstance(network, nn.Module) else {}
    graph = graphs.get(key)
    if graph is not None and graph.valid(flat):
        return graph.node(flat)
    reason = why_not(network, flat)
    if not reason:
        graphs = _graphs.setdefault(network, {})
        if graph is None:
            if len(graphs) >= MAX_KINDS:  # of a schedule, whose arguments change in each step
                _forget_oldest(graphs)
            graph = graphs[key] = LossGraph(network, compute, spec)
        graph.prepare(flat, may_capture=sum(one.captures for one in graphs.values()) < MAX_CAPTURES)
        reason = graph.reason
    _note(network, name, reason)
    # One that is captured may still not be replayed here, for that reason.
    return graph.node(flat) if graph is not None and graph.captured and not reason else compute(network, images, *args)


def on_gpu(images: Tensor) -> bool:
    return images.is_cuda


def _settings(images: Tensor) -> tuple[Any, ...]:
    """What a captured loss depends on besides its arguments and the network."""
    # A graph has one set of results, so that it is replayed on one stream.
    stream = torch._C._cuda_getCurrentRawStream(images.device.index) if images.is_cuda else 0
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    precisions = [torch._C._get_fp32_precision_getter("cuda", op) for op in ("conv", "matmul")]
    deterministic = torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    return stream, dtype, *deterministic, *precisions, _backend.forced


def _description(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    # 1, 1.0 and True are equal.
    return type(value), value


class Gradients:
    """The gradients of one run. All replays share their tensors: a run whose backward pass comes after the next replay
    gets copies before it. weights: of the capture, which a later one may change. places: the number of the gradient of
    each, or None."""

    def __init__(self, tensors: list[Tensor], weights: list[Tensor], places: list[int | None]) -> None:
        self.tensors, self.weights, self.places = tensors, weights, places

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
        self._host: HostState
        self._weights: list[Tensor] = []
        self._last: Callable[[], Gradients | None] = lambda: None

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def valid(self, flat: list[Any]) -> bool:
        """Whether it was captured, and nothing that the graph holds fixed has changed since."""
        if self._graph is None or any(isinstance(value, Tensor) and value.requires_grad for value in flat):
            return False
        same = self._addresses == self._current_addresses() and self._signature == network_signature(self._network())
        if same and self._host.unchanged:
            return not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing()
        # Weights were replaced or frozen, train() or eval() was called, or an attribute has another value.
        self._graph, self._runs = None, 0
        return False

    def _current_addresses(self) -> list[Any]:
        """Where the weights, buffers and other tensors lie that the graph reads."""
        return [(tensor.data_ptr(), tensor.dtype, tensor.stride()) for tensor in self._outside]

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
            with torch.enable_grad(), cuda_graphs.own_casts():
                value = self._ordinary(flat)
                return value.detach(), torch.autograd.grad(value, weights, allow_unused=True)

        signature = network_signature(network)
        # A run whose effects are undone: it finds the state, and raises where the loss waits for the GPU.
        state = ExternalState(run, (flat,), {})
        self._outside, self._repeatable = state.tensors, not (state.draws or state.changes)
        device = flat[0].device
        if device.type != "cpu" and "cpu" in state.draws_on:
            raise RuntimeError("its network draws random numbers on the host, which a graph would repeat")
        if any(tensor.device != device for tensor in state.tensors):
            raise RuntimeError(f"it reads a tensor that is not on {device}, whose value a graph would keep")
        own = {id(weight) for weight in weights}
        if any(tensor.requires_grad and id(tensor) not in own for tensor in state.tensors):
            raise RuntimeError("it reads a weight that is not a parameter of its network")
        if torch.float16 in state.dtypes:
            raise RuntimeError("it computes in fp16, whose gradients need the loss scale, which comes after the loss")
        self._given = [value.detach().clone() if isinstance(value, Tensor) else value for value in flat]
        self.captures += 1
        with state.restored():
            before_capture()
            self._graph, (self._value, found) = cuda_graphs.recorded(device, lambda: run(self._given))
        if not state.draws:
            self._check_replay(state, lambda: run(self._given), found)
        self._signature, self._host = signature, state.host
        self._weights, self._addresses = weights, self._current_addresses()
        self._gradients = [gradient for gradient in found if gradient is not None]
        numbers = iter(range(len(found)))
        self._places = [None if gradient is None else next(numbers) for gradient in found]

    def _check_replay(self, state: ExternalState, run: Callable[[], Any], found: Sequence[Tensor | None]) -> None:
        """Raise RuntimeError unless a replay gives an ordinary run's numbers; the effects of both are undone."""
        with state.restored():
            value, gradients = run()
        with state.restored():
            self._graph.replay()
            expected = [t for t in (value, *gradients) if t is not None]
            if reason := wrong_result([t for t in (self._value, *found) if t is not None], expected, "an ordinary run"):
                raise RuntimeError(f"its replay is wrong: {reason}")

    def replay(self, flat: list[Any]) -> tuple[Tensor, Gradients]:
        """The value, and the gradients of the weights that have one."""
        waiting = self._last()
        if waiting is not None and waiting.tensors is self._gradients:
            waiting.copy()
        with torch.no_grad():
            given, values = ([t for t in each if isinstance(t, Tensor)] for each in (self._given, flat))
            torch._foreach_copy_(given, values)
            self._graph.replay()
            gradients = Gradients(self._gradients, self._weights, self._places)
            self._last = weakref.ref(gradients)
            return self._value.clone(), gradients

    def scaled(self, gradients: Gradients, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all weights times the gradient of the loss."""
        scaled = torch._foreach_mul(gradients.tensors, upstream)
        return tuple(None if place is None else scaled[place] for place in gradients.places)

    def differentiable(self, flat: list[Any], gradients: Gradients, upstream: Tensor) -> tuple[Tensor | None, ...]:
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
        return torch.autograd.grad(value, gradients.weights, upstream, create_graph=True, allow_unused=True)


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
            return None, None, *ctx.graph.differentiable(ctx.flat, ctx.gradients, upstream)
        return None, None, *ctx.graph.scaled(ctx.gradients, upstream)


# --- all networks -----------------------------------------------------------------------------------------------------

_graphs: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, LossGraph]] = weakref.WeakKeyDictionary()
_notes: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()


def _forget_oldest(graphs: dict[Hashable, LossGraph]) -> None:
    """Forget the oldest kind of arguments that was never captured."""
    oldest = next((key for key, graph in graphs.items() if not graph.captures), None)
    if oldest is not None:
        del graphs[oldest]


def _note(network: Any, name: str, reason: str) -> None:
    if isinstance(network, nn.Module):
        _notes.setdefault(network, {})[name] = reason


def reasons(network: nn.Module) -> dict[str, str]:
    """For each loss of a network that ran: why it is not replayed as a CUDA graph, or "" if it is or soon will be."""
    return dict(_notes.get(network, {}))
