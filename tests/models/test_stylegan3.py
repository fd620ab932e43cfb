"""StyleGAN3 compared with a plain implementation in float64, and its filters with scipy's."""

import math

import pytest
import torch
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.stylegan import Generator3
from fastgan.models.stylegan.filters import kaiser_low_pass
from fastgan.testing.stylegan import randomize

R = {"conv_kernel": 1, "use_radial_filters": True}


def generator(**options):
    torch.manual_seed(0)
    network = Generator3(5, 0, 7, 20, 3, channel_base=64, channel_max=6, num_layers=5, conv_clamp=0.5, **options)
    randomize(network.double().eval())
    network.synthesis.input.transform[2] = torch.tensor([0.0, 0.0, 1.0])  # a affine transform of the plane
    return network


def dense(state, name, x):
    return x @ (state[f"{name}.weight"] / x.shape[1] ** 0.5).T + state[f"{name}.bias"]


def filtered(x, taps):
    """Convolution of each channel with a filter that is symmetric or not."""
    if taps is None:
        return x
    taps = torch.outer(taps, taps) if taps.dim() == 1 else taps
    return F.conv2d(x, taps.flip(0, 1).expand(x.shape[1], 1, *taps.shape), groups=x.shape[1])


def plain(state, synthesis, rows):
    w = rows[:, 0]
    t = dense(state, "input.affine", w)
    cos, sin, dx, dy = (t / t[:, :2].norm(dim=1, keepdim=True)).T
    band = synthesis.input.band
    at = (torch.arange(band.size).double() + 0.5 - band.size / 2) / band.rate
    y, x = torch.meshgrid(at, at, indexing="ij")
    # The position of every pixel is transformed, not the frequencies.
    points = torch.einsum("ij,jhw->ihw", state["input.transform"], torch.stack([x, y, torch.ones_like(x)]))
    images = []
    for i in range(len(w)):
        px, py = points[0] - dx[i], points[1] - dy[i]
        px, py = cos[i] * px - sin[i] * py, sin[i] * px + cos[i] * py
        freqs = state["input.freqs"]
        angle = freqs[:, 0, None, None] * px + freqs[:, 1, None, None] * py + state["input.phases"][:, None, None]
        turned = freqs @ _turn(cos[i], sin[i]) @ state["input.transform"][:2, :2]
        fade = (1 - (turned.norm(dim=1) - band.cutoff) / (band.rate / 2 - band.cutoff)).clamp(0, 1)
        images.append(torch.sin(2 * math.pi * angle) * fade[:, None, None])
    x = torch.einsum("oi,nihw->nohw", state["input.weight"] / band.channels**0.5, torch.stack(images))
    for i, name in enumerate(synthesis.layers):
        layer, weight = synthesis.get_submodule(name), state[f"{name}.weight"]
        colors, style = i == len(synthesis.layers) - 1, dense(state, f"{name}.affine", rows[:, i + 1])
        outputs = []
        for sample, s in zip(x.split(1), style, strict=True):
            own = weight * s[:, None, None]
            own = own / weight[0].numel() ** 0.5 if colors else own / (own.square().sum((1, 2, 3), True) + 1e-8).sqrt()
            outputs.append(F.conv2d(sample / state[f"{name}.magnitude_ema"].sqrt(), own, padding=own.shape[-1] - 1))
        x = torch.cat(outputs) + state[f"{name}.bias"][:, None, None]
        wide = x.new_zeros(*x.shape[:2], *(layer.up * side for side in x.shape[2:]))
        wide[:, :, :: layer.up, :: layer.up] = x
        x = filtered(F.pad(wide, layer.padding), state.get(f"{name}.up_filter")) * layer.up**2
        x = (x if colors else F.leaky_relu(x, 0.2) * 2**0.5).clamp(-0.5, 0.5)
        x = filtered(x, state.get(f"{name}.down_filter"))[:, :, :: layer.down, :: layer.down]
    return x / 4


def _turn(cos, sin):
    return torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])


@pytest.mark.parametrize("options", [{}, R], ids=["t", "r"])
def test_generator_equals_a_plain_implementation(options):
    network = generator(**options)
    rows = torch.randn(2, network.num_ws, 7, dtype=torch.float64)
    state = {name: tensor.clone().requires_grad_() for name, tensor in network.synthesis.state_dict().items()}
    got, expected = network.synthesis(rows), plain(state, network.synthesis, rows)
    assert got.shape == (2, 3, 20, 20)
    torch.testing.assert_close(got, expected)
    names = [name for name, _ in network.synthesis.named_parameters()]
    direction = torch.randn_like(got)
    of_got = torch.autograd.grad((got * direction).sum(), list(network.synthesis.parameters()))
    of_expected = torch.autograd.grad((expected * direction).sum(), [state[name] for name in names])
    for name, a, b in zip(names, of_got, of_expected, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("options", [{}, R], ids=["t", "r"])
def test_second_derivatives_of_the_generator(options):
    """Those of path length regularization (arXiv:1912.04958, section 3.2): the norm of the gradient by w."""
    network = generator(**options)
    rows = torch.randn(2, network.num_ws, 7, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 3, 20, 20, dtype=torch.float64)
    state = {name: tensor.clone().requires_grad_() for name, tensor in network.synthesis.state_dict().items()}
    names = [name for name, _ in network.synthesis.named_parameters()]

    def penalty(synthesis, w, direction, weights):
        (slope,) = torch.autograd.grad((synthesis(w) * direction).sum(), w, create_graph=True)
        value = slope.square().sum(2).mean(1).sqrt().sum()
        return torch.autograd.grad(value, weights, allow_unused=True)

    def vector(gradients):
        shapes = [state[name] for name in names]
        zeros = (torch.zeros_like(a) if g is None else g for g, a in zip(gradients, shapes, strict=True))
        return torch.cat([g.double().flatten() for g in zeros])

    expected = penalty(lambda w: plain(state, network.synthesis, w), rows, direction, [state[name] for name in names])
    got = penalty(network.synthesis, rows, direction, list(network.synthesis.parameters()))
    torch.testing.assert_close(vector(got), vector(expected))
    network.float()
    rows, direction = rows.detach().float().requires_grad_(), direction.float()
    single = vector(penalty(network.synthesis, rows, direction, list(network.synthesis.parameters())))
    assert (single - vector(expected)).norm() < 1e-5 * vector(expected).norm()


def test_names_of_layers():
    with torch.device("meta"):
        network = Generator3(512, 0, 512, 16, 3, channel_base=64, channel_max=8)
    assert network.synthesis.layers[:3] == ["L0_36_8", "L1_36_8", "L2_36_8"]
    assert network.synthesis.layers[-3:] == ["L12_36_4", "L13_16_4", "L14_16_3"]
    assert network.num_ws == 16


@pytest.mark.parametrize("taps", [6, 12, 7])
def test_filters_equal_scipy_s(taps):
    signal = pytest.importorskip("scipy.signal")
    special = pytest.importorskip("scipy.special")
    expected = signal.firwin(taps, 3.0, width=4.0, fs=16.0)
    torch.testing.assert_close(kaiser_low_pass(taps, 3.0, 4.0, 16.0), torch.from_numpy(expected).float())
    at = (torch.arange(taps).double() - (taps - 1) / 2) / 16
    radius = torch.hypot(at[:, None], at[None]).clamp(min=1e-9)
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 0.5))
    window = torch.from_numpy(signal.get_window(("kaiser", beta), taps, fftbins=False))
    jinc = torch.from_numpy(special.j1(2 * math.pi * 3.0 * radius.numpy())) / radius * torch.outer(window, window)
    torch.testing.assert_close(kaiser_low_pass(taps, 3.0, 4.0, 16.0, radial=True), (jinc / jinc.sum()).float())


def test_filters_pass_low_and_stop_high_frequencies():
    for radial in (False, True):
        taps = kaiser_low_pass(24, 3.0, 4.0, 16.0, radial)
        row = taps.sum(1) if radial else taps
        response = torch.fft.rfft(row, 256).abs()  # frequencies 0 to 8
        assert response[0].item() == pytest.approx(1, abs=1e-6)
        assert response[:12].min() > 0.9
        assert response[90:].max() < 0.05


def test_magnitude_ema_follows_the_squares_of_inputs_in_training_mode():
    network = generator()
    layer = network.synthesis.get_submodule(network.synthesis.layers[1])
    seen = []
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].square().mean()))
    before = layer.magnitude_ema.clone()
    network(torch.randn(2, 5).double())
    assert torch.equal(layer.magnitude_ema, before)
    network.train()(torch.randn(2, 5).double())
    torch.testing.assert_close(layer.magnitude_ema, 0.999 * before + 0.001 * seen[1].detach())


def test_unsupported_arguments_are_errors():
    for options, message in (
        ({"img_resolution": 15}, "resolution: stylegan3 supports any number from 16, got 15"),
        ({"conv_kernel": 5}, "conv_kernel: StyleGAN3's synthesis network supports 1 or 3, got 5"),
        ({"num_critical": 14}, "num_critical: expected a number from 0 to 13, got 14"),
        ({"channel_base": 8}, "channel_base: expected a number >= img_resolution 32, got 8"),
    ):
        with pytest.raises(UsageError) as error:
            Generator3(5, 0, 7, **{"img_resolution": 32, "img_channels": 3} | options)
        assert message in str(error.value)
