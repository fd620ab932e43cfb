"""What the convolutions offer the selection on a GPU, shown with fake tensors: keys, candidates, what these hold."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.ops import _autotune, _backend
from fastgan.ops._autotune import LIBRARY, WARMED
from fastgan.ops.conv import triton
from fastgan.ops.conv.triton_configs import Gpu

OPTIONS = ([2, 2], [1, 1], [1, 1], 1)
ACT = ("leaky_relu", 0.2, 1.0, None)


@pytest.fixture
def offered(monkeypatch):
    """(key, candidates, tensors) of each call of the selection."""
    calls = []
    monkeypatch.setattr(_backend, "forced", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(_autotune, "fastest", lambda device, key, runs, tensors: calls.append((key, runs(), tensors)))
    monkeypatch.setattr(triton, "_gpu", lambda x: Gpu(processors=132, shared=227 * 1024))
    return calls


def tensors(channels, dtype=torch.bfloat16, layout=torch.channels_last):
    """x, weight, bias, dy of a 4×4 convolution with stride 2."""
    make = {"device": "cuda", "dtype": dtype}
    images = {**make, "memory_format": layout}
    return (
        torch.empty(64, channels, 16, 16, **images),
        torch.empty(128, channels, 4, 4, **images),
        torch.empty(128, **make),
        torch.empty(64, 128, 8, 8, **images),
    )


def call_all(x, w, b, dy):
    triton.conv(x, w, *OPTIONS)
    triton.conv_bias_act(x, w, b, *OPTIONS, *ACT)
    triton.conv_slope(x, w, dy, *OPTIONS, *ACT)
    triton.conv_dgrad(dy, w, [16, 16], *OPTIONS)
    triton.conv_dgrad_act(dy, w, x, *OPTIONS, *ACT, True)
    triton.conv_wgrad(dy, x, [4, 4], *OPTIONS, True)


NAMES = ["conv", "conv_bias_act", "conv_slope", "conv_dgrad", "conv_dgrad_act", "conv_wgrad"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [3, 64])
def test_each_convolution_offers_the_library_twice_and_its_kernels(offered, channels, dtype):
    with FakeTensorMode():
        call_all(*tensors(channels, dtype))
    assert [key[0] for key, _, _ in offered] == NAMES
    for _, runs, _ in offered:
        assert {LIBRARY, WARMED} < set(runs)
        assert all(name.startswith("triton/") for name in set(runs) - {LIBRARY, WARMED})
    padded = {key[0] for key, runs, _ in offered if any(name.endswith("p") for name in runs)}
    assert padded == ({"conv", "conv_bias_act", "conv_slope", "conv_wgrad"} if channels == 3 else set())


def test_candidates_hold_no_tensors(monkeypatch):
    held = []

    def collect(name, tensors, options, supported, candidates, library, ours):
        held.extend(cell.cell_contents for run in (library, ours) for cell in run.__closure__ or ())

    monkeypatch.setattr(triton, "_run_fastest", collect)
    with FakeTensorMode():
        call_all(*tensors(64))
    assert held
    assert not [value for value in held if isinstance(value, torch.Tensor)]


def test_a_deterministic_run_does_not_let_cudnn_choose_by_time(offered, monkeypatch):
    with FakeTensorMode():
        x, w, _, _ = tensors(64)
        triton.conv(x, w, *OPTIONS)
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        triton.conv(x, w, *OPTIONS)
    (free, runs, _), (fixed, fixed_runs, _) = offered
    assert free != fixed
    assert set(runs) - set(fixed_runs) == {WARMED}


def test_cudnns_own_measurement_is_switched_on_for_one_call_only(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def library(x):
        assert torch.backends.cudnn.benchmark
        if x is None:
            raise ZeroDivisionError
        return x

    assert triton._with_benchmark(library, 3) == 3
    assert not torch.backends.cudnn.benchmark
    with pytest.raises(ZeroDivisionError):
        triton._with_benchmark(library, None)
    assert not torch.backends.cudnn.benchmark


def test_contiguous_tensors_and_groups_go_to_the_library(offered, monkeypatch):
    ran = []
    monkeypatch.setattr(triton.reference, "conv", lambda *args: ran.append(args))
    with FakeTensorMode():
        x, w, _, _ = tensors(64, layout=torch.contiguous_format)
        triton.conv(x, w, *OPTIONS)
        x, w, _, _ = tensors(64)
        triton.conv(x, w, *OPTIONS[:3], 2)
    assert len(ran) == 2
    assert not offered
