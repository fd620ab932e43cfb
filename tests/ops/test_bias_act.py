"""bias_act: errors that name the argument, closed forms, and the selected back-end."""

import math

import pytest
import torch

from fastgan.ops import ACTIVATIONS, _backend, bias_act
from fastgan.ops._library import registry
from fastgan.testing.op_recorder import OpRecorder
from fastgan.testing.targets import targets

BACKENDS = [target.backend for target in targets() if target.device == "cpu"]
X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((None,), {}, TypeError, "x: expected a floating tensor, got <class 'NoneType'>"),
        ((X.int(),), {}, TypeError, r"x: expected a floating tensor, got torch\.int32"),
        ((X[0, 0, 0],), {}, ValueError, r"x: expected \[N, C, \*\], got \[4\]"),
        ((X,), {"act": "gelu"}, ValueError, "act: expected one of linear, relu, .*, got 'gelu'"),
        ((X,), {"alpha": -0.1}, ValueError, r"alpha: expected a slope >= 0, got -0\.1"),
        ((X,), {"gain": 0.0}, ValueError, "gain: expected a number > 0, got 0"),
        ((X,), {"gain": math.nan}, ValueError, "gain: expected a number > 0, got nan"),
        ((X,), {"clamp": 0.0}, ValueError, "clamp: expected None or a number > 0, got 0"),
        ((X, torch.zeros(4)), {}, ValueError, r"bias: expected \[3\], the channels of x \[2, 3, 4, 4\], got \[4\]"),
        ((X, torch.zeros(3, 1)), {}, ValueError, r"bias: expected \[3\].*, got \[3, 1\]"),
        ((X, torch.zeros(3, device="meta")), {}, ValueError, "bias: expected on x's device cpu, got meta"),
        ((X, torch.zeros(3).double()), {}, TypeError, r"bias: expected x's dtype torch.float32.*, got torch.float64"),
        ((X.double(), torch.zeros(3)), {}, TypeError, r"bias: expected x's dtype torch.float64, got torch.float32"),
        ((X.half(), torch.zeros(3).bfloat16()), {}, TypeError, r"torch.float16 or float32, got torch.bfloat16"),
    ],
)
def test_errors_name_the_argument(args, options, error, message):
    with pytest.raises(error, match=message):
        bias_act(*args, **options)


VALUES = [-100.0, -20.0, -2.0, -0.25, -1e-6, 0.0, 1e-6, 0.25, 2.0, 20.0, 100.0]


def _logistic(p):
    return 1 / (1 + math.exp(-p)) if p > -700 else 0.0


CLOSED = {
    "linear": lambda p: p,
    "relu": lambda p: max(p, 0.0),
    "leaky_relu": lambda p: p if p > 0 else 0.2 * p,
    "tanh": math.tanh,
    "sigmoid": _logistic,
    "silu": lambda p: p * _logistic(p),
    "softplus": lambda p: max(p, 0.0) + math.log1p(math.exp(-abs(p))),
    "elu": lambda p: p if p > 0 else 0.2 * math.expm1(p),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 1e-14)], ids=str)
def test_values(monkeypatch, backend, act, dtype, tolerance):
    monkeypatch.setattr(_backend, "forced", backend)
    # Relative to each value, so that small results count. Values below float32's range may be its smallest number.
    y = bias_act(torch.tensor([VALUES], dtype=dtype).view(1, 1, -1), act=act)
    expected = torch.tensor([CLOSED[act](p) for p in VALUES], dtype=torch.float64)
    floor = 1e-30 if dtype == torch.float32 else 1e-200
    torch.testing.assert_close(y.double().flatten(), expected, rtol=tolerance, atol=floor)


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_of_steps(monkeypatch, backend):
    monkeypatch.setattr(_backend, "forced", backend)
    x = torch.tensor([[[-3.0, -1.0, 0.0, 1.0, 3.0]]])
    y = bias_act(x, torch.tensor([-0.5]), "leaky_relu", alpha=0.1, gain=4.0, clamp=1.5)
    # −3.5, −1.5 and −0.5 times the slope 0.1, then 0.5 and 2.5; all times the gain 4; then clamped.
    torch.testing.assert_close(y, torch.tensor([[[-1.4, -0.6, -0.2, 1.5, 1.5]]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_slopes_at_the_kinks(monkeypatch, backend):
    monkeypatch.setattr(_backend, "forced", backend)
    x = torch.tensor([[[0.0, -0.0, 2.0, -2.0, 1.9, 5.0]]], requires_grad=True)
    (dx,) = torch.autograd.grad(bias_act(x, act="leaky_relu", alpha=1.0, clamp=2.0).sum(), x)
    assert dx.flatten().tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    (dx,) = torch.autograd.grad(bias_act(x, act="relu").sum(), x)
    assert dx.flatten().tolist() == [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once(act, dtype):
    torch.manual_seed(0)
    x, b = torch.randn(4, 3, 50).to(dtype), torch.randn(3).to(dtype)
    once = bias_act(x.float(), b.float(), act, gain=1.3, clamp=0.9).to(dtype)
    # Two back-ends may differ by an ulp of float32, which rarely changes the rounded value.
    different = bias_act(x, b, act, gain=1.3, clamp=0.9) != once
    assert different.sum() <= 2


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_returns_a_new_tensor(act):
    x = torch.randn(2, 3, 4, 4)
    assert bias_act(x, act=act).data_ptr() != x.data_ptr()


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5, 6)])
def test_any_number_of_dimensions(shape):
    x, b = torch.randn(shape, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = torch.tanh(x + b.view(1, -1, *[1] * (len(shape) - 2)))
    torch.testing.assert_close(bias_act(x, b, "tanh"), expected)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="the C++ kernels were not built")
def test_the_cpp_kernels_run_on_the_cpu_by_default(monkeypatch):
    # With FASTGAN_BACKEND unset, the first kernel that supports the arguments runs.
    monkeypatch.setattr(_backend, "forced", "")
    kernel = registry["bias_act"].kernels[0]
    assert kernel.name == "cpp"
    assert kernel.why_not(X) is None
    assert "float32 and float64" in kernel.why_not(X.half())


def test_one_call_forward_one_call_backward():
    x, b = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    with OpRecorder() as calls:
        bias_act(x, b).sum().backward()
    assert calls.counts() == {"bias_act": 1, "bias_act_grad": 1}
