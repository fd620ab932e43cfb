"""Convolutions where a GPU differs from the interpreter: tensor cores, graphs, streams, and kernel selection."""

import math
import time

import pytest
import torch

from fastgan import doctor
from fastgan.ops import ConvLayer, _autotune, _backend, conv2d_bias_act, conv2d_stack
from fastgan.ops._replay import milliseconds
from fastgan.ops.bias_act import reference as bias_act_reference
from fastgan.ops.conv import reference, triton
from fastgan.ops.conv.triton_configs import FLATTENED, configs, gpu, wgrad_configs
from fastgan.ops.conv.triton_launch import pixels_of_phases, wgrad
from fastgan.testing.tolerances import assert_as_good_as

# The discriminator of DCGAN at 64²: [N, C, H, W], [K, C, R, S], stride, padding.
LAYERS = {
    "first": ((16, 3, 64, 64), (64, 3, 4, 4), 2, 1),
    "second": ((16, 64, 32, 32), (128, 64, 4, 4), 2, 1),
    "third": ((16, 128, 16, 16), (256, 128, 4, 4), 2, 1),
    "fourth": ((16, 256, 8, 8), (512, 256, 4, 4), 2, 1),
    "last": ((16, 512, 4, 4), (1, 512, 4, 4), 1, 0),
}
ACT = ("leaky_relu", 0.2, 1.0, None)


def draw(name, dtype=torch.bfloat16):
    shape, weight, stride, padding = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    w = torch.randn(weight, generator=generator) / (weight[1] * weight[2] * weight[3]) ** 0.5
    b = torch.randn(weight[0], generator=generator)
    x, w = (t.to("cuda", dtype).contiguous(memory_format=torch.channels_last) for t in (x, w))
    return x, w, b.cuda(), ([stride] * 2, [padding] * 2, [1, 1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(_backend, "forced", "")
    _autotune._selector.cache_clear()
    yield _autotune.directory()
    _autotune._selector.cache_clear()


@pytest.mark.parametrize("name", LAYERS)
def test_every_config_on_the_layers_of_a_discriminator(name):
    x, w, b, options = draw(name)
    plain = reference.conv_bias_act(x, w, b, *options, 1, *ACT)
    truth = reference.conv_bias_act(x.double(), w.double(), b.double(), *options, 1, *ACT)
    dy = torch.randn_like(plain)
    arguments = (dy, w, x, *options, 1, *ACT, True)
    plain_dx, plain_db = reference.conv_dgrad_act(*arguments)
    doubles = (a.double() if isinstance(a, torch.Tensor) else a for a in arguments)
    true_dx, true_db = reference.conv_dgrad_act(*doubles)
    images, outputs, *size = plain.shape
    few, taps = x.shape[1] < FLATTENED, math.prod(w.shape[2:])
    saved = torch.randn_like(plain)

    def tangent(x, w, saved):
        return bias_act_reference.bias_act_grad(reference.conv(x, w, *options, 1), saved, None, *ACT, False)[0]

    plain_tangent, true_tangent = tangent(x, w, saved), tangent(x.double(), w.double(), saved.double())
    rows = images * math.prod(size)
    for config in configs(rows, outputs, x.shape[1] * taps, x.dtype, gpu(0), few=few, pad=few):
        assert_as_good_as(triton.forward(x, w, b, *options, *ACT, config), plain, truth, what=f"y, {config}")
        ours = triton.forward(x, w, None, *options, *ACT, config, saved)
        assert_as_good_as(ours, plain_tangent, true_tangent, what=f"tangent, {config}")
    plain_dw = reference.conv_wgrad(dy, x, list(w.shape[2:]), *options, 1, True)
    true_dw = reference.conv_wgrad(dy.double(), x.double(), list(w.shape[2:]), *options, 1, True)
    for config in wgrad_configs(rows, outputs, x.shape[1], taps, x.dtype, gpu(0)):
        dws = [wgrad(dy, x, list(w.shape[2:]), *options, True, config) for _ in range(2)]
        assert torch.equal(*dws), config
        assert_as_good_as(dws[0], plain_dw, true_dw, terms=rows, what=f"dw, {config}")
    few, rows = outputs < FLATTENED, math.prod(pixels_of_phases(dy, list(x.shape[2:]), options[0]))
    for config in configs(rows, x.shape[1], outputs * taps, x.dtype, gpu(0), few=few, pad=few, widest=128):
        runs = [triton.backward(dy, w, list(x.shape[2:]), *options, config, x, ACT, True) for _ in range(2)]
        for first, second in zip(*runs, strict=True):
            assert torch.equal(first, second), config
        dx, db = runs[0]
        assert_as_good_as(dx, plain_dx, true_dx, what=f"dx, {config}")
        assert_as_good_as(db, plain_db, true_db, terms=dx.numel() // dx.shape[1], what=f"db, {config}")


def stack():
    layers = []
    for name in ("first", "second", "third"):
        _, w, b, (stride, padding, _) = draw(name)
        layers.append(ConvLayer(w.requires_grad_(), b.requires_grad_(), stride, padding))
    x = draw("first")[0].requires_grad_()
    return x, layers, [x, *(layer.weight for layer in layers), *(layer.bias for layer in layers)]


def step(x, layers, leaves):
    y = conv2d_stack(x, layers)
    # Detached: an autograd graph that is kept would keep its stream for the next run.
    return y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))


def test_a_kernel_is_measured_once_and_doctor_lists_it(own_cache, monkeypatch):
    arguments = stack()
    expected = step(*arguments)
    (file,) = own_cache.glob("*.json")
    hardware, selections = _autotune.read(file)
    assert hardware == _autotune.hardware(0)
    assert {"conv_bias_act", "conv_dgrad", "conv_dgrad_act"} <= {key.split()[0] for key in selections}
    assert all(_autotune.WARMED in selection.milliseconds for selection in selections.values()), selections
    assert all(len(selection.milliseconds) > 1 for selection in selections.values()), selections
    assert not any("differs" in r for selection in selections.values() for r in selection.unavailable.values())
    assert all(key in doctor.kernel_choices() for key in selections)

    def forbidden(run, tensors):
        raise AssertionError("measured again")

    monkeypatch.setattr(_autotune, "milliseconds", forbidden)
    _autotune._selector.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(step(*arguments), expected, strict=True))


def test_nothing_waits_for_the_device(no_waiting):
    arguments = stack()
    step(*arguments)  # measures and compiles
    with no_waiting():
        step(*arguments)


@pytest.mark.parametrize("measured", [True, False])
def test_captures_in_a_cuda_graph(own_cache, measured, monkeypatch):
    # Weight gradients are cuDNN's, which are reproducible only in deterministic mode.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    arguments = stack()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = step(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    if not measured:
        _autotune._selector.cache_clear()
        for file in own_cache.iterdir():
            file.unlink()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*arguments)
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(captured, expected, strict=True):
        if measured:
            assert torch.equal(got, want)
        else:
            assert_as_good_as(got, want, want.double(), factor=2.0, terms=got.numel())
    assert measured or not list(own_cache.iterdir())


def test_contiguous_activations_run_in_cudnn_with_our_epilogue():
    x, w, b, _ = draw("second")
    x, w = x.contiguous(), w.contiguous()
    y = conv2d_bias_act(x, w, b, stride=2, padding=1)
    assert y.is_contiguous()
    truth = reference.conv_bias_act(x.double(), w.double(), b.double(), [2, 2], [1, 1], [1, 1], 1, *ACT)
    assert_as_good_as(y, reference.conv_bias_act(x, w, b, [2, 2], [1, 1], [1, 1], 1, *ACT), truth)
    assert not list(_autotune.directory().glob("*.json"))


def test_replayed_times_hold_no_host_time_and_grow_with_the_work():
    def slow_to_launch(x):
        time.sleep(0.002)
        return x + 1

    small, large = torch.ones(2**22, device="cuda"), torch.ones(2**26, device="cuda")
    few = milliseconds(slow_to_launch, (small,))
    assert few < 1
    assert 4 < milliseconds(slow_to_launch, (large,)) / few < 64


def test_a_run_that_no_graph_can_hold_is_named():
    def waits(x):
        return x + x.sum().item()

    with pytest.raises(_autotune.Uncapturable, match="cannot be captured"):
        milliseconds(waits, (torch.ones(4, device="cuda"),))
    assert torch.ones(4, device="cuda").sum().item() == 4
