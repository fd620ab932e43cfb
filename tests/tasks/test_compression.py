"""Compression: the rate, the losses written out, and what the discriminator sees."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from fastgan import Config, Trainer, models
from fastgan.engine import CompiledStep
from fastgan.errors import UsageError
from fastgan.models.autoencoder import FactorizedPrior, gaussian_bits
from fastgan.train.step import TaskSteps
from tests.tasks.test_autoencoder import trainer as autoencoder_trainer

SMALL = {"batch": 4, "log_every": 2, "sample_every": 4, "checkpoint_every": 2, "compile": "off", "steps": 4}


def trainer(task=None, model=None, **flags):
    torch.manual_seed(0)
    networks = models.build(
        "hific", resolution=16, channels=1, latent=3, width=4, d_norm="none",
        **{"halvings": 2, "blocks": 1, "hyper": 4, "d_width": 4, "d_layers": 2} | (model or {}),
    )  # fmt: skip
    options = {"perceptual": "none", "adaptive": False, "l1": 0.0, "l2": 10.0} | (task or {})
    return Trainer(*networks, config=Config.from_flags(task="compression", task_options=options, **SMALL | flags))


def images(count=4, seed=1):
    small = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear")


def batches():
    seed = 0
    while True:
        seed += 1
        yield images(seed=seed)


def test_bits_of_a_gaussian():
    value, mean, deviation = (torch.tensor([v], dtype=torch.float64) for v in (2.0, 1.7, 0.8))
    normal = torch.distributions.Normal(mean, deviation)
    expected = -(normal.cdf(value + 0.5) - normal.cdf(value - 0.5)).log2()
    torch.testing.assert_close(gaussian_bits(value, mean, deviation), expected)
    # All whole numbers together have probability 1; far away none is impossible, and a derivative exists.
    every = torch.arange(-60.0, 60.0)
    total = (2 ** -gaussian_bits(every, torch.full_like(every, 0.3), torch.full_like(every, 4.0))).sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)
    far = torch.tensor([1e4], requires_grad=True)
    bits = gaussian_bits(far, torch.zeros(1), torch.ones(1))
    assert float(bits.detach()) == pytest.approx(-math.log2(1e-9), rel=1e-5)
    assert torch.autograd.grad(bits, far)[0].isfinite()


def test_a_factorized_prior_is_a_distribution_and_learns_one():
    torch.manual_seed(0)
    prior = FactorizedPrior(2)
    every = torch.arange(-400.0, 401.0).view(1, 1, 1, -1).expand(1, 2, 1, -1)
    totals = (2 ** -prior.bits(every)).sum((0, 2, 3))
    torch.testing.assert_close(totals, torch.ones(2), rtol=1e-3, atol=1e-3)
    source = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), 0.03)
    for _ in range(300):
        values = torch.randn(64, 2, 1, 4, generator=source) * torch.tensor([1.0, 4.0]).view(2, 1, 1)
        bits = prior.bits(values + torch.rand(values.shape, generator=source) - 0.5).mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    whole = (torch.randn(4000, 2, 1, 1, generator=source) * torch.tensor([1.0, 4.0]).view(2, 1, 1)).round()
    found = prior.bits(whole).mean((0, 2, 3))
    # The entropies of rounded Gaussians: half of log2(2πe (σ² + 1/12)), nearly.
    expected = [0.5 * math.log2(2 * math.pi * math.e * (deviation**2 + 1 / 12)) for deviation in (1.0, 4.0)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0.05, atol=0.05)


def test_the_losses_written_out():
    t, x = trainer({"target_rate": 1e9, "adversarial_weight": 0.3}), images()
    network, noise = t.generator, {"lazy": True, "adversarial": True}
    noise["latent"] = torch.rand(4, *network.noise_shape(x.shape), generator=torch.Generator().manual_seed(2)) - 0.5
    state = {name: value.clone() for name, value in t.discriminator.state_dict().items()}
    loss, gradients = TaskSteps(t.task).generator({"real": x}, noise)
    y = network.encoder(x)
    z = network.hyper_encoder(y)
    mean, deviation = network.predicted(z + (z.round() - z).detach(), y)
    latents = y + ((y - mean).round() + mean - y).detach()
    latents = (y - mean) + ((y - mean).round() - (y - mean)).detach() + mean
    shift = noise["latent"][:, : y[0].numel()].view(y.shape), noise["latent"][:, y[0].numel() :].view(z.shape)
    bits = gaussian_bits(y + shift[0], mean, deviation).sum() + network.prior.bits(z + shift[1]).sum()
    image, rate = network.decoder(latents), bits / (4 * 16 * 16)
    t.discriminator.load_state_dict(state)
    adversarial = softplus(-t.discriminator(image, latents.detach())).mean()
    expected = 10 * (image - x).square().mean() + 0.3 * adversarial + 0.0625 * rate  # below the target
    torch.testing.assert_close(loss.value, expected.detach())
    torch.testing.assert_close(loss.log["bpp"], rate.detach())
    wanted = torch.autograd.grad(expected, list(network.parameters()))
    torch.testing.assert_close(list(gradients), list(wanted), rtol=1e-4, atol=1e-6)
    above = trainer({"target_rate": 0.0, "rate_weight": 2.0})
    assert float(TaskSteps(above.task).generator({"real": x}, noise)[0].log["weight/rate"]) == 2.0


def test_real_and_reconstructed_images_are_seen_beside_the_latents():
    t, seen = trainer(), []
    t.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args))
    x = images()
    noise = {"lazy": True, "adversarial": True, "latent": torch.zeros(4, *t.generator.noise_shape(x.shape))}
    TaskSteps(t.task).discriminator({"real": x}, noise)
    latents = t.generator.encode(x)
    assert torch.equal(seen[0][0], x)
    torch.testing.assert_close(seen[1][0], t.generator(x).detach())
    for _, beside in seen:
        torch.testing.assert_close(beside, latents)


def test_the_rate_falls_to_its_target_and_is_measured_on_held_out_images():
    options = {"target_rate": 0.05, "rate_weight": 4.0, "start": 60, "l2": 3.0}
    t = trainer(options, steps=60, lr_g=3e-3, log_every=20, ema_images=0)
    first = float(t.generator.reconstruct(images()).loss.detach())
    figures = t.fit(batches(), held_out=images(8, seed=99))
    found = t.ema.module.reconstruct(images(8, seed=99))
    assert figures["bpp/held_out"] == pytest.approx(float(found.loss.detach()), rel=1e-4)
    assert float(found.loss.detach()) < 0.5 * first
    # Whole numbers away from what the hyperprior predicts: what a decoder gets is what was counted.
    again = t.ema.module.encode(images(8, seed=99))
    torch.testing.assert_close(found.latents, again)


def test_sides_that_four_does_not_divide():
    (network, _), x = (
        models.build("hific", resolution=28, channels=1, latent=2, width=4, halvings=2),
        images()[..., :12, :4],
    )
    noise = torch.zeros(4, *network.noise_shape(x.shape))
    assert network.reconstruct(x, noise).image.shape == x.shape


@pytest.mark.parametrize(
    ("flags", "task", "expected"),
    [
        ({"augment": "color"}, {}, "augment: the discriminator sees an image's own latents"),
        ({}, {"target_rate": -1.0}, "target_rate: expected a number >= 0"),
    ],
)
def test_bad_options(flags, task, expected):
    with pytest.raises(UsageError, match=expected):
        trainer(task, **flags)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["autoencoder", "compression"])
def test_compiled_training_is_eager_training(tmp_path, monkeypatch, kind):
    """Captured whole by Dynamo, λ included; PyTorch's backend "eager" generates no code."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(
        CompiledStep, "_inductor", lambda self, f: torch.compile(f, fullgraph=True, dynamic=False, backend="eager")
    )
    torch._dynamo.reset()
    make = trainer if kind == "compression" else autoencoder_trainer
    compiled, eager = (make(steps=2, compile=compile) for compile in ("on", "off"))
    compiled.fit(batches())
    eager.fit(batches())
    assert compiled.steps.compiled
    assert all(how == "Dynamo" for step in (compiled.steps.generator, compiled.steps.discriminator) for how in step.how)
    for name, value in eager.generator.state_dict().items():
        torch.testing.assert_close(compiled.generator.state_dict()[name], value, rtol=1e-3, atol=5e-5, msg=name)
