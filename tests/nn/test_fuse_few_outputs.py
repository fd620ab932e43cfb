"""Convolutions with few output channels run as one that makes several pixels at once on a CPU."""

import copy

import pytest
import torch
from torch import nn

from fastgan.nn import fuse
from fastgan.nn.fusion import few_outputs
from fastgan.ops import _backend


@pytest.fixture(autouse=True)
def fused_on_a_cpu():
    """In place of the fixture of this name: PyTorch's operations run where no input gradient can follow."""


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(few_outputs, "LEAST_PRODUCTS", 1)


def counted(monkeypatch):
    calls, convolved = [], few_outputs.convolved
    monkeypatch.setattr(few_outputs, "convolved", lambda *args: calls.append(1) or convolved(*args))
    return calls


def pair(*args, **options):
    torch.manual_seed(0)
    plain, fused = nn.Conv2d(*args, **options), nn.Conv2d(*args, **options)
    fused.load_state_dict(plain.state_dict())
    return plain, fuse(fused)


@pytest.mark.skipif(_backend.forced not in ("", "cpp", "reference"), reason="a back-end is forced")
@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("options", "outputs"), [({}, 3), ({"padding": 3}, 1), ({"padding": (2, 0), "bias": False}, 4)]
)
def test_same_numbers_and_gradients(monkeypatch, block, layout, options, outputs):
    monkeypatch.setattr(few_outputs, "_block", lambda: block)
    calls = counted(monkeypatch)
    plain, fused = pair(5, outputs, 7, **options)
    x = nn.Parameter(torch.randn(2, 5, 14, 20 if options.get("padding") == 3 else 18).contiguous(memory_format=layout))
    expected, y = plain(x), fused(x)
    assert calls == [1]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last) or outputs == 1
    dy = torch.randn_like(expected)
    ours = torch.autograd.grad(y, (x, *fused.parameters()), dy)
    for own, true in zip(ours, torch.autograd.grad(expected, (x, *plain.parameters()), dy), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), y.detach())


@pytest.mark.parametrize(
    ("args", "options", "size"),
    [
        ((5, 5, 7), {}, 18), ((5, 3, 3), {}, 14), ((5, 3, 7), {"stride": 2}, 19), ((4, 4, 7), {"groups": 2}, 18),
        ((5, 3, 7), {"dilation": 2}, 20), ((5, 3, 7), {"padding_mode": "reflect", "padding": 3}, 16),
        ((5, 3, 7), {"padding": "same"}, 16), ((5, 3, 7), {}, 17), ((5, 3, (7, 3)), {}, 14),
    ],
    ids=str,
)  # fmt: skip
def test_others_run_as_they_are(monkeypatch, args, options, size):
    calls = counted(monkeypatch)
    plain, fused = pair(*args, **options)
    x = torch.randn(1, args[0], size, size)
    assert torch.equal(plain(x), fused(x))
    assert not calls


def test_half_precision_double_and_wrong_inputs(monkeypatch):
    calls = counted(monkeypatch)
    plain, fused = pair(5, 3, 7)
    x = torch.randn(1, 5, 18, 18)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(x), fused(x))
    assert torch.equal(plain.double()(x.double()), fused.double()(x.double()))
    with pytest.raises(RuntimeError, match="to have 5 channels"):
        fused.float()(torch.randn(1, 4, 18, 18))
    assert not calls
    monkeypatch.undo()
    small = pair(5, 3, 7)[1]
    assert not few_outputs.takes(small, x)  # too few products


def test_a_generators_last_convolution_and_penalties(monkeypatch):
    """In a network, as an activation follows; where an input gradient can follow, as before."""
    calls = counted(monkeypatch)
    layers = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(5, 3, 7), nn.Tanh())
    x = torch.randn(1, 5, 16, 16)
    expected = layers(x)
    torch.testing.assert_close(fuse(layers)(x), expected)
    assert calls == [1]
    layers(x.requires_grad_()).sum().backward()
    assert calls == [1]


@pytest.mark.parametrize("outputs", [3, 8])
def test_a_weight_that_a_norm_computes_is_read_once(outputs):
    """Each time that it is read, a spectral norm takes a step of its power iteration."""
    torch.manual_seed(0)
    plain = nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, outputs, 7, padding=3))
    fused = fuse(copy.deepcopy(plain))
    x = torch.randn(1, 16, 64, 64)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fused(x), plain(x))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(fused.named_buffers())[name], buffer)
