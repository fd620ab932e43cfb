"""Autoencoders against a discriminator: the losses written out, the start of the discriminator, and the codebook."""

import pytest
import torch
from torch.nn.functional import relu

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.models.autoencoder import VectorQuantizer
from fastgan.report.diagnostics import diagnoses
from fastgan.runtime.network_spec import spec_of
from fastgan.train.step import TaskSteps

SMALL = {"batch": 4, "log_every": 2, "sample_every": 4, "checkpoint_every": 2, "compile": "off", "steps": 4}
#: Options of each family in a tiny size.
FAMILIES = {
    "vqgan": {"multipliers": "1,2", "blocks": 1, "codes": 16},
    "vae": {"multipliers": "1,2", "blocks": 1, "attention": "1"},
    "tiny-autoencoder": {"halvings": 1, "blocks": 1},
}


def trainer(family="vae", out=None, task=None, model=None, **flags):
    torch.manual_seed(0)
    networks = models.build(
        family, resolution=16, channels=1, latent=2, width=4, d_norm="none",
        **{"d_width": 4, "d_layers": 1} | FAMILIES[family] | (model or {}),
    )  # fmt: skip
    options = {"perceptual": "none"} | (task or {})
    config = Config.from_flags(task="autoencoder", task_options=options, loss="hinge", **SMALL | flags)
    return Trainer(*networks, "hinge", config, out=out)


def images(count=4, seed=1):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batches():
    seed = 0
    while True:
        seed += 1
        yield images(seed=seed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adaptive", [True, False])
def test_the_generators_loss_written_out(family, adaptive):
    options = {"l2": 0.5, "latent_weight": 0.3, "adversarial_weight": 0.7, "adaptive": adaptive}
    t = trainer(family, task=options)
    for network in t.state.networks.values():
        network.double()
    x, task, network = images().double(), t.task, t.generator
    noise = {"lazy": True, "adversarial": True}
    if family == "vae":
        noise["latent"] = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    loss, gradients = TaskSteps(task).generator({"real": x}, noise)

    found = network.encoder(x)
    if family == "vae":
        mean, log_variance = network.quant_conv(found).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * noise["latent"]
        own = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / x.numel()
        image = network.decoder(network.post_quant_conv(z))
    elif family == "vqgan":
        z, codes = network.quant_conv(found), network.quantize.embedding.weight
        flat = z.movedim(1, -1).reshape(-1, 2)
        near = codes[torch.cdist(flat, codes).argmin(1)].view(4, 8, 8, 2).movedim(-1, 1)
        own = 0.25 * (z - near.detach()).square().mean()
        image = network.decoder(network.post_quant_conv(z + (near - z).detach()))
    else:
        own, image = torch.zeros(()).double(), network.decoder(found)
    reconstruction = (image - x).abs().mean() + 0.5 * (image - x).square().mean()
    adversarial = -t.discriminator(image).mean()
    last = network.last_layer
    first, second = (torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (reconstruction, adversarial))
    balance = first / (second + 1e-4) if adaptive else 1.0
    expected = reconstruction + 0.7 * balance * adversarial + 0.3 * own
    torch.testing.assert_close(loss.value, expected.detach())
    wanted = [weight for weight in network.parameters() if weight.requires_grad]
    torch.testing.assert_close(list(gradients), list(torch.autograd.grad(expected, wanted)))


def test_the_discriminators_loss_written_out():
    t, x = trainer("vae"), images()
    noise = {"lazy": True, "adversarial": True, "latent": torch.randn(4, 2, 8, 8)}
    loss, gradients = TaskSteps(t.task).discriminator({"real": x}, noise)
    fake = t.generator.reconstruct(x, noise["latent"]).image.detach()
    expected = relu(1 - t.discriminator(x)).mean() + relu(1 + t.discriminator(fake)).mean()
    torch.testing.assert_close(loss.value, expected.detach())
    torch.testing.assert_close(list(gradients), list(torch.autograd.grad(expected, t.discriminator.parameters())))


def test_before_its_start_the_discriminator_is_not_run():
    t = trainer("tiny-autoencoder", task={"start": 3}, steps=3)
    t.discriminator.register_forward_hook(lambda *_: seen.append(t.step))
    seen, before = [], {name: value.clone() for name, value in t.discriminator.state_dict().items()}
    t.fit(batches())
    of_preparation = len([step for step in seen if step == 0])
    assert len(seen) == of_preparation
    for name, value in t.discriminator.state_dict().items():
        assert torch.equal(before[name], value)
    later = trainer("tiny-autoencoder", task={"start": 3}, steps=4)
    later.fit(batches())
    assert not torch.equal(later.discriminator.state_dict()["model.0.weight"], before["model.0.weight"])


def test_a_discriminator_that_starts_later_has_not_diverged():
    rows = [
        {"step": i, "loss/discriminator": 2.0 * (i > 8), "gradient/discriminator": 1.5 * (i > 8)} for i in range(20)
    ]
    assert diagnoses(rows) == []
    rows += [{"step": 20, "loss/discriminator": 500.0, "gradient/discriminator": 1e4}]
    assert [diagnosis.name for diagnosis in diagnoses(rows)] == ["divergence"]


def test_reconstructions_get_better_and_are_measured():
    x = images(32, seed=9)
    x = torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    t = trainer("tiny-autoencoder", steps=60, lr_g=3e-3, task={"adversarial_weight": 0.1}, model={"halvings": 2},
                log_every=20)  # fmt: skip
    figures = t.fit(([x[i : i + 8]] for _ in range(99) for i in range(0, 24, 8)), held_out=x[24:])
    made = t.ema.module(x[24:]).clamp(-1, 1)
    psnr = (10 * (4 / (made - x[24:]).square().flatten(1).mean(1)).log10()).mean()
    assert figures["psnr/held_out"] == pytest.approx(float(psnr), rel=1e-3)  # that of pixels of 8 bits
    assert float(psnr) > 10 * torch.log10(4 / x[24:].square().mean()) + 2  # better than gray


def test_the_perceptual_loss_is_trained_and_measured():
    t, x = trainer("tiny-autoencoder", task={"perceptual": "random", "perceptual_weight": 0.5}, steps=2), images(8)
    figures = t.fit(batches(), held_out=x)
    distance = t.task.perceptual(t.ema.module(x), x)
    assert figures["perceptual/held_out"] == pytest.approx(float(distance), rel=1e-3)
    loss, _ = TaskSteps(t.task).generator({"real": x}, {"lazy": True, "adversarial": False})
    image = t.generator(x)
    expected = (image - x).abs().mean() + 0.5 * t.task.perceptual(image, x)
    torch.testing.assert_close(loss.value, expected.detach())


def test_crops_and_flips():
    t = trainer("tiny-autoencoder", task={"crop": 8, "flip": True}, steps=2)
    t.fit(batches(), held_out=images(4, seed=5))
    assert torch.equal(t.state.held_out["real"], images(4, seed=5)[:, :, 4:12, 4:12])
    assert t.state.batch["real"].shape == (4, 1, 8, 8)
    with pytest.raises(UsageError, match="crop: expected at most the side of the images, 16×16, got 32"):
        trainer("tiny-autoencoder", task={"crop": 32}).fit(batches())


@pytest.mark.full
def test_float16_keeps_small_gradients():
    """The loss scale goes through the gradients at the image."""
    t = trainer("vae", precision="fp16", steps=4)
    figures = t.fit(batches())
    assert figures["skipped/generator"] < 1
    assert figures["weight/adaptive"] > 0


def test_codes_are_averages_of_their_vectors():
    torch.manual_seed(0)
    quantizer, z = VectorQuantizer(4, 2, codebook="average", decay=0.9), torch.randn(6, 2, 3, 3)
    before = quantizer.embedding.weight.clone()
    found = quantizer(z)
    quantizer.after_update(found.outputs)
    flat = z.movedim(1, -1).reshape(-1, 2)
    near = torch.cdist(flat, before).argmin(1)
    assert torch.equal(found.indices.flatten(), near)
    shares = torch.tensor([(near == i).float().mean() for i in range(4)])
    sums = torch.stack([flat[near == i].sum(0) / len(flat) for i in range(4)])
    size, mean = 0.9 / 4 + 0.1 * shares, 0.9 * before / 4 + 0.1 * sums
    torch.testing.assert_close(quantizer.embedding.cluster_size, size)
    torch.testing.assert_close(quantizer.embedding.weight.data, mean / size[:, None], rtol=1e-3, atol=1e-4)
    assert float(found.log["codebook/usage"]) == (shares > 0).float().mean()
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum()
    torch.testing.assert_close(found.log["codebook/perplexity"], entropy.exp())


def test_the_gradient_passes_straight_through_and_moves_a_codebook_of_gradients():
    torch.manual_seed(0)
    quantizer, z = VectorQuantizer(4, 2, beta=0.25), torch.randn(2, 2, 3, 3, requires_grad=True)
    found = quantizer(z)
    slope = torch.randn_like(z)
    (through,) = torch.autograd.grad((found.vectors * slope).sum(), z, retain_graph=True)
    assert torch.equal(through, slope)
    codes = quantizer.embedding.weight
    near = codes[found.indices].movedim(-1, 1)
    of_codes, of_z = torch.autograd.grad(found.loss, [codes, z])
    expected = (z.detach() - near).square().mean() + 0.25 * (z - near.detach()).square().mean()
    torch.testing.assert_close((of_codes, of_z), torch.autograd.grad(expected, [codes, z]))


def test_codes_that_are_not_used_are_put_beside_those_that_are():
    quantizer = VectorQuantizer(6, 2, codebook="average", decay=0.0, restart=0.1)
    z = torch.tensor([[1.0, 1.0], [1.1, 1.0], [-1.0, 2.0], [5.0, 5.0]]).view(4, 2, 1, 1)
    quantizer.after_update(quantizer(z).outputs)
    for _ in range(30):
        quantizer.after_update(quantizer(z).outputs)
    assert float(quantizer(z).log["codebook/usage"]) >= 3 / 6
    assert (quantizer(z).vectors - z).abs().max() < 0.2
    assert quantizer.embedding.weight.isfinite().all()


def test_an_update_that_is_not_finite_moves_no_code():
    quantizer, z = VectorQuantizer(4, 2, codebook="average"), torch.full((1, 2, 2, 2), float("nan"))
    before = quantizer.embedding.weight.clone()
    quantizer.after_update(quantizer(z).outputs)
    assert torch.equal(before, quantizer.embedding.weight)


def test_a_tiny_decoder_behind_a_frozen_encoder(tmp_path):
    trainer("vae", tmp_path / "run").fit(Numbered())
    source = trainer("vae", tmp_path / "run", steps=4)
    source.fit(Numbered(), resume=True)
    frozen = {"decoder": "tiny", "tiny_width": 4, "freeze": "encoder"}
    t = trainer("vae", model=frozen)
    with pytest.raises(UsageError, match=r"init_from: KLAutoencoder trains its decoder alone"):
        t.fit(batches())
    t.fit(batches(), init_from=tmp_path / "run")
    for name, value in source.ema.module.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(value, t.generator.state_dict()[name])
            assert torch.equal(value, t.ema.module.state_dict()[name])
    other = trainer("vae", model=frozen | {"attention": ""})
    with pytest.raises(UsageError, match=r"init_from: .* holds another generator: .*attn"):
        other.fit(batches(), init_from=tmp_path / "run")


def test_a_run_goes_on_from_a_public_file(tmp_path):
    options = {"codebook": "gradient", "restart": 0.0}
    source = trainer("vqgan", model=options)
    for weight in source.generator.parameters():
        weight.data.add_(0.01)
    networks = {"G": source.generator, "D": source.discriminator}
    models.save(networks, tmp_path / "last.pth", "taming")
    t = trainer("vqgan", model=options, steps=1, lr_g=1e-9, lr_d=1e-9)
    t.fit(batches(), init_from=tmp_path / "last.pth")
    for name, value in source.generator.state_dict().items():
        torch.testing.assert_close(t.generator.state_dict()[name], value, rtol=0, atol=1e-6)
    decoder = trainer("vqgan", model=options | {"decoder": "tiny", "tiny_width": 4, "freeze": "encoder"}, steps=1)
    decoder.fit(batches(), init_from=tmp_path / "last.pth")
    assert torch.equal(decoder.generator.quantize.embedding.weight, source.generator.quantize.embedding.weight)


class Numbered:
    """Batches that a run can be resumed with."""

    def __init__(self):
        self.seed = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.seed += 1
        return images(seed=self.seed)

    def state_dict(self):
        return {"seed": self.seed}

    def load_state_dict(self, state):
        self.seed = state["seed"]


@pytest.mark.parametrize("family", ["vqgan", "vae"])
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path, family):
    whole = trainer(family, task={"start": 1}, steps=4, accumulate=2)
    whole.fit(Numbered())
    trainer(family, tmp_path / "run", task={"start": 1}, steps=2, accumulate=2).fit(Numbered())
    again = trainer(family, tmp_path / "run", task={"start": 1}, steps=4, accumulate=2)
    again.fit(Numbered(), resume=True)
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(value, again.generator.state_dict()[name]), name


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        ({"multipliers": "1,x"}, {}, "multipliers: expected whole numbers with commas"),
        ({"multipliers": "1,1,1,1,1,1"}, {}, "resolution: expected a multiple of 32"),
        ({"attention": "2"}, {}, "attention: expected levels from 0 to 1"),
        ({"decoder": "small"}, {}, "decoder: expected one of full, tiny"),
        ({"freeze": "all"}, {}, "freeze: expected one of none, encoder"),
        ({"d_layers": 3}, {}, "d_layers: expected halvings that leave 3 of 16 pixels"),
        ({}, {"l1": -1.0}, "l1: expected a number >= 0"),
        ({}, {"l1": 0.0}, "l1, l2, perceptual_weight: expected one above 0"),
        ({}, {"perceptual": "nothing.pth"}, "perceptual: expected .* got 'nothing.pth'"),
    ],
)
def test_bad_options(model, task, expected):
    with pytest.raises(UsageError, match=expected):
        trainer("vae", model=model, task=task)


def test_a_generator_that_is_no_autoencoder():
    generator = torch.nn.Conv2d(1, 1, 3, padding=1)
    config = Config.from_flags(task="autoencoder", task_options={"perceptual": "none"}, **SMALL)
    with pytest.raises(UsageError, match=r"generator: expected an autoencoder with a method reconstruct"):
        Trainer(generator, trainer().discriminator, config=config)


def test_halves_are_the_whole():
    t = trainer("vqgan")
    x, parts = images(), t.generator.parts()
    assert torch.equal(parts["decoder"](parts["encoder"](x)), t.generator(x))
    assert spec_of(parts["decoder"]).scale == 2
    with pytest.raises(UsageError, match="an encoder's latents are smaller than its images"):
        spec_of(parts["encoder"])
    assert torch.equal(t.generator.decode_indices(t.generator.indices(x)), t.generator(x))
