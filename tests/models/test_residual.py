"""The residual networks compared with plain PyTorch: SNGAN of benchmarks/networks.py, R3GAN written here."""

import networks
import torch
from torch.nn import functional as F

from fastgan import models

NAMES = [
    (".bn1.", ".norm1."), (".bn2.", ".norm2."), (".conv_sc.", ".shortcut."), (".conv1.conv.", ".conv1."),
    (".conv2.conv.", ".conv2."), (".shortcut.conv.", ".shortcut."), ("start.linear.", "start."),
    ("to_image.conv.", "to_image."), ("to_logit.linear.", "head."),
]  # fmt: skip


def networks_away_from_initialization(name, **options):
    """A generator and a discriminator without zero weights, with updated batch statistics and spectral norms."""
    torch.manual_seed(0)
    generator, discriminator = models.build(name, channels=3, **options)
    with torch.no_grad():
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            discriminator(generator(torch.randn(16, generator.latent)))
    return generator.eval(), discriminator.eval()


def test_sngan_equals_the_plain_networks():
    generator, discriminator = networks_away_from_initialization(
        "resnet", resolution=32, latent=networks.LATENT, width=8, d_norm="spectral"
    )
    plain = networks.ResnetGenerator(16), networks.ResnetDiscriminator(8)
    for own, other in zip((generator, discriminator), plain, strict=True):
        state = {}
        for name, value in own.state_dict().items():
            for ours, theirs in NAMES:
                name = name.replace(ours, theirs)
            state[name] = value
        other.load_state_dict(state)
        other.eval()
    z = torch.randn(5, networks.LATENT)
    images = generator(z)
    assert images.std() > 0.1
    torch.testing.assert_close(images, plain[0](z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator(images), plain[1](images).flatten(), rtol=1e-4, atol=1e-4)


def test_without_spectral_norm_the_pooling_is_a_mean():
    _, discriminator = networks_away_from_initialization("resnet", resolution=32, latent=8, width=4)
    x = torch.randn(3, 3, 32, 32)
    features = F.relu(discriminator.blocks(x)).mean((2, 3))
    expected = features @ discriminator.to_logit.linear.weight[0] + discriminator.to_logit.linear.bias
    torch.testing.assert_close(discriminator(x), expected, rtol=1e-4, atol=1e-5)


# --- R3GAN, from section 4 of arXiv:2501.05441 ------------------------------------------------------------------------


def block(state, name, x):
    h = F.leaky_relu(F.conv2d(x, state[f"{name}.conv1.weight"], state[f"{name}.bias1"]), 0.2)
    h = F.conv2d(h, state[f"{name}.conv2.weight"], state[f"{name}.bias2"], padding=1, groups=x.shape[1] // 8)
    return x + F.conv2d(F.leaky_relu(h, 0.2), state[f"{name}.conv3.weight"])


def resample(x, up):
    """The filter (1, 3, 3, 1) along both axes, after inserting zeros (up) or before taking every second pixel."""
    n, channels, height, width = x.shape
    if up:
        wide = x.new_zeros(n, channels, 2 * height, 2 * width)
        wide[:, :, ::2, ::2] = x
        x = F.pad(wide, (2, 1, 2, 1))
    else:
        x = F.pad(x, (1, 1, 1, 1))
    for axis in (2, 3):
        taps = [x.narrow(axis, i, x.shape[axis] - 3) for i in range(4)]
        x = (taps[0] + 3 * taps[1] + 3 * taps[2] + taps[3]) / (4 if up else 8)
    return x if up else x[:, :, ::2, ::2]


def test_r3gan_equals_plain_pytorch_from_the_paper():
    # 16 channels at 4×4, 8×8, 16×16 and 32×32, 8 at 64×64.
    generator, discriminator = networks_away_from_initialization("r3gan", resolution=64, latent=8, width=16)
    z = torch.randn(5, 8)
    state = generator.state_dict()
    x = (z @ state["to_basis.weight"].T)[:, :, None, None] * state["basis"]
    x = block(state, "stages.1", block(state, "stages.0", x))
    for start in (2, 5, 8):
        x = resample(x, up=True)
        x = block(state, f"stages.{start + 2}", block(state, f"stages.{start + 1}", x))
    x = resample(F.conv2d(x, state["stages.11.weight"]), up=True)
    x = block(state, "stages.14", block(state, "stages.13", x))
    images = generator(z)
    torch.testing.assert_close(images, F.conv2d(x, state["to_image.weight"]), rtol=1e-4, atol=1e-5)

    state = discriminator.state_dict()
    x = F.conv2d(images, state["from_image.weight"])
    x = block(state, "stages.1", block(state, "stages.0", x))
    x = F.conv2d(resample(x, up=False), state["stages.3.weight"])
    x = block(state, "stages.5", block(state, "stages.4", x))
    for start in (6, 9, 12):
        x = resample(x, up=False)
        x = block(state, f"stages.{start + 2}", block(state, f"stages.{start + 1}", x))
    x = (x * state["basis.weight"][:, 0]).sum((2, 3))
    torch.testing.assert_close(discriminator(images), (x @ state["to_logit.weight"].T).flatten(), rtol=1e-4, atol=1e-5)


def test_r3gan_starts_with_fix_up_initialization():
    """Each block is the identity; its first two layers are smaller by the fourth root of the number of blocks."""
    torch.manual_seed(0)
    generator, _ = models.build("r3gan", resolution=32, channels=3, latent=8, width=64)
    first = generator.stages[0]
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(first(x), x)
    expected = (2 / 1.04) ** 0.5 * 8**-0.25
    for conv, fan_in in ((first.conv1, 64), (first.conv2, 16 * 9)):
        torch.testing.assert_close(conv.weight.std() * fan_in**0.5, torch.tensor(expected), rtol=0.05, atol=0)
