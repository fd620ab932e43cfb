"""StyleGAN2 compared with a plain implementation in float64, from the paper's formulas with weights of each sample."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.models.stylegan import Discriminator, Generator
from fastgan.testing.stylegan import randomize

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 6}


def generator(classes=0, clamp=None, **options):
    torch.manual_seed(0)
    network = Generator(5, classes, 7, conv_clamp=clamp, **SIZES | options).double().eval()
    return randomize(network)


def discriminator(classes=0, clamp=None, **options):
    torch.manual_seed(1)
    return randomize(Discriminator(classes, conv_clamp=clamp, **SIZES | options).double().eval())


def inputs(classes, n=4):
    z = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return z, (torch.arange(n) % classes if classes else None)


# --- the plain implementation -----------------------------------------------------------------------------------------


def dense(state, name, x, multiplier=1.0, act=False):
    x = x @ (state[f"{name}.weight"] * multiplier / x.shape[1] ** 0.5).T + state[f"{name}.bias"] * multiplier
    return F.leaky_relu(x, 0.2) * 2**0.5 if act else x


def normalized(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def mapped(state, z, c, classes, prefix="mapping"):
    parts = [] if z is None else [normalized(z)]
    if classes:
        parts.append(normalized(dense(state, f"{prefix}.embed", F.one_hot(c, classes).double())))
    w = torch.cat(parts, 1)
    i = 0
    while f"{prefix}.fc{i}.weight" in state:
        w = dense(state, f"{prefix}.fc{i}", w, 0.01, act=True)
        i += 1
    return w


def blurred(x, taps, padding, gain=1.0):
    """Correlation with the flipped filter, channel by channel."""
    kernel = (taps.flip(0, 1) * gain).expand(x.shape[1], 1, *taps.shape)
    return F.conv2d(F.pad(x, padding), kernel, groups=x.shape[1])


def zeros_between(x):
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, 2 * h, 2 * w)
    wide[:, :, ::2, ::2] = x
    return wide


def modulated(state, name, x, w, up=False, colors=False):
    weight, style = state[f"{name}.weight"], dense(state, f"{name}.affine", w)
    if colors:
        style = style / weight.shape[1] ** 0.5
    images = []
    for sample, s in zip(x.split(1), style, strict=True):
        own = weight * s[:, None, None]
        if not colors:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            wide = F.conv_transpose2d(sample, own.transpose(0, 1), stride=2)
            images.append(blurred(wide, state[f"{name}.resample_filter"], (1, 1, 1, 1), 4.0))
        else:
            images.append(F.conv2d(sample, own, padding=own.shape[-1] // 2))
    return torch.cat(images)


def limited(x, clamp, gain=1.0):
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def synthesized(state, rows, noise, clamp=None):
    """rows: w [N, num_ws, w_dim]. noise: whether that of the buffers is added."""
    x, image, row, side = None, None, 0, 4
    while f"synthesis.b{side}.torgb.weight" in state:
        block = f"synthesis.b{side}"
        if x is None:
            x = state[f"{block}.const"].expand(len(rows), -1, -1, -1)
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            name = f"{block}.{conv}"
            x = modulated(state, name, x, rows[:, row], up=conv == "conv0")
            if noise:
                x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
            x = limited(F.leaky_relu(x + state[f"{name}.bias"][:, None, None], 0.2) * 2**0.5, clamp)
            row += 1
        colors = modulated(state, f"{block}.torgb", x, rows[:, row], colors=True)
        colors = limited(colors + state[f"{block}.torgb.bias"][:, None, None], clamp)
        if image is not None:
            colors = colors + blurred(zeros_between(image), state[f"{block}.resample_filter"], (2, 1, 2, 1), 4.0)
        image, side = colors, 2 * side
    return image


def conv(state, name, x, act=True, gain=1.0, down=False, clamp=None):
    weight = state[f"{name}.weight"]
    weight = weight / weight[0].numel() ** 0.5
    pad = weight.shape[-1] // 2
    if down:
        pad = pad + 1
        x = F.conv2d(blurred(x, state[f"{name}.resample_filter"], (pad,) * 4), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=pad)
    if not act:
        return x * gain
    return limited(F.leaky_relu(x + state[f"{name}.bias"][:, None, None], 0.2) * 2**0.5 * gain, clamp, gain)


def judged(state, x, c, classes, group, residual=True, clamp=None):
    side = x.shape[-1]
    x = conv(state, f"b{side}.fromrgb", x, clamp=clamp)
    while side > 4:
        inner = conv(state, f"b{side}.conv0", x, clamp=clamp)
        gain = 0.5**0.5 if residual else 1.0
        inner = conv(state, f"b{side}.conv1", inner, gain=gain, down=True, clamp=clamp)
        x = inner + conv(state, f"b{side}.skip", x, act=False, gain=gain, down=True) if residual else inner
        side //= 2
    std = torch.empty(len(x), 1, 4, 4, dtype=x.dtype)
    groups = len(x) // group
    for i in range(groups):
        own = x[i::groups]
        std[i::groups] = (own.var(0, correction=0) + 1e-8).sqrt().mean()
    x = conv(state, "b4.conv", torch.cat([x, std], 1), clamp=clamp)
    x = dense(state, "b4.out", dense(state, "b4.fc", x.flatten(1), act=True))
    if not classes:
        return x[:, 0]
    return (x * mapped(state, None, c, classes)).sum(1) / x.shape[1] ** 0.5


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("resolution", [4, 32])
def test_generator_equals_a_plain_implementation(classes, resolution, clamp):
    network = generator(classes, clamp, img_resolution=resolution)
    z, c = inputs(classes)
    state = network.state_dict()
    w = mapped(state, z, c, classes)
    rows = w[:, None].expand(-1, network.num_ws, -1)
    torch.testing.assert_close(network.mapping(z, c), rows)
    for mode in ("const", "none"):
        torch.testing.assert_close(network(z, c, noise_mode=mode), synthesized(state, rows, mode == "const", clamp))
    if classes:
        torch.testing.assert_close(network(z, F.one_hot(c, classes).float()), network(z, c))


def test_each_layer_has_a_row_of_w():
    network = generator()
    assert network.num_ws == 6
    w = torch.randn(2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(network.synthesis(w), synthesized(network.state_dict(), w, True))


def test_truncation():
    network = generator()
    z, _ = inputs(0)
    w, average = network.mapping(z), network.mapping.w_avg
    half = average + 0.5 * (w - average)
    torch.testing.assert_close(network.mapping(z, truncation_psi=0.5), half)
    torch.testing.assert_close(network.mapping(z, truncation_psi=torch.tensor(0.5).double()), half)
    some = network.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(some, torch.cat([half[:, :2], w[:, 2:]], 1))
    torch.testing.assert_close(network(z, None, 0.5, 2), network.synthesis(some))


def test_w_avg_follows_w_in_training_mode_only():
    network = generator(mapping_kwargs={"w_avg_beta": 0.9})
    z, _ = inputs(0)
    before = network.mapping.w_avg.clone()
    network(z)
    assert torch.equal(network.mapping.w_avg, before)
    w = network.mapping(z)[:, 0]
    network.train()
    network(z)
    torch.testing.assert_close(network.mapping.w_avg, 0.9 * before + 0.1 * w.mean(0))


def test_noise_modes():
    network = generator()
    z, _ = inputs(0)
    assert torch.equal(network(z), network(z, noise_mode="const"))  # the default in evaluation mode
    torch.manual_seed(3)
    drawn = network(z, noise_mode="random")
    assert not torch.equal(drawn, network(z, noise_mode="random"))
    network.train()
    torch.manual_seed(3)
    torch.testing.assert_close(network(z), drawn)  # the default in training mode
    # The first layer adds normal noise times its strength, another map to each sample, the same to all its channels.
    layer = network.synthesis.b4.conv1
    with torch.no_grad():
        layer.bias.fill_(100.0)  # all values are above zero, where the activation multiplies by √2
    seen = []
    layer.register_forward_hook(lambda module, given, output: seen.append(output / 2**0.5))
    for mode in ["none"] + ["random"] * 50:
        network(z, noise_mode=mode)
    added = (torch.stack(seen[1:]) - seen[0]) / layer.noise_strength  # [50, N, C, 4, 4]
    assert added.mean().abs() < 0.1
    assert added.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(added[:, :, 0], added[:, :, 5])
    assert (added[:, 0] * added[:, 1]).mean().abs() < 0.1
    with pytest.raises(UsageError, match="noise_mode: expected one of random, const, none, got 'constant'"):
        network(z, noise_mode="constant")


def test_gradients_of_the_generator():
    network = generator()
    z, _ = inputs(0)
    own = copy.deepcopy(network)
    plain = {name: tensor.clone().requires_grad_() for name, tensor in network.state_dict().items()}
    rows = mapped(plain, z, None, 0)[:, None].expand(-1, network.num_ws, -1)
    cotangent = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    names = [name for name, _ in own.named_parameters()]
    expected = torch.autograd.grad((synthesized(plain, rows, True) * cotangent).sum(), [plain[name] for name in names])
    got = torch.autograd.grad((own(z) * cotangent).sum(), list(own.parameters()))
    for name, a, b in zip(names, got, expected, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_second_derivatives_of_the_generator():
    """Those of path length regularization (arXiv:1912.04958, section 3.2): the norm of the gradient by w."""
    network = generator(img_resolution=8)
    w = torch.randn(2, network.num_ws, 7, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    state = network.state_dict()
    plain = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    names = [name for name, _ in network.synthesis.named_parameters(prefix="synthesis")]

    def penalty(images, weights):
        (slope,) = torch.autograd.grad((images * direction).sum(), w, create_graph=True)
        value = slope.square().sum(2).mean(1).sqrt().sum()
        return torch.autograd.grad(value, weights, allow_unused=True)

    expected = penalty(synthesized(plain, w, True), [plain[name] for name in names])
    got = penalty(network.synthesis(w), list(network.synthesis.parameters()))
    for name, a, b in zip(names, got, expected, strict=True):
        zero = torch.zeros_like(plain[name])
        torch.testing.assert_close(
            zero if a is None else a, zero if b is None else b, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- the discriminator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "residual", "clamp"), [(4, True, None), (2, True, 0.5), (2, False, None)])
@pytest.mark.parametrize("classes", [0, 3])
def test_discriminator_equals_a_plain_implementation(classes, group, residual, clamp):
    """With R1's derivatives: of the squared gradient by images, for every weight."""
    network = discriminator(
        classes, clamp, architecture="resnet" if residual else "orig", epilogue_kwargs={"mbstd_group_size": group}
    )
    _, c = inputs(classes)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    plain = {name: tensor.clone().requires_grad_() for name, tensor in network.state_dict().items()}
    names = [name for name, _ in network.named_parameters()]

    def derivatives(logits, weights):
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return slope, *torch.autograd.grad(slope.square().sum() + logits.sum(), weights, allow_unused=True)

    expected, got = judged(plain, x, c, classes, group, residual, clamp), network(x, c)
    assert got.shape == (4,)
    torch.testing.assert_close(got, expected)
    pairs = zip(
        ["x", *names],
        derivatives(got, list(network.parameters())),
        derivatives(expected, [plain[name] for name in names]),
        strict=True,
    )
    for name, a, b in pairs:
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_frozen_layers_are_those_next_to_the_image():
    network = discriminator(block_kwargs={"freeze_layers": 5})
    frozen = {
        name.removesuffix(".weight").removesuffix(".bias")
        for name, p in network.named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0"}


# --- arguments, initialization ----------------------------------------------------------------------------------------


def test_initialization():
    """Every layer keeps the scale: images of a new generator and logits of a new discriminator are about 1."""
    torch.manual_seed(0)
    network = Generator(64, 0, 64, 64, 3, channel_max=64)
    assert network.mapping.fc0.weight.std().item() == pytest.approx(100, rel=0.1)
    z = torch.randn(64, 64)
    assert network.mapping(z).std().item() == pytest.approx(1, rel=0.3)
    with torch.no_grad():
        assert 0.5 < network(z[:8]).std() < 5
        assert 0.2 < Discriminator(0, 64, 3, channel_max=64)(torch.randn(8, 3, 64, 64)).abs().mean() < 5
    assert all(layer.bias.eq(1).all() for name, layer in network.named_modules() if name.endswith("affine"))


def test_channels_by_resolution():
    with torch.device("meta"):
        network = Generator(512, 0, 512, 1024, 3)
        other = Discriminator(0, 1024, 3)
    assert [network.get_submodule(f"synthesis.b{4 << i}.conv1").weight.shape[0] for i in range(9)] == (
        [512] * 5 + [256, 128, 64, 32]
    )
    # The paper's networks at 1024×1024 have 30.0 and 29.0 million parameters (arXiv:1912.04958's code).
    count = [sum(p.numel() for p in net.parameters()) for net in (network, other)]
    assert count == [30_370_060, 29_012_513]


ERRORS = [
    (Generator, {"img_resolution": 24}, "powers of two from 4, got 24; give 16 or 32"),
    (Discriminator, {"img_resolution": 4}, "powers of two from 8, got 4; give 8 or 16"),
    (
        Generator,
        {"architecture": "resnet"},
        "architecture: StyleGAN2's synthesis network supports 'skip', got 'resnet'",
    ),
    (Generator, {"blur": 1}, "blur: not an option of StyleGAN2's synthesis network"),
    (Generator, {"mapping_kwargs": {"activation": "relu"}}, "activation: StyleGAN's mapping network supports 'lrelu'"),
    (Generator, {"channel_base": 8}, "channel_base: expected a number >= img_resolution 16, got 8"),
    (Discriminator, {"architecture": "skip"}, "architecture: StyleGAN2's discriminator supports 'resnet' or 'orig'"),
    (Discriminator, {"epilogue_kwargs": {"mbstd_num_channels": 2}}, "mbstd_num_channels: StyleGAN2's discriminator"),
]


@pytest.mark.parametrize(("network", "options", "message"), ERRORS)
def test_unsupported_arguments_are_errors(network, options, message):
    with pytest.raises(UsageError) as error:
        network(*((5, 0, 7) if network is Generator else (0,)), **SIZES | options)
    assert message in str(error.value)


def test_arguments_of_files_that_change_no_number_are_accepted():
    plain, same = (
        Generator(5, 0, 7, **SIZES, **options)
        for options in ({}, {"fused_modconv_default": "inference_only", "fp16_channels_last": True, "num_fp16_res": 0})
    )
    assert plain.state_dict().keys() == same.state_dict().keys()
    assert math.prod(plain.image_shape) == 768


def test_wrong_inputs_are_errors():
    network, other = generator(3), discriminator()
    with pytest.raises(UsageError, match="c: expected labels, int64"):
        network(torch.randn(2, 5).double())
    with pytest.raises(UsageError, match="c: the network was built with classes=0"):
        other(torch.zeros(2, 3, 16, 16).double(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"x: expected images \[N, 3, 16, 16\], got \[2, 3, 8, 8\]"):
        other(torch.zeros(2, 3, 8, 8).double())
    with pytest.raises(UsageError, match=r"w: expected \[N, 6, w_dim\], got \[2, 5, 7\]"):
        network.synthesis(torch.zeros(2, 5, 7).double())
