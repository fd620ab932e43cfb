"""Gradients of a fused network that are zero almost everywhere: zeros where PyTorch gives zeros, None where None."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.engine.dynamo import quiet

X = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Grads = list[Tensor | None]
Step = Callable[[nn.Module], Grads]


class Residual(nn.Module):
    """Biases that reach an activation through sums, also of a branch that no input gradient passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.skip, self.embed, self.head = nn.Conv2d(3, 4, 1), nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        label = F.leaky_relu(self.embed(x.new_ones(1, 2)), 0.2)[:, :, None, None]
        y = self.second(F.leaky_relu(self.first(x), 0.2)) + self.skip(x) + label
        return self.head(F.leaky_relu(y, 0.2).mean((2, 3)))


def _with_norm(norm: nn.Module, act: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, act, nn.Conv2d(4, 1, 14))


def _normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.LeakyReLU(0.2), norm(nn.Conv2d(4, 1, 14)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stack": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2, True), nn.Flatten(),
        nn.Linear(576, 1),
    ),
    "block": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.Conv2d(4, 1, 14)),
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(768, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 32)),
    "1-D": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv1d(4, 1, 254)),
    "last activation": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 14), nn.LeakyReLU(0.2)),
    "curved": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 14), nn.Tanh()),
    "no activation": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 14)),
    "group norm": lambda: _with_norm(nn.GroupNorm(2, 4), nn.ReLU()),
    "batch norm": lambda: _with_norm(nn.BatchNorm2d(4), nn.LeakyReLU(0.2, True)),
    "instance norm": lambda: _with_norm(nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2)),
    "dropout": lambda: _with_norm(nn.Dropout(0.0), nn.LeakyReLU(0.2)),
    "pooling": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(4, 1, 7)),
    "spectral norm": lambda: _normed(parametrizations.spectral_norm),
    "weight norm": lambda: _normed(parametrizations.weight_norm),
    "custom forward": Residual,
}  # fmt: skip


def _penalty(network: nn.Module) -> tuple[Tensor, Tensor]:
    points = X.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
    return gradient.square().sum(), points


def _grads(network: nn.Module) -> Grads:
    return [weight.grad for weight in network.parameters()]


def _own_r1(network: nn.Module) -> Grads:
    penalty, points = _penalty(network)
    penalty.backward()
    return [*_grads(network), points.grad]


def _r1(network: nn.Module) -> Grads:
    fastgan.r1(network, X).backward()
    return _grads(network)


def _gradient_penalty(network: nn.Module) -> Grads:
    fastgan.gradient_penalty(network, X, X.flip(0), epsilon=torch.full((4, 1, 1, 1), 0.3).double()).backward()
    return _grads(network)


def _grad(network: nn.Module) -> Grads:
    return list(torch.autograd.grad(_penalty(network)[0], list(network.parameters()), allow_unused=True))


def _frozen_biases(network: nn.Module) -> Grads:
    for weight in network.parameters():
        weight.requires_grad_(weight.dim() > 1)
    (_penalty(network)[0]).backward()
    return _grads(network)


def _of_weights(network: nn.Module) -> Grads:
    weights = list(network.parameters())
    first = torch.autograd.grad(network(X).sum(), weights, create_graph=True, allow_unused=True)
    norm = sum(g.square().sum() for g in first if g is not None)
    assert isinstance(norm, Tensor)
    return list(torch.autograd.grad(norm, weights, allow_unused=True))


def _changed_in_place(network: nn.Module) -> Grads:
    points = X.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
    gradient += 1e-3
    gradient.square().sum().backward()
    return _grads(network)


class _Mode(TorchDispatchMode):
    """Makes every op take the registered path."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def _registered(network: nn.Module) -> Grads:
    with _Mode():
        return _own_r1(network)


STEPS: list[Step] = [
    _own_r1, _r1, _gradient_penalty, _grad, _frozen_biases, _of_weights, _changed_in_place, _registered,
]  # fmt: skip


def _assert_same(got: Grads, want: Grads) -> None:
    assert [g is None for g in got] == [w is None for w in want]
    for g, w in zip(got, want, strict=True):
        if g is not None and w is not None:
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_tensors_are_none(name):
    for step in STEPS:
        torch.manual_seed(0)
        plain = NETWORKS[name]().double()
        fused = fastgan.fuse(copy.deepcopy(plain))
        want = step(plain)
        _assert_same(step(fused), want)


def test_hidden_biases_get_zeros_without_a_pass():
    torch.manual_seed(0)
    network = fastgan.fuse(NETWORKS["stack"]().double())
    penalty, _ = _penalty(network)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        penalty.backward()
    assert [g is None for g in _grads(network)] == [False, False, False, False, False, True]
    assert not any(_grads(network)[i].any() for i in (1, 3))
    counts = {event.key: event.count for event in profile.key_averages()}
    # Two weight gradients, and no input gradient or weight gradient of zeros.
    assert counts["aten::convolution_backward"] == 2


def test_a_hidden_bias_is_used_by_a_penalty():
    network = fastgan.fuse(NETWORKS["stack"]().double())
    (gradient,) = torch.autograd.grad(_penalty(network)[0], network[0].bias)  # without allow_unused
    assert not gradient.any()


def _train(network: nn.Module) -> list[Tensor]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))
    generator = torch.Generator().manual_seed(2)
    for step in range(20):
        real, fake = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        (F.softplus(network(fake)).mean() + F.softplus(-network(real)).mean()).backward()
        optimizer.step()
        if step % 4 == 0:  # lazy regularization, as a step of its own
            optimizer.zero_grad(set_to_none=True)
            fastgan.r1(network, real, weight=40.0).backward()
            optimizer.step()
    return [weight.detach() for weight in network.parameters()]


@pytest.mark.parametrize("name", ["stack", "group norm", "custom forward"])
def test_adam_over_lazy_r1_steps(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]().double()
    fused = fastgan.fuse(copy.deepcopy(plain))
    for got, want in zip(_train(fused), _train(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_compiled_step():
    torch.manual_seed(0)
    network = fastgan.fuse(NETWORKS["stack"]().double())

    def step(real: Tensor) -> Tensor:
        network.zero_grad(set_to_none=True)
        penalty = fastgan.r1(network, real)
        penalty.backward()
        return penalty.detach()

    step(X)
    want = _grads(network)
    with torch._dynamo.config.patch(trace_autograd_ops=True), quiet():
        torch.compile(step, fullgraph=True, backend="aot_eager")(X)
    _assert_same(_grads(network), want)
