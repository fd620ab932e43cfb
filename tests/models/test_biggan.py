"""BigGAN, compared with plain PyTorch written from the paper with the parameter names of BigGAN-PyTorch."""

import pytest
import torch
from torch.nn import functional as F

from fastgan import models
from fastgan.errors import UsageError
from fastgan.models import biggan
from fastgan.nn import orthogonal_regularizer

CLASSES, LATENT, PART = 3, 20, 4


def networks_away_from_initialization(attention=32):
    torch.manual_seed(0)
    generator, discriminator = models.build(
        "biggan", resolution=64, channels=3, latent=LATENT, width=8, classes=CLASSES, d_norm="spectral",
        embedding=6, attention=attention,
    )  # fmt: skip
    with torch.no_grad():
        for network in (generator, discriminator):
            for name, parameter in network.named_parameters():  # away from zeros, ones and orthogonal rows
                parameter.add_(0.05 * torch.randn_like(parameter) + 0.5 * name.endswith("gamma"))
    for _ in range(4):  # updates the statistics of batch norms and the vectors of spectral norms
        images = generator(torch.randn(16, LATENT), torch.arange(16) % CLASSES)
        discriminator(images.detach(), torch.arange(16) % CLASSES)
    return generator.eval(), discriminator.eval()


# --- the forward passes of section 3 and appendix B, with the names of BigGAN-PyTorch ---------------------------------


def normalized(state, name):
    """A weight divided by its largest singular value, from one step of power iteration."""
    weight = state[f"{name}.weight"]
    rows = weight.flatten(1)
    v = F.normalize(state[f"{name}.u0"] @ rows)
    return weight / (F.normalize(v @ rows.T) @ rows @ v.T)


def convolve(state, name, x):
    weight = normalized(state, name)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[2] // 2)


def conditional_norm(state, name, x, c):
    x = (x - state[f"{name}.stored_mean"][:, None, None]) / (state[f"{name}.stored_var"][:, None, None] + 1e-5).sqrt()
    gain, bias = (c @ normalized(state, f"{name}.{which}").T for which in ("gain", "bias"))
    return x * (1 + gain)[:, :, None, None] + bias[:, :, None, None]


def attend(state, name, x):
    n, channels, height, width = x.shape
    theta = convolve(state, f"{name}.theta", x).reshape(n, channels // 8, -1)
    phi = F.max_pool2d(convolve(state, f"{name}.phi", x), 2).reshape(n, channels // 8, -1)
    g = F.max_pool2d(convolve(state, f"{name}.g", x), 2).reshape(n, channels // 2, -1)
    weights = torch.einsum("nci,ncj->nij", theta, phi).softmax(2)
    seen = torch.einsum("nij,ncj->nci", weights, g).reshape(n, channels // 2, height, width)
    return x + state[f"{name}.gamma"] * convolve(state, f"{name}.o", seen)


def generate(state, z, y):
    parts = [z[:, i : i + PART] for i in range(0, LATENT, PART)]
    x = parts[0] @ normalized(state, "linear").T + state["linear.bias"]
    x = x.reshape(len(z), -1, 4, 4)
    for i, part in enumerate(parts[1:]):
        c = torch.cat([state["shared.weight"][y], part], 1)
        block = f"blocks.{i}.0"
        h = F.relu(conditional_norm(state, f"{block}.bn1", x, c)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = F.relu(conditional_norm(state, f"{block}.bn2", convolve(state, f"{block}.conv1", h), c))
        shortcut = convolve(state, f"{block}.conv_sc", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        x = convolve(state, f"{block}.conv2", h) + shortcut
        if x.shape[2] == 32:
            x = attend(state, f"blocks.{i}.1", x)
    mean, var, gain, bias = (
        state[f"output_layer.0.{name}"][:, None, None] for name in ("stored_mean", "stored_var", "gain", "bias")
    )
    x = F.relu((x - mean) / (var + 1e-5).sqrt() * gain + bias)
    return torch.tanh(convolve(state, "output_layer.2", x))


def discriminate(state, x, y):
    for i in range(5):
        block = f"blocks.{i}.0"
        h = convolve(state, f"{block}.conv2", F.relu(convolve(state, f"{block}.conv1", F.relu(x) if i else x)))
        if i < 4:
            x = F.avg_pool2d(h, 2) + F.avg_pool2d(convolve(state, f"{block}.conv_sc", x), 2)
        else:
            x = h + (convolve(state, f"{block}.conv_sc", x) if f"{block}.conv_sc.weight" in state else x)
        if x.shape[2] == 32:
            x = attend(state, f"blocks.{i}.1", x)
    h = F.relu(x).sum((2, 3))
    logits = h @ normalized(state, "linear").T + state["linear.bias"]
    return logits[:, 0] + (normalized(state, "embed")[y] * h).sum(1)


@pytest.fixture(scope="module")
def networks():
    """Generator and discriminator, loaded from state dicts with the names of BigGAN-PyTorch, and these state dicts."""
    generator, discriminator = networks_away_from_initialization()
    states = [biggan.to_biggan_pytorch(network) for network in (generator, discriminator)]
    for network, state in zip((generator, discriminator), states, strict=True):
        biggan.load_biggan_pytorch(network, state)
    return generator, discriminator, states


def test_forward_passes_equal_the_papers(networks):
    generator, discriminator, (g_state, d_state) = networks
    z, y = torch.randn(5, LATENT), torch.tensor([0, 1, 2, 0, 1])
    images = generator(z, y)
    assert images.std() > 0.1
    torch.testing.assert_close(images, generate(g_state, z, y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator(images, y), discriminate(d_state, images, y), rtol=1e-4, atol=1e-4)


def test_names_and_shapes_are_those_of_biggan_pytorch(networks):
    """As its `state_dict()` lists them for G_ch = 8, dim_z = 20, hier, shared_dim = 6, attention at 32."""
    _, _, (g_state, d_state) = networks
    shapes = {name: tuple(value.shape) for name, value in g_state.items()}
    assert len(shapes) == 138
    expected = {
        "shared.weight": (3, 6), "linear.weight": (2048, 4), "linear.u0": (1, 2048), "linear.sv0": (1,),
        "blocks.0.0.conv1.weight": (128, 128, 3, 3), "blocks.0.0.conv1.bias": (128,),
        "blocks.0.0.conv1.u0": (1, 128), "blocks.3.0.conv_sc.weight": (16, 32, 1, 1),
        "blocks.0.0.bn1.stored_mean": (128,), "blocks.0.0.bn1.gain.weight": (128, 10), 
        "blocks.0.0.bn1.gain.u0": (1, 128),
        "blocks.2.1.gamma": (), "blocks.2.1.theta.weight": (4, 32, 1, 1), "blocks.2.1.o.sv0": (1,),
        "output_layer.0.gain": (16,), "output_layer.0.stored_var": (16,), "output_layer.2.weight": (3, 16, 3, 3),
    }  # fmt: skip
    assert expected.items() <= shapes.items()
    shapes = {name: tuple(value.shape) for name, value in d_state.items()}
    assert {"embed.weight": (3, 128), "embed.u0": (1, 3), "blocks.0.1.g.weight": (4, 8, 1, 1)}.items() <= shapes.items()


def test_a_state_dict_survives_loading_and_converting_back(networks):
    *_, states = networks
    for network, state in zip(networks_away_from_initialization(), states, strict=True):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(2)
        biggan.load_biggan_pytorch(network, state)
        back = biggan.to_biggan_pytorch(network)
        assert set(back) == set(state)
        for name, value in state.items():
            if name.endswith(("u0", "sv0")):  # one step of power iteration further, from nearly converged vectors
                torch.testing.assert_close(back[name], value, rtol=0.2, atol=0.2)
            else:
                assert torch.equal(back[name], value), name


def test_other_state_dicts_are_errors_and_change_nothing(networks):
    generator, _, (state, _) = networks
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    short = {name: value for name, value in state.items() if name != "shared.weight"}
    with pytest.raises(UsageError, match=r"BigGAN-PyTorch for a network of these sizes, but shared\.weight is missing"):
        biggan.load_biggan_pytorch(generator, short)
    with pytest.raises(UsageError, match=r"blocks\.7\.0\.conv1\.bias is not one of its names"):
        biggan.load_biggan_pytorch(generator, state | {"blocks.7.0.conv1.bias": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"expected shared.weight of shape \[3, 6\], got \[4, 6\]"):
        biggan.load_biggan_pytorch(generator, state | {"shared.weight": torch.zeros(4, 6)})
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_truncated_latents_are_in_the_range_and_have_the_right_deviation():
    z = biggan.truncated_latents(2000, 50, 0.5, generator=torch.Generator().manual_seed(0))
    assert z.shape == (2000, 50)
    assert z.abs().max() <= 0.5
    # The deviation of a normal number between ±t is √(1 − 2·t·φ(t) / (2·Φ(t) − 1)): 0.2842 for t = 0.5.
    assert z.std().item() == pytest.approx(0.2842, abs=2e-3)
    assert biggan.truncated_latents(2000, 50, 8.0).std().item() == pytest.approx(1, abs=0.01)
    with pytest.raises(UsageError, match="threshold: expected a number > 0, got 0"):
        biggan.truncated_latents(1, 1, 0)


def test_standing_statistics_are_averages_over_the_batches():
    generator, _ = networks_away_from_initialization()
    with torch.no_grad():
        # Changes the statistics, so that the running ones are wrong.
        generator.linear.linear.parametrizations.weight.original.mul_(1.5)
        generator.linear.linear.bias.add_(1)
    batches = [(torch.randn(8, LATENT), torch.arange(8) % CLASSES) for _ in range(3)]
    inputs_seen, vectors = [], generator.linear.linear.parametrizations.weight[0]._u.clone()
    norm = generator.blocks[0][0].bn1.norm
    handle = norm.register_forward_pre_hook(lambda module, inputs: inputs_seen.append(inputs[0]))
    biggan.standing_statistics(generator, batches)
    handle.remove()
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs_seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in inputs_seen]).mean(0))
    assert not any(module.training for module in generator.modules())
    assert norm.momentum == 0.1
    assert torch.equal(vectors, generator.linear.linear.parametrizations.weight[0]._u)
    with pytest.raises(UsageError, match="batches: expected at least one"):
        biggan.standing_statistics(generator, [])


def test_orthogonal_start_and_regularizer():
    torch.manual_seed(0)
    generator, discriminator = models.build("biggan", resolution=32, channels=3, latent=8, width=4, d_norm="spectral")
    weight = discriminator.blocks[1][0].conv1.conv.parametrizations.weight.original
    rows = weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)

    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.Linear(2, 2), torch.nn.Embedding(2, 2))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0, 0], [1, 1], [0, 5]])[:, :, None, None])
        layer[1].weight.copy_(torch.tensor([[3.0, 0], [0, 2]]))  # orthogonal, of any length
    # Off the diagonal: 1 between the first two rows, 5 between the last two, each twice.
    assert orthogonal_regularizer(layer, 0.1).item() == pytest.approx(0.1 * 2 * (1 + 25))
    value = orthogonal_regularizer(generator)
    assert value.requires_grad
    with pytest.raises(UsageError, match="network: expected layers with weights"):
        orthogonal_regularizer(torch.nn.ReLU())
