"""Updates that are not finite: the first bad layer at every stage of a step, and buffers that are restored."""

import json
import logging
import math

import pytest
import torch
from torch import nn

import fastgan
from fastgan import Config, Trainer, models
from fastgan.errors import NonFiniteError
from fastgan.losses import AdversarialLoss
from fastgan.losses.config import LossConfig
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.tasks import Generation
from fastgan.train.nonfinite import NonFiniteGuard, first_bad_layer
from fastgan.train.step import TaskSteps


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy * math.nan


class NaNGradient(nn.Module):
    """Finite forward, NaN backward."""

    def forward(self, x):
        return BadGradient.apply(x)


def build(loss="non-saturating", precision="fp32", g_extra=None, d_extra=None, **options):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), g_extra or nn.ReLU(), nn.Linear(6, 5))
    discriminator = nn.Sequential(nn.Linear(5, 6), d_extra or nn.ReLU(), nn.Linear(6, 1))
    regularization = Regularization(RegularizationConfig(), torch.device("cpu"))
    loss = fastgan.losses.ADVERSARIAL[loss]
    task = Generation(generator, discriminator, loss, LossConfig(loss.name, **options), regularization, (4,))
    return TaskSteps(task, precision)


def find(steps, real=None, z=None, network=None, **noise):
    batch = {"real": torch.randn(8, 5) if real is None else real}
    noise = {"z": torch.randn(8, 4) if z is None else z, "epsilon": torch.rand(8, 1)} | noise
    return first_bad_layer(steps, batch, noise, network)


def nan_like(*shape):
    x = torch.randn(*shape)
    x[0, 0] = math.nan
    return x


def test_nothing_is_named_where_all_is_finite():
    assert find(build()) == ""
    assert find(build("wgan-gp")) == ""


def test_inputs_come_first():
    steps = build()
    steps.task.generator[0].weight.data[0, 0] = math.inf
    assert find(steps, nan_like(8, 5), nan_like(8, 4)) == "the batch's 'real' (1 of 40 values are not finite)"
    assert find(steps, z=nan_like(8, 4)) == "z (1 of 32 values are not finite)"
    assert find(steps) == "generator.0.weight (a weight: 1 of 24 values are not finite)"


def test_buffers_and_the_discriminators_weights():
    steps = build()
    steps.task.discriminator[2].bias.data.fill_(math.nan)
    assert find(steps) == "discriminator.2.bias (a weight: 1 of 1 values are not finite)"
    steps.task.generator[1].running_var.fill_(math.inf)  # the generator runs first
    assert find(steps) == "generator.1.running_var (a buffer: 6 of 6 values are not finite)"


def test_the_first_module_that_overflows():
    found = find(build(g_extra=Times(1e39)))
    assert found.startswith("generator.2 (its output is not finite, its input reaches ")
    steps = build(d_extra=nn.Sequential(nn.ReLU(), Times(1e39)))
    assert find(steps).startswith("discriminator.1.1 (its output of real images is not finite, its input reaches")
    steps = build(d_extra=Times(1.0))
    steps.task.generator[3].weight.data.mul_(1e30)
    steps.task.discriminator[0].weight.data.mul_(1e15)
    assert find(steps).startswith("discriminator.0 (its output of generated images is not finite, its input reaches ")


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(5, 1))

    def forward(self, x):
        return self.net(x) / 0.0


def test_a_container_that_computes_something_itself_is_named():
    steps = build()
    steps.task.discriminator = Tail()
    assert find(steps).startswith("discriminator (its output of real images is not finite")


class Head(Tail):
    def forward(self, x):
        return self.net(x / 0.0)


def test_a_module_whose_input_is_not_finite_is_not_named():
    steps = build()
    steps.task.discriminator = Head()
    assert find(steps).startswith("discriminator (its output of real images is not finite")


def test_losses_and_penalties():
    log_of_zero = AdversarialLoss("log", lambda real, fake: (real - real).log().mean(), lambda fake: fake.mean())
    steps = build()
    steps.task.loss = log_of_zero
    assert find(steps) == "loss/discriminator of the discriminator (its logits are finite)"
    steps = build()
    steps.task.loss = AdversarialLoss("log", steps.task.loss.d_loss, lambda fake: (fake - fake).log().mean())
    assert find(steps).startswith("loss/generator of the generator")
    steps = build(r1_weight=1.0)
    steps.task.discriminator[2].weight.data.mul_(1e25)  # logits fit, the square of their gradient does not
    assert find(steps).startswith("penalty/r1 of the discriminator")


def test_the_first_bad_gradient_counts_from_the_loss():
    steps = build(d_extra=NaNGradient())
    # discriminator.2 comes after the bad gradient and is finite; autograd decides which weight of layer 0 comes first.
    assert find(steps).startswith("the gradient of discriminator.0.")
    steps = build(g_extra=NaNGradient())
    assert find(steps).startswith("the gradient of generator.1.")
    assert find(steps, network="discriminator") == ""
    assert find(build(d_extra=NaNGradient()), network="generator").startswith("the gradient of generator.3.")


class Backwards(nn.Module):
    """Runs its layers in another order than it names them."""

    def __init__(self):
        super().__init__()
        self.b, self.a, self.c = nn.Linear(3, 1), nn.Linear(4, 3), nn.Linear(5, 4)

    def forward(self, x):
        return self.b(BadGradient.apply(self.a(self.c(x))))


def test_gradients_are_reported_in_the_order_of_the_backward_pass():
    steps = build()
    steps.task.discriminator = Backwards()
    assert find(steps).startswith("the gradient of discriminator.a.")


def test_a_gradient_too_large_to_square():
    steps = build()
    steps.task.loss = AdversarialLoss("steep", lambda real, fake: 1e30 * fake.mean(), lambda fake: fake.mean())
    assert find(steps).startswith("the norm of the discriminator's gradient (discriminator.")


def test_fp16_overflows_are_found_in_half_precision_and_the_scale_is_reported():
    steps = build(precision="fp16", d_extra=Times(1.0))
    steps.task.discriminator[0].weight.data.mul_(1e5)
    assert find(steps).startswith("discriminator.0 (its output of real images is not finite")
    assert find(build(precision="fp16"), loss_scale=torch.tensor(2.0**14)) == ""
    found = find(build(precision="fp16"), loss_scale=torch.tensor(2.0**30))
    assert found.startswith("the gradient of discriminator.")
    assert found.endswith("; the loss is scaled by 1e+09)")


@pytest.mark.parametrize("fused", [False, True])
def test_a_layer_inside_of_a_fused_chain(fused):
    steps = build()
    steps.task.discriminator = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)
    )
    steps.task.generator = nn.Sequential(nn.Linear(4, 36), nn.Unflatten(1, (1, 6, 6)))
    steps.task.discriminator[2].weight.data.fill_(3e38)
    if fused:
        fastgan.fuse(steps.task.discriminator)
    found = find(steps, torch.rand(3, 1, 6, 6), torch.randn(3, 4))
    assert found.startswith("discriminator.2 (its output of real images is not finite")


def test_the_search_changes_nothing():
    steps = build(d_extra=nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)))
    networks = (steps.task.generator, steps.task.discriminator)
    for network in networks:
        for weight in network.parameters():
            weight.grad = torch.full_like(weight, 2.0)
    before = [v.clone() for network in networks for v in network.state_dict().values()]
    batch, noise = {"real": torch.randn(8, 5)}, {"z": torch.randn(8, 4)}
    random = torch.random.get_rng_state()
    assert first_bad_layer(steps, batch, noise) == ""
    assert torch.equal(torch.random.get_rng_state(), random)
    for old, new in zip(before, (v for n in networks for v in n.state_dict().values()), strict=True):
        assert torch.equal(old, new)
    for network in networks:
        for weight in network.parameters():
            assert torch.equal(weight.grad, torch.full_like(weight, 2.0))
            assert not weight._backward_hooks
        for module in network.modules():
            assert not module._forward_hooks


def test_a_run_that_stops_names_the_layer_in_status_and_report(tmp_path):
    torch.manual_seed(0)
    generator, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)

    class Growing(nn.Module):
        """Overflows from its fifth batch on."""

        def __init__(self):
            super().__init__()
            self.net, self.after, self.seen = discriminator, nn.Identity(), 0

        def forward(self, x):
            self.seen += self.training and len(x) == 16
            return self.net(x) * (1e38 * 1e38 if self.seen > 4 else 1.0)

    options = {"latent": 8, "batch": 16, "steps": 20, "log_every": 2, "checkpoint_every": 2, "max_skipped": 3}
    t = Trainer(
        generator, Growing(), "non-saturating", Config.from_flags(**options, compile="off"), out=tmp_path / "run"
    )
    with pytest.raises(NonFiniteError, match=r"; the checkpoint of step \d is whole; start anew with lower") as stopped:
        t.fit(torch.rand(16, 1, 28, 28) * 2 - 1 for _ in range(20))
    first = "first bad: discriminator (its output of real images is not finite, its input reaches 1e+00)"
    assert first in str(stopped.value)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["message"] == str(stopped.value)
    assert first in (tmp_path / "run" / "report.html").read_text()


# --- buffers ---------------------------------------------------------------------------------------------------------


def networks():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
    discriminator = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
    return generator, discriminator


def vectors(steps=1, out=None, **options):
    """A Trainer whose images are vectors of 5 numbers."""
    flags = {"log_every": 2, "sample_every": 100, "checkpoint_every": 100, "compile": "off"} | options
    return Trainer(*networks(), config=Config.from_flags(steps=steps, **flags), latent_shape=(4,), out=out)


def test_buffers_are_restored_only_where_they_are_not_finite():
    t = vectors(ema_images=0)
    generator, discriminator, guard = t.generator, t.discriminator, NonFiniteGuard(t.state)
    generator[1].running_mean.fill_(0.5)
    assert guard._restore_buffers() == []
    generator[1].running_mean[2] = math.nan
    generator[1].running_var.fill_(3.0)
    discriminator[1].running_var.fill_(math.inf)
    discriminator[1].num_batches_tracked.fill_(7)
    assert guard._restore_buffers() == ["generator.1.running_mean", "discriminator.1.running_var"]
    assert torch.equal(generator[1].running_mean, torch.full((6,), 0.5))
    assert torch.equal(generator[1].running_var, torch.full((6,), 3.0))
    assert torch.equal(discriminator[1].running_var, torch.ones(6))
    assert discriminator[1].num_batches_tracked == 7
    assert guard._restore_buffers() == []


def test_networks_without_buffers():
    t = Trainer(nn.Linear(4, 2), nn.Linear(2, 1), config=Config.from_flags(compile="off"), latent_shape=(4,))
    assert NonFiniteGuard(t.state)._restore_buffers() == []


def test_averaged_statistics_are_restored_too():
    t = vectors(ema_images=100.0)
    generator, ema, guard = t.generator, t.ema, NonFiniteGuard(t.state)
    generator(torch.full((4, 4), math.nan))
    ema.update(generator, ema.weight(4, 1))
    assert "ema.1.running_mean" in guard._restore_buffers()
    for module in (generator, ema.module):
        assert all(v.isfinite().all() for v in module.state_dict().values())


def finite(trainer):
    return {
        f"{part}.{name}": bool(value.isfinite().all())
        for part in ("generator", "discriminator")
        for name, value in getattr(trainer, part).state_dict().items()
    } | {f"ema.{name}": bool(value.isfinite().all()) for name, value in trainer.ema.module.state_dict().items()}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_batch_skips_one_update(tmp_path, caplog, bad):
    rates = []

    def batches():
        for step in range(8):
            rates.append([g["lr"] for u in t.state.updates.values() for g in u.optimizer.param_groups])
            yield torch.full((6, 5), bad) if step == 2 else torch.rand(6, 5)

    t = vectors(8, tmp_path, checkpoint_every=4, lr_g=1e-3, lr_d=2e-3)
    check, not_finite = t._guard.check, []

    def recorded():
        not_finite.append(not all(finite(t).values()))
        check()

    t._guard.check = recorded
    with caplog.at_level(logging.INFO):
        t.fit(batches())
    assert not_finite == [False, True, False, False]  # unless buffers are restored, it stays so
    assert all(finite(t).values())
    assert t.state.skipped == 1
    assert [u.skipped.item() for u in t.state.updates.values()] == [0, 1]
    assert rates == [[1e-3, 2e-3]] * 4 + [[5e-4, 1e-3]] * 2 + [[1e-3, 2e-3]] * 2
    message = caplog.text
    assert "not finite at step 4, set back: discriminator.1.running_mean and 1 more" in message
    assert "skipped 1 updates that were not finite, up to step 4" in message

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_bad_latents_skip_one_update_of_each_network():
    t = vectors(6)
    draw = t.task.draw

    def drawn(network, batch, random, step):
        noise = draw(network, batch, random, step)
        return noise | {"z": noise["z"] * (math.nan if step == 1 else 1.0)}

    t.task.draw = drawn
    t.fit(torch.rand(6, 5) for _ in range(6))
    assert [u.skipped.item() for u in t.state.updates.values()] == [1, 1]
    assert all(finite(t).values())
