"""Each method against its paper's formula, written out; and a run with it resumes bit for bit."""

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from fastgan import Config, Trainer
from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.models import build
from fastgan.regularization.augment import augment, translation
from fastgan.regularization.features import last_layer
from fastgan.regularization.history import History
from fastgan.regularization.packing import packed
from fastgan.testing.batches import Resumable
from fastgan.train.distributed import World
from fastgan.train.networks import build_networks
from fastgan.train.optim import Update
from fastgan.train.step import TaskSteps

CPU = torch.device("cpu")
SMALL = {"batch": 8, "log_every": 1, "sample_every": 100, "checkpoint_every": 2, "lr_g": 2e-3, "lr_d": 2e-3,
         "compile": "off"}  # fmt: skip


def trainer(loss="non-saturating", out=None, world=None, **options):
    torch.manual_seed(0)
    pack = options.get("pack", 1)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    discriminator = nn.Sequential(nn.Conv2d(pack, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1))
    return Trainer(
        generator, discriminator, loss, Config.from_flags(**SMALL | options), latent_shape=(4,), out=out, world=world
    )


def given(t, step=0):
    """Real images, and the noise of a discriminator's step on them: "z", and what the methods draw."""
    real = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return real, t.task.draw("discriminator", {"real": real}, t.state.random, step)


def d_step(t, real, noise, **more):
    return TaskSteps(t.task).discriminator({"real": real}, noise | more)


def g_step(t, real, noise, **more):
    return TaskSteps(t.task).generator({"real": real}, noise | more)


class Batches(Resumable):
    def batch(self, source):
        return torch.rand(8, 1, 8, 8, generator=source) * 2 - 1


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)


def cross_entropy(real, fake):
    return softplus(-real).mean() + softplus(fake).mean()


@pytest.mark.parametrize("joint", [False, True])
def test_the_discriminator_sees_all_images_augmented_and_with_noise(joint):
    t = trainer(augment="color+translation", instance_noise=0.5, instance_noise_steps=4, r1_weight=2.0)
    t.task.joint = joint
    real, noise = given(t, step=1)
    assert noise["instance.real"].std().item() == pytest.approx(0.5 * 3 / 4, rel=0.1)  # a quarter of the way is done
    seen, fake = (
        augment(images, "color+translation", noise[f"augment.{kind}"]) + noise[f"instance.{kind}"]
        for kind, images in (("real", real), ("fake", t.generator(noise["z"]).detach()))
    )
    points = seen.clone().requires_grad_()
    (slope,) = torch.autograd.grad(t.discriminator(points).sum(), points, create_graph=True)
    loss = cross_entropy(t.discriminator(seen), t.discriminator(fake)) + slope.square().flatten(1).sum(1).mean()
    ours = d_step(t, real, noise)[1]
    torch.testing.assert_close(ours, gradients(loss, t.discriminator))

    noise = t.task.draw("generator", {"real": real}, t.state.random, 1)
    assert noise.keys() == {"z", "lazy", "augment.fake", "instance.fake"}
    fake = augment(t.generator(noise["z"]), "color+translation", noise["augment.fake"]) + noise["instance.fake"]
    expected = gradients(softplus(-t.discriminator(fake)).mean(), t.generator)
    torch.testing.assert_close(g_step(t, real, noise)[1], expected)
    assert "instance.real" not in given(t, step=4)[1]  # annealed


def test_instance_noise_is_annealed_over_the_whole_run_by_default():
    assert trainer(instance_noise=0.1, steps=7).config.regularization.instance_noise_steps == 7


def test_adaptive_augmentation_follows_the_discriminator(tmp_path):
    """A discriminator that is sure of real images: p rises at every fourth batch, by batch · 4 / ada_images."""
    t = trainer(out=tmp_path / "run", steps=8, augment="translation", ada_target=0.6, ada_images=64)
    t.discriminator[3].bias.data.fill_(50.0)
    t.fit(Batches())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["augment/p"] for line in lines] == [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 1]
    assert {line["augment/sign"] for line in lines} == {1.0}
    t = trainer(steps=8, augment="translation", ada_target=0.6, ada_images=64)
    t.discriminator[3].bias.data.fill_(-50.0)
    t.fit(Batches())
    assert t.task.regularization.adaptive.p == 0


def test_smoothed_labels():
    t = trainer(label_smoothing=0.1)
    real, noise = given(t)
    z = noise["z"]
    d_real, d_fake = (torch.sigmoid(t.discriminator(x)) for x in (real, t.generator(z).detach()))
    loss = -(0.9 * d_real.log() + 0.1 * (1 - d_real).log()).mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(d_step(t, real, noise)[1], gradients(loss, t.discriminator))
    # One-sided: the generator's loss is as it was.
    expected = gradients(softplus(-t.discriminator(t.generator(z))).mean(), t.generator)
    torch.testing.assert_close(g_step(t, real, noise)[1], expected)


def test_packs_are_stacked_in_channels():
    x = torch.arange(24.0).view(4, 3, 2, 1)
    y = packed(x, 2)
    assert y.shape == (2, 6, 2, 1)
    assert torch.equal(y[1, :3], x[2])
    assert torch.equal(y[1, 3:], x[3])
    with pytest.raises(UsageError, match="pack: a batch of 4 images cannot be put in packs of 3"):
        packed(x, 3)


@pytest.mark.parametrize("joint", [False, True])
def test_the_discriminator_classifies_packs(joint):
    t = trainer("wgan-gp", pack=2)
    t.task.joint = joint
    real, noise = given(t)
    z, epsilon = noise["z"], noise["epsilon"]
    assert epsilon.shape == (4, 1, 1, 1)  # one number for a pack
    seen, fake = (x.reshape(4, 2, 8, 8) for x in (real, t.generator(z).detach()))
    points = torch.lerp(seen, fake, epsilon).requires_grad_()
    (slope,) = torch.autograd.grad(t.discriminator(points).sum(), points, create_graph=True)
    penalty = 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
    loss = t.discriminator(fake).mean() - t.discriminator(seen).mean() + penalty
    ours = d_step(t, real, noise)[1]
    expected = gradients(loss, t.discriminator)
    torch.testing.assert_close(ours[:-1], expected[:-1], rtol=1e-3, atol=1e-6)


def test_a_run_with_packs_is_measured_too(tmp_path):
    t = trainer("wgan-gp", tmp_path / "run", pack=2, steps=2, d_steps=1)
    last = t.fit(Batches(), held_out=torch.rand(7, 1, 8, 8) * 2 - 1)  # the seventh has no partner
    assert {"auroc/train_held_out", "gradient_norm/mean", "spread/fake"} <= last.keys()


def test_half_of_the_fakes_come_from_the_past():
    random = Random(0, CPU)
    history = History(12, CPU)
    batches = [torch.full((8, 1, 2, 2), float(i)) for i in range(40)]
    assert history.draw(8, random) == {}
    history.add(batches[0], None, random)
    assert history.draw(8, random) == {}  # not full yet
    history.add(batches[1], None, random)
    first = history.draw(8, random)["past"]
    assert first.shape == (4, 1, 2, 2)
    assert set(history.tensors()["images"][:, 0, 0, 0].tolist()) == {0.0, 1.0}
    ages = []
    for i in range(2, 40):
        history.add(batches[i], None, random)
        kept = history.tensors()["images"][:, 0, 0, 0]
        assert (kept == i).sum() == 4  # half of a batch replaces others
        ages.append((i - kept).max().item())
    assert max(ages) > 4  # some are old
    assert ages[-1] < 38  # but the first are gone

    t = trainer(history=4)
    real, noise = given(t)
    past = torch.rand(4, 1, 8, 8)
    loss, ours = d_step(t, real, noise, past=past)
    made = t.generator(noise["z"]).detach()
    fake = torch.cat([past, made[4:]])
    expected = gradients(cross_entropy(t.discriminator(real), t.discriminator(fake)), t.discriminator)
    torch.testing.assert_close(ours, expected)
    assert torch.equal(loss.outputs["fakes"], made)


def test_weights_are_pulled_toward_their_mean_over_time():
    """θ from 0, pushed by gradients of −1: the mean is that of all θ so far, the first included."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    optimizer = torch.optim.Adam(network.parameters(), 0.1, fused=True)
    update = Update(network, optimizer, World(), clip=0.0, fp16=False, historical=3.0)
    thetas = [0.0]
    for _ in range(4):
        expected = -1 + 2 * 3 * (thetas[-1] - sum(thetas) / len(thetas))
        update.add(torch.tensor(0.0), (torch.tensor([[-1.0]]),))
        assert update.apply().item() == pytest.approx(abs(expected), rel=1e-5)
        thetas.append(network.weight.item())
    assert thetas[1] == pytest.approx(0.1)
    # In a run both networks stay nearer to where they began.
    start, plain, pulled = (trainer(historical_averaging=weight, steps=5) for weight in (0.0, 0.0, 3.0))
    for t in (plain, pulled):
        t.fit(Batches())
    for network in ("generator", "discriminator"):
        distances = [
            sum(
                (a - b).square().sum().item()
                for a, b in zip(*(getattr(x, network).parameters() for x in (t, start)), strict=True)
            )
            for t in (plain, pulled)
        ]
        assert distances[1] < distances[0]


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_consistency_penalizes_the_change_of_logits_under_a_shift(kind):
    t = trainer(**{"consistency" if kind == "real" else "consistency_fake": 10.0})
    real, noise = given(t)
    assert noise.keys() == {"z", "lazy", f"shift.{kind}"}
    fake = t.generator(noise["z"]).detach()
    images = {"real": real, "fake": fake}[kind]
    change = (t.discriminator(images) - t.discriminator(translation(images, noise[f"shift.{kind}"]))).square().mean()
    loss = cross_entropy(t.discriminator(real), t.discriminator(fake)) + 10 * change
    torch.testing.assert_close(d_step(t, real, noise)[1], gradients(loss, t.discriminator))


def test_features_of_real_and_fake_images_are_matched():
    t = trainer(feature_matching=3.0)
    real, noise = given(t)
    z = noise["z"]
    assert last_layer(t.discriminator) is t.discriminator[3]
    features = t.discriminator[:3]  # what goes into the last layer
    fake = t.generator(z)
    apart = (features(fake).mean(0) - features(real).mean(0)).square().sum()
    loss = softplus(-t.discriminator(fake)).mean() + 3 * apart
    result, ours = g_step(t, real, noise)
    torch.testing.assert_close(ours, gradients(loss, t.generator))
    torch.testing.assert_close(result.log["loss/features"], apart.detach())
    assert not t.discriminator[3]._forward_pre_hooks
    rare = trainer(feature_matching=3.0, matching_interval=4)
    loss = softplus(-rare.discriminator(rare.generator(z))).mean()
    result, without = g_step(rare, real, noise, lazy=False)
    assert "loss/features" not in result.log
    torch.testing.assert_close(without, gradients(loss, rare.generator))
    # The same weights: of four steps, one has what the three lack.
    with_them = g_step(rare, real, noise, lazy=True)[1]
    mean = [(3 * few + all_) / 4 for few, all_ in zip(without, with_them, strict=True)]
    torch.testing.assert_close(mean, list(ours), rtol=1e-4, atol=1e-6)
    with pytest.raises(
        UsageError, match="feature_matching: expected a discriminator with a linear layer or a convolution"
    ):
        last_layer(nn.Flatten())


def test_features_are_matched_every_matching_interval_steps():
    t, asked = trainer(feature_matching=1.0, matching_interval=3, steps=5), []
    before = t.task.generator_loss

    def generator_loss(batch, noise):
        loss = before(batch, noise)
        asked.append("loss/features" in loss.log)
        return loss

    t.task.generator_loss = generator_loss
    t.fit(Batches())
    assert asked == [True, False, False, True, False]


EVERYTHING = {
    "augment": {"augment": "color+translation+cutout"},
    "adaptive": {"augment": "translation", "ada_target": 0.6, "ada_images": 200},
    "ada": {"augment": "ada-all", "ada_target": 0.6, "ada_images": 50, "ada_interval": 1},
    "noise": {"instance_noise": 0.3, "instance_noise_steps": 4},
    "pack": {"pack": 2, "loss": "wgan-gp", "d_steps": 2},
    "history": {"history": 12},
    "averaging": {"historical_averaging": 0.5, "accumulate": 2},
    "consistency": {"consistency": 1.0, "consistency_fake": 1.0, "loss": "hinge"},
    "features": {"feature_matching": 1.0, "matching_interval": 2, "loss": "relativistic", "augment": "color"},
    "unroll": {"unroll": 2, "instance_noise": 0.1, "instance_noise_steps": 9},
    "wgan": {"loss": "wgan", "d_steps": 1},
}


def weights(t):
    parts = (t.generator, t.discriminator, t.ema.module)
    return torch.cat([v.flatten() for part in parts for v in part.state_dict().values()])


@pytest.mark.parametrize("options", list(EVERYTHING.values()), ids=list(EVERYTHING))
def test_resumed_equals_never_stopped_bit_for_bit(tmp_path, options):
    whole = trainer(**options, steps=5)
    last = whole.fit(Batches())
    plain = {name: options[name] for name in ("loss", "d_steps", "accumulate", "pack") if name in options}
    other = trainer(**plain, steps=5)
    other.fit(Batches())
    assert plain == options or not torch.equal(weights(whole), weights(other))  # it does something
    trainer(**options, out=tmp_path / "run", steps=3).fit(Batches())
    again = trainer(**options, out=tmp_path / "run", steps=5)
    assert again.fit(Batches(), resume=True)["loss/generator"] == last["loss/generator"]
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.slow
@pytest.mark.parametrize("options", [EVERYTHING["adaptive"] | {"consistency": 1.0}, EVERYTHING["unroll"]])
def test_compiled_steps_are_the_eager_ones(options):
    torch._dynamo.reset()
    compiled, eager = (trainer(**options | {"steps": 3, "compile": how}) for how in ("on", "off"))
    for t in (compiled, eager):
        t.fit(Batches())
    assert compiled.steps.compiled
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pack": 3}, "pack: a batch of 8 is not divisible by 3; give batch that is"),
        ({"pack": 2, "condition": "concat"}, "pack: a conditional discriminator takes one label for each image"),
        (
            {"label_smoothing": 0.1, "loss": "hinge"},
            "label_smoothing: hinge has no target value for real images; use it with minimax",
        ),
        ({"label_smoothing": 0.6}, r"label_smoothing: expected a number in \[0, 0.5\), got 0.6"),
        (
            {"augment": "colour"},
            "augment: expected none, or some of color, translation, cutout, blit, .* joined by .*'colour'",
        ),
        ({"augment": "cutout+cutout"}, "each once"),
        ({"ada_target": 0.6}, "ada_target: there is nothing to adapt; give augment"),
        ({"ada_target": 0.6, "augment": "color", "loss": "wgan-gp"}, "ada_target: the sign of a logit has no meaning"),
        ({"history": 3}, "history: half of a batch of 8 comes from it, so it must hold as many, got 3"),
        ({"unroll": 2, "r1_weight": 1.0}, "unroll: .* without penalties; leave one of both out"),
        ({"unroll": 2, "loss": "wgan"}, "unroll: .* without weight clipping"),
        ({"unroll": 2, "consistency": 1.0}, "unroll: .* without consistency"),
        ({"unroll": 2, "precision": "fp16"}, "unroll: .* without fp16"),
        ({"consistency": 1.0, "r2_weight": 1.0, "d_norm": "batch"}, "d_norm: batch norm couples the samples"),
        (
            {"minibatch_discrimination": 4, "loss": "wgan-gp"},
            "minibatch_discrimination: it couples the samples of a batch",
        ),
        (
            {"minibatch_discrimination": 4, "model": "resnet"},
            "unknown field 'minibatch_discrimination'",
        ),
        ({"minibatch_discrimination": -1}, "minibatch_discrimination: expected a number >= 0, got -1"),
    ],
)
def test_options_that_conflict_are_errors_of_the_configuration(options, message):
    with pytest.raises(UsageError, match=message):
        Config.from_flags(**SMALL | options)


def test_an_option_of_another_family_is_an_error():
    config = Config.from_flags(minibatch_discrimination=4)  # of dcgan
    with pytest.raises(UsageError, match=r"model.minibatch_discrimination: resnet takes .*; leave it out"):
        config.with_flags(model="resnet")


@pytest.mark.parametrize("kernels", [0, 4])
def test_minibatch_discrimination_detects_a_collapse_into_a_real_image(kernels):
    """Real numbers are 0 or 1, all fake ones 0: a single 0 may be either, a batch of zeros is fake."""
    torch.manual_seed(0)
    options = {"resolution": 1, "channels": 1, "latent": 1, "width": 16}
    _, discriminator = build("mlp", variant="linear", **options, minibatch_discrimination=kernels)
    before = {name: value.clone() for name, value in discriminator.named_parameters()}
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    fake = torch.zeros(16, 1, 1, 1)
    for _ in range(150):
        real = torch.randint(2, (16, 1, 1, 1)).float()
        loss = softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert {name for name, value in discriminator.named_parameters() if torch.equal(value, before[name])} == set()
    assert ("compare.weight" in before) == bool(kernels)
    if kernels:
        assert loss < 0.3
    else:
        assert loss > 0.9  # at best: ones are real for certain, and of three zeros two are fake


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_networks_by_name_have_minibatch_discrimination_where_the_configuration_asks(model):
    sizes = {"width": 4, "latent": 4, "minibatch_discrimination": 3, "steps": 2}
    config = Config.from_flags(**SMALL | sizes, model=model)
    torch.manual_seed(0)
    generator, discriminator = build_networks(config, (1, 8, 8))
    before = discriminator.compare.weight.clone()
    t = Trainer(generator, discriminator, config.loss.adversarial, config)
    t.fit(Batches())
    assert (discriminator.compare.out_features, discriminator.compare.weight.isfinite().all()) == (3, True)
    assert (discriminator.compare.weight != before).any(0).all()
    assert "couples the samples" in t.state.about["apart"]


@pytest.mark.parametrize("options", [{"history": 8}, {"unroll": 1}])
def test_methods_that_use_one_ranks_images_need_one_rank(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))}: it uses one rank's images alone, .* got 2"):
        trainer(world=World(0, 2), **options)
