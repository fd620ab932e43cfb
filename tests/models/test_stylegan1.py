"""StyleGAN compared with a plain implementation in float64, from the paper's formulas; growing, training, inversion."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import Config, Trainer, editing, models
from fastgan.errors import UsageError
from fastgan.models.stylegan import Discriminator1, Generator1
from fastgan.nn.adaptive_instance_norm import adaptive_instance_norm
from fastgan.testing.stylegan import randomize

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 6}


def generator(classes=0, **options):
    torch.manual_seed(0)
    return randomize(Generator1(5, classes, 7, **SIZES | options).double().eval())


def discriminator(classes=0, **options):
    torch.manual_seed(1)
    return randomize(Discriminator1(classes, **SIZES | options).double().eval())


def inputs(classes, n=4):
    z = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return z, (torch.arange(n) % classes if classes else None)


def grown(network, stage, alpha):
    network.grow(stage, alpha)
    return network


# --- the plain implementation -----------------------------------------------------------------------------------------


def normalized(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def dense(state, name, x, multiplier=1.0):
    return x @ (state[f"{name}.weight"] * multiplier / x.shape[1] ** 0.5).T + state[f"{name}.bias"] * multiplier


def mapped(state, z, c, classes):
    parts = [normalized(z)]
    if classes:
        parts.append(normalized(dense(state, "mapping.embed", F.one_hot(c, classes).double())))
    w, i = torch.cat(parts, 1), 0
    while f"mapping.fc{i}.weight" in state:
        w = F.leaky_relu(dense(state, f"mapping.fc{i}", w, 0.01), 0.2) * 2**0.5
        i += 1
    return w


def blurred(state, name, x):
    kernel = state[f"{name}.resample_filter"].flip(0, 1).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def convolved(state, name, x, gain=2**0.5):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight * gain / weight[0].numel() ** 0.5, padding=weight.shape[-1] // 2)


def biased(state, name, x):
    return x + state[f"{name}.bias"][:, None, None]


def layer(state, name, x, w, noise):
    if f"{name}.weight" in state:
        if f"{name}.resample_filter" in state:
            x = blurred(state, name, convolved(state, name, x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
        else:
            x = convolved(state, name, x)
    if noise:
        x = x + state[f"{name}.noise_strength"][:, None, None] * state[f"{name}.noise_const"]
    x = F.leaky_relu(biased(state, name, x), 0.2)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    scale, shift = dense(state, f"{name}.affine", w)[:, :, None, None].chunk(2, 1)
    return (x - mean) / (variance + 1e-8).sqrt() * (1 + scale) + shift


def synthesized(state, rows, noise, stage, alpha=1.0):
    x = state["synthesis.const"].expand(len(rows), -1, -1, -1)
    images = []
    for i in range(stage + 1):
        for j in range(2):
            x = layer(state, f"synthesis.b{4 << i}.conv{j}", x, rows[:, 2 * i + j], noise)
        images.append(biased(state, f"synthesis.to_image.{i}", convolved(state, f"synthesis.to_image.{i}", x, 1.0)))
    if alpha == 1:
        return images[-1]
    return (1 - alpha) * images[-2].repeat_interleave(2, 2).repeat_interleave(2, 3) + alpha * images[-1]


def conv(state, name, x):
    return F.leaky_relu(biased(state, name, convolved(state, name, x)), 0.2)


def judged(state, image, c, classes, stage, alpha=1.0):
    x = conv(state, f"from_image.{stage}", image)
    for i in range(stage, 0, -1):
        x = conv(state, f"b{4 << i}.conv0", x)
        name = f"b{4 << i}.conv1"
        x = F.avg_pool2d(convolved(state, name, blurred(state, f"b{4 << i}", x)), 2)
        x = F.leaky_relu(biased(state, name, x), 0.2)
        if i == stage and alpha < 1:
            x = (1 - alpha) * conv(state, f"from_image.{i - 1}", F.avg_pool2d(image, 2)) + alpha * x
    std = (x.var(0, correction=0) + 1e-8).sqrt().mean()  # of a batch of four, one group
    x = conv(state, "b4.1", torch.cat([x, std.expand(len(x), 1, 4, 4)], 1)).flatten(1)
    x = F.leaky_relu(dense(state, "b4.3", x, 2**0.5) + state["b4.3.bias"] * (1 - 2**0.5), 0.2)
    logits = dense(state, "out", x)
    return logits[torch.arange(len(x)), c] if classes else logits[:, 0]


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "alpha"), [(2, 1.0), (2, 0.3), (1, 0.6), (0, 1.0)])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_equal_a_plain_implementation(classes, stage, alpha):
    network, judge = grown(generator(classes), stage, alpha), grown(discriminator(classes), stage, alpha)
    z, c = inputs(classes)
    state = network.state_dict()
    rows = mapped(state, z, c, classes)[:, None].expand(-1, network.num_ws, -1)
    torch.testing.assert_close(network.mapping(z, c), rows)
    for mode in ("const", "none"):
        torch.testing.assert_close(
            network(z, c, noise_mode=mode), synthesized(state, rows, mode == "const", stage, alpha)
        )
    x = torch.randn(4, *network.image_shape, dtype=torch.float64)
    torch.testing.assert_close(judge(x, c), judged(judge.state_dict(), x, c, classes, stage, alpha))


def test_each_layer_has_a_row_of_w():
    network = generator()
    assert network.num_ws == 6
    w = torch.randn(2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(network.synthesis(w), synthesized(network.state_dict(), w, True, 2))
    with pytest.raises(UsageError, match=r"w: expected \[N, 6, w_dim\], got \[2, 5, 7\]"):
        network.synthesis(w[:, 1:])


def test_noise_and_truncation():
    network = generator()
    z, _ = inputs(0)
    assert torch.equal(network(z), network(z, noise_mode="const"))
    assert not torch.equal(network(z, noise_mode="random"), network(z, noise_mode="random"))
    w = network.mapping(z)
    cut = network.mapping(z, truncation_psi=0.7, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], network.mapping.w_avg + 0.7 * (w[:, :2] - network.mapping.w_avg))
    assert torch.equal(cut[:, 2:], w[:, 2:])
    with pytest.raises(UsageError, match="noise_mode: expected one of random, const, none, got 'loud'"):
        network(z, noise_mode="loud")


def test_copies_and_state_dicts_keep_the_stage():
    network = grown(generator(), 1, 0.25)
    fresh = Generator1(5, 0, 7, **SIZES).double().eval()
    fresh.load_state_dict(network.state_dict())
    z, _ = inputs(0)
    for other in (fresh, copy.deepcopy(network)):
        assert (other.stage, other.alpha, other.image_shape) == (1, 0.25, (3, 8, 8))
        torch.testing.assert_close(other(z), network(z))
    with pytest.raises(UsageError, match=r"stage: expected a number from 0 \(4×4\) to 2, got 3"):
        network.grow(3)


def test_parameters_at_the_paper_s_size():
    """Those of the authors' network of 1024×1024; the layers to and from smaller images are counted too."""
    with torch.device("meta"):
        pair = models.build("stylegan", resolution=1024, channels=3, latent=512, width=512)
    assert [sum(p.numel() for p in network.parameters()) for network in pair] == [26_219_627, 23_087_249]


# --- adaptive instance normalization ----------------------------------------------------------------------------------


def test_adaptive_instance_norm():
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 3, 5, 4) + 3, torch.randn(2, 3), torch.randn(2, 3)
    plain = F.instance_norm(x.double(), eps=1e-8) * scale[:, :, None, None] + shift[:, :, None, None]
    for format in (torch.contiguous_format, torch.channels_last):
        y = adaptive_instance_norm(x.contiguous(memory_format=format), scale, shift)
        assert y.is_contiguous(memory_format=format)
        torch.testing.assert_close(y.double(), plain, rtol=1e-5, atol=2e-5)
    half = adaptive_instance_norm(x.bfloat16(), scale, shift)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), plain, rtol=0.02, atol=0.05)
    flat = adaptive_instance_norm(torch.full((2, 3, 4, 4), 0.7), scale, shift)
    torch.testing.assert_close(flat, shift[:, :, None, None].expand(2, 3, 4, 4), rtol=0, atol=0.01)


def test_gradients_of_adaptive_instance_norm():
    torch.manual_seed(0)
    x, scale, shift = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 2, 3, 2), (2, 2), (2, 2)))
    assert torch.autograd.gradcheck(adaptive_instance_norm, (x, scale, shift))
    assert torch.autograd.gradgradcheck(adaptive_instance_norm, (x, scale, shift))


def test_second_order_gradients_equal_those_of_the_plain_implementation():
    """Of a path length penalty in the generator and R1 in the discriminator, with respect to all weights."""
    network, judge = generator(3), discriminator(3)
    z, c = inputs(3)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    y = torch.randn(4, 3, 16, 16, dtype=torch.float64)

    def gradients(module, run, at):
        at = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad((run(at)).sum(), at, create_graph=True)
        weights = dict(module.named_parameters())
        found = torch.autograd.grad(slope.square().sum(), list(weights.values()), allow_unused=True)
        return {name: g for name, g in zip(weights, found, strict=True) if g is not None}

    state = dict(network.named_parameters()) | dict(network.named_buffers())
    own = dict(judge.named_parameters()) | dict(judge.named_buffers())
    w = network.mapping(z, c)
    for module, run, plain, at in (
        (network, lambda w: network.synthesis(w) * y, lambda w: synthesized(state, w, True, 2) * y, w),
        (judge, lambda x: judge(x, c), lambda x: judged(own, x, c, 3, 2), x),
    ):
        found, expected = gradients(module, run, at), gradients(module, plain, at)
        assert len(found) > 10
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found.get(name, torch.zeros_like(gradient)), gradient, msg=name, rtol=1e-6, atol=1e-8
            )


# --- training ---------------------------------------------------------------------------------------------------------


class Batches:
    """Numbered batches of four images with labels; at batch `killed` the process ends."""

    def __init__(self, killed=None):
        self.at, self.killed = 0, killed

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.killed:
            raise OSError("killed")
        self.at += 1
        return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(self.at)) * 2 - 1, torch.arange(4) % 3

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def trainer(steps, out=None):
    torch.manual_seed(0)
    networks = models.build("stylegan", resolution=16, channels=3, latent=8, width=8, classes=3, mapping_layers=2)
    config = Config.from_flags(
        latent=8, batch=4, grow_images=8, log_every=1, sample_every=100, checkpoint_every=100, compile="off",
        steps=steps, style_mixing=0.9, path_length=2.0, path_length_interval=2, r1_weight=0.1, penalty_interval=2,
    )  # fmt: skip
    return Trainer(*networks, "non-saturating", config, out=out)


def test_growing_training_resumes_bit_for_bit_in_a_fade(tmp_path):
    whole = trainer(10)
    whole.fit(Batches())
    assert whole.generator.image_shape == (3, 16, 16)
    for steps, resume in ((3, False), (10, True)):  # 3 steps of 4 images end in the middle of the first fade
        part = trainer(steps, tmp_path / "run")
        part.fit(Batches(), resume=resume)
    for network in ("generator", "discriminator"):
        for name, tensor in getattr(whole, network).state_dict().items():
            assert torch.equal(getattr(part, network).state_dict()[name], tensor), name
    for name, tensor in whole.ema.module.state_dict().items():
        assert torch.equal(part.ema.module.state_dict()[name], tensor), name


def test_inversion_recovers_a_generated_image():
    torch.manual_seed(0)
    network = models.build("stylegan", resolution=16, channels=3, latent=16, width=32, mapping_layers=2)[0].eval()
    with torch.no_grad():
        network.synthesis.to_image[-1].weight.mul_(0.15)  # an image of untrained weights exceeds [-1, 1]
        target = network.synthesis(network.mapping(torch.randn(1, 16)))
    assert target.abs().max() < 1
    assert editing.project(network, target, steps=200).psnr > 30


def test_directions_of_all_layers():
    network = generator()
    found = editing.factorization(network, count=3)
    stacked = torch.cat([layer.weight for name, layer in network.synthesis.named_modules() if name.endswith("affine")])
    assert len(stacked) == 2 * 2 * (6 + 6 + 4)  # scale and shift of the channels of two layers of each size
    _, _, plain = torch.linalg.svd(stacked.detach())
    assert found.vectors.shape == (3, 7)
    similarity = (found.vectors.double() * plain[:3]).sum(1).abs()
    torch.testing.assert_close(similarity, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)


def test_bad_input():
    build = {"resolution": 16, "channels": 3, "latent": 8, "width": 8}
    for options, message in (
        ({"resolution": 24}, "resolution: stylegan supports powers of two from 8, got 24; give 16 or 32"),
        ({"channel_base": 8}, "channel_base: expected a number >= img_resolution 16, got 8"),
        ({"d_norm": "batch"}, "d_norm: stylegan has equalized learning rates and supports no norm, got 'batch'"),
        ({"group": 0}, "group: expected a number >= 1, got 0"),
    ):
        with pytest.raises(UsageError) as error:
            models.build("stylegan", **build | options)
        assert message in str(error.value)
    judge = models.build("stylegan", **build)[1]
    assert isinstance(judge, nn.Module)
    with pytest.raises(
        UsageError, match=r"x: expected images \[N, 3, 16, 16\], as of the discriminator's current stage"
    ):
        judge(torch.zeros(4, 3, 8, 8))
