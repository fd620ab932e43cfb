"""Penalties replayed as CUDA graphs equal ordinary ones; the eager path of ops equals the registered one on a GPU."""

import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan.engine import loss_graph
from fastgan.engine.loss_graph import ORDINARY_RUNS, reasons
from fastgan.nn import spectral_norm
from fastgan.ops import _library
from fastgan.testing.case import cotangent, detached
from fastgan.testing.cases import CASES

STEPS = ORDINARY_RUNS + 5


def network(norm=False):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 1),
    ).cuda()  # fmt: skip
    return fastgan.fuse(spectral_norm(net) if norm else net)


def images(seed):
    return torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).cuda()


PENALTIES = {
    "gradient_penalty": lambda net, x: fastgan.gradient_penalty(
        net, *x, epsilon=torch.full((8, 1, 1, 1), 0.3, device="cuda")
    ),
    "r1": lambda net, x: fastgan.r1(net, x[0]),
    "r2": lambda net, x: fastgan.r2(net, x[1]),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "spectral"])
@pytest.mark.parametrize("name", PENALTIES)
def test_replays_equal_ordinary_runs(name, norm, dtype, monkeypatch):
    networks = {"replayed": network(norm)}
    networks["ordinary"] = copy.deepcopy(networks["replayed"])
    optimizers = {key: torch.optim.Adam(net.parameters(), 1e-3) for key, net in networks.items()}
    for step in range(STEPS):
        losses = {}
        for key, net in networks.items():
            monkeypatch.setattr(loss_graph, "on_gpu", lambda images, key=key: key == "replayed")
            optimizers[key].zero_grad()
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                losses[key] = PENALTIES[name](net, images(step))
            (2 * losses[key]).backward()
            optimizers[key].step()
        torch.testing.assert_close(losses["replayed"], losses["ordinary"], rtol=2e-3, atol=1e-4)
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if dtype else {"rtol": 1e-3, "atol": 1e-4}
    for ours, plain in zip(networks["replayed"].parameters(), networks["ordinary"].parameters(), strict=True):
        torch.testing.assert_close(ours, plain, **tolerance)
    assert reasons(networks["replayed"]) == {name: ""}
    (graph,) = loss_graph._graphs[networks["replayed"]].values()
    assert graph.captures == 1


def test_losses_of_a_step_in_one_backward_pass():
    net = network()
    for step in range(STEPS):
        real, fake = images(step)
        net.zero_grad()
        (net(fake).mean() - net(real).mean() + fastgan.r1(net, real) + fastgan.r2(net, fake)).backward()
        found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_graph, "on_gpu", lambda images: False)
        (net(fake).mean() - net(real).mean() + fastgan.r1(net, real) + fastgan.r2(net, fake)).backward()
    for ours, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=2e-3, atol=1e-4)


def test_dropout_draws_anew_in_each_replay():
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.Dropout(0.5), nn.LeakyReLU(0.2), nn.Linear(64, 1)).cuda()
    x = images(0)[0]
    values = {fastgan.r1(net, x).item() for _ in range(STEPS)}
    assert len(values) == STEPS
    assert reasons(net) == {"r1": ""}


@pytest.mark.parametrize("case", [case for case in CASES if case.core], ids=str)
def test_the_eager_path_equals_the_registered_one(case, monkeypatch):
    inputs = case.inputs(torch.float32, "cuda")

    def run():
        own = detached(inputs)
        y = case.call(*own)
        return [y, *torch.autograd.grad(y, own, cotangent(y))]

    run()  # the first launches are Triton's own, the next use what it compiled
    ours = run()
    monkeypatch.setattr(_library, "describe", lambda args: (None, []))
    for a, b in zip(ours, run(), strict=True):
        torch.testing.assert_close(a, b)
