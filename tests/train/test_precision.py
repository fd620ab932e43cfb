"""Steps in half precision: as accurate as plain PyTorch's autocast; penalties in float32; the loss scale."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import Config, Trainer
from fastgan.errors import NonFiniteError
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.tasks import Generation
from fastgan.train import optim
from fastgan.train.device import float32_products, resolve_precision, why_slow
from fastgan.train.step import TaskSteps

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSSES = {
    "wgan-gp": {"loss": "wgan-gp", "d_steps": 1},
    "hinge, spectral norm": {"loss": "hinge"},
    "non-saturating, R1": {"loss": "non-saturating", "r1_weight": 2.0},
}
N = 6


def networks(kind, seed=0):
    torch.manual_seed(seed)
    generator = nn.Sequential(
        nn.Linear(8, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(256, 1),
    )  # fmt: skip
    if "spectral" in kind:
        for layer in (discriminator[0], discriminator[2], discriminator[5]):
            nn.utils.parametrizations.spectral_norm(layer)
    return generator, discriminator


def draws(seed=0):
    torch.manual_seed(seed + 100)
    return torch.rand(N, 3, 16, 16) * 2 - 1, torch.randn(N, 8), torch.rand(N, 1, 1, 1)


def fused_steps(kind, precision="fp32", seed=0, **options):
    """The steps of fused networks, as users have them."""
    generator, discriminator = networks(kind, seed)
    config = Config.from_flags(precision=precision, **LOSSES[kind], **options)
    regularization = Regularization(RegularizationConfig(), torch.device("cpu"))
    task = Generation(
        fastgan.fuse(generator), fastgan.fuse(discriminator), config.adversarial, config.loss, regularization, (8,)
    )
    return TaskSteps(task, precision)


def plain_steps(kind, generator, discriminator, real, z, epsilon, dtype, scale=1.0):
    """Both networks' gradients and the penalty in plain PyTorch, written as its documentation of autocast shows."""

    def slope(points):
        points = points.detach().requires_grad_()
        logits = discriminator(points)
        (slope,) = torch.autograd.grad(logits.to(real.dtype).sum() * scale, points, create_graph=True)
        return slope / scale

    penalty = real.new_zeros(())
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        fake = generator(z).detach()
        d_real, d_fake = discriminator(real).to(real.dtype), discriminator(fake).to(real.dtype)
        if kind == "wgan-gp":
            loss = d_fake.mean() - d_real.mean()
            between = real + epsilon * (fake.to(real.dtype) - real)
            penalty = 10 * (slope(between).flatten(1).norm(dim=1) - 1).square().mean()
        elif "hinge" in kind:
            loss = F.relu(1 - d_real).mean() + F.relu(1 + d_fake).mean()
        else:
            loss = F.softplus(-d_real).mean() + F.softplus(d_fake).mean()
            penalty = slope(real).square().sum((1, 2, 3)).mean()  # 2.0 / 2 of it
        d = torch.autograd.grad((loss + penalty) * scale, list(discriminator.parameters()))
        logits = discriminator(generator(z)).to(real.dtype)
        g_loss = F.softplus(-logits).mean() if "saturating" in kind else -logits.mean()
        g = torch.autograd.grad(g_loss * scale, list(generator.parameters()))
    return vector(d) / scale, vector(g) / scale, penalty.detach()


def our_steps(ours, real, z, epsilon, scale=None):
    noise = {"z": z, "epsilon": epsilon, "lazy": True} | ({} if scale is None else {"loss_scale": scale})
    loss, d = ours.discriminator({"real": real}, noise)
    divisor = 1.0 if scale is None else scale
    return vector(d) / divisor, vector(ours.generator({"real": real}, noise)[1]) / divisor, loss.log


def vector(gradients):
    return torch.cat([g.double().flatten() for g in gradients])


def error(gradient, truth):
    return float((gradient - truth).norm() / truth.norm())


def truth_of(kind, seed=0):
    doubles = [network.double() for network in networks(kind, seed)]
    return plain_steps(kind, *doubles, *(x.double() for x in draws(seed)), None)


SCALES = {"bf16": None, "fp16": torch.tensor(2.0**10)}


@pytest.mark.parametrize("precision", list(DTYPES))
@pytest.mark.parametrize("kind", list(LOSSES))
def test_gradients_are_as_accurate_as_those_of_plain_autocast(kind, precision):
    scale, errors = SCALES[precision], []
    for seed in range(3):
        true_d, true_g, true_penalty = truth_of(kind, seed)
        dtype, factor = DTYPES[precision], 1.0 if scale is None else float(scale)
        plain_d, plain_g, plain_penalty = plain_steps(kind, *networks(kind, seed), *draws(seed), dtype, factor)
        d, g, log = our_steps(fused_steps(kind, precision, seed), *draws(seed), scale)
        penalties = [value for name, value in log.items() if name.startswith("penalty/")]
        assert len(penalties) == ("hinge" not in kind)
        for value in penalties:
            assert value.dtype == torch.float32
            assert abs(value - true_penalty) <= 2 * abs(plain_penalty - true_penalty) + 1e-3 * true_penalty
        errors.append([error(d, true_d), error(plain_d, true_d), error(g, true_g), error(plain_g, true_g)])
    ours_d, theirs_d, ours_g, theirs_g = torch.tensor(errors).mean(0).tolist()
    assert 0 < theirs_d < 0.1  # the plain step is the same step
    assert ours_d <= 2 * theirs_d
    assert ours_g <= 2 * theirs_g


@pytest.mark.parametrize("kind", list(LOSSES))
def test_in_float32_both_are_exact(kind):
    true_d, true_g, true_penalty = truth_of(kind)
    d, g, log = our_steps(fused_steps(kind), *draws())
    plain_d, plain_g, _ = plain_steps(kind, *networks(kind), *draws(), None)
    for gradient, truth in ((d, true_d), (g, true_g), (plain_d, true_d), (plain_g, true_g)):
        assert error(gradient, truth) < 1e-5
    for name in log:
        if name.startswith("penalty/"):
            torch.testing.assert_close(log[name].double(), true_penalty, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["wgan-gp", "non-saturating, R1"])
def test_penalties_unscale_before_they_square(kind):
    scale = torch.tensor(2.0**14)
    real, z, epsilon = draws()
    # A light penalty, for its weights' gradient has to fit too.
    half, single = (fused_steps(kind, precision, gp_weight=0.5) for precision in ("fp16", "fp32"))
    for p in (half, single):
        p.task.discriminator[0].weight.data.mul_(16)  # a steeper discriminator
    # Whether it would overflow: the scaled gradient fits into half precision, its square does not.
    points = real.clone().requires_grad_()
    with half.autocast({"real": real}):
        (first,) = torch.autograd.grad(half.task.discriminator(points).float().sum() * scale, points)
    assert first.half().isfinite().all()
    assert not first.half().square().isfinite().all()
    d, g, log = our_steps(half, real, z, epsilon, scale)
    true_d, true_g, true_log = our_steps(single, real, z, epsilon)
    assert error(d, true_d) < 0.01
    assert error(g, true_g) < 0.01
    for name in log:
        assert log[name].isfinite(), name
        if name.startswith("penalty/"):
            assert log[name].dtype == torch.float32
            torch.testing.assert_close(log[name], true_log[name], rtol=0.01, atol=0)  # logged without the scale


def test_the_gradients_inside_penalties_are_scaled():
    """Without the scale, gradients of 1e-7 lose most of their digits in half precision, or become 0."""
    scale, kind = torch.tensor(2.0**14), "non-saturating, R1"
    real, z, epsilon = draws()
    half, single = (fused_steps(kind, precision) for precision in ("fp16", "fp32"))
    for steps in (half, single):
        steps.task.discriminator[5].weight.data.mul_(1e-5)
    log, true_log = our_steps(half, real, z, epsilon, scale)[2], our_steps(single, real, z, epsilon)[2]
    torch.testing.assert_close(log["penalty/r1"], true_log["penalty/r1"], rtol=0.05, atol=0)


def trained(kind, monkeypatch, first_scale, steps=40, **options):
    monkeypatch.setattr(optim, "FIRST_SCALE", first_scale)
    config = Config.from_flags(steps=steps, log_every=4, compile="off", precision="fp16", **LOSSES[kind], **options)
    t = Trainer(*networks(kind), config.loss.adversarial, config, latent_shape=(8,))
    torch.manual_seed(1)
    before = [w.detach().clone() for n in (t.generator, t.discriminator) for w in n.parameters()]
    last = t.fit(torch.rand(N, 3, 16, 16) * 2 - 1 for _ in range(steps))
    moved = [
        not torch.equal(a, b)
        for a, b in zip(before, [w for n in (t.generator, t.discriminator) for w in n.parameters()], strict=True)
    ]
    return t, last, moved


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_scale_far_too_large_backs_off_and_training_goes_on(kind, monkeypatch):
    t, last, moved = trained(kind, monkeypatch, 2.0**36)
    assert sum(moved) >= len(moved) - 1  # WGAN's last bias cancels between real and fake
    for update in t.state.updates.values():
        assert 0 < update.skipped < 30
        assert update.in_a_row == 0
        assert update.scale == 2.0 ** (36 - int(update.skipped))
    assert t.state.back_off == 1.0  # the scale was too large, not the learning rates
    assert all(math.isfinite(value) for value in last.values())


def test_no_scale_helps_where_numbers_are_too_large(monkeypatch):
    with pytest.raises(
        NonFiniteError, match=r"in \d+ updates in a row, .*first bad: the gradient of discriminator\..*scaled"
    ):
        trained("hinge, spectral norm", monkeypatch, 2.0**60, max_skipped=5)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("before", [(False, True), (True, False)])
def test_the_precision_of_products_is_set_and_restored(tf32, before):
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    kept = flags()
    try:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        with float32_products(tf32):
            assert flags() == (tf32, tf32)
        assert flags() == before
        with pytest.raises(ZeroDivisionError), float32_products(tf32):
            raise ZeroDivisionError
        assert flags() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize("tf32", [False, True])
def test_newer_switches_of_the_precision_are_restored(tf32):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def newer():
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision

    kept = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.fp32_precision, cudnn.conv.fp32_precision = "tf32", "ieee"
        before = newer()
        with pytest.raises(RuntimeError):  # what must not stop a run
            cudnn.allow_tf32  # noqa: B018
        with float32_products(tf32):
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
        assert newer() == before == ("tf32", "ieee", before[2])
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = kept


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_run_sets_the_precision_of_products(precision):
    seen = []

    def batches():
        while True:
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            yield torch.rand(N, 3, 16, 16) * 2 - 1

    config = Config.from_flags(steps=2, compile="off", precision=precision)
    Trainer(*networks("hinge"), config=config, latent_shape=(8,)).fit(batches())
    assert set(seen) == {(precision == "tf32",) * 2}


@pytest.mark.parametrize("has_it", [True, False])
def test_a_cpu_that_emulates_half_precision_logs_a_warning(has_it, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    config = Config.from_flags(steps=1, compile="off", precision="bf16")
    Trainer(*networks("hinge"), config=config, latent_shape=(8,)).fit(iter([torch.rand(N, 3, 16, 16) * 2 - 1]))
    assert ("bf16 is emulated on this CPU" in caplog.text) is not has_it
    assert why_slow("fp32", torch.device("cpu")) == why_slow("bf16", torch.device("cuda")) == ""


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_gpus_that_have_it(capability, precision, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == precision
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"
    config = Config.from_flags(precision="auto", steps=1, compile="off", device="cpu")
    t = Trainer(*networks("hinge"), config=config, latent_shape=(8,), out=tmp_path)
    assert t.config.precision == "fp32"
    t.fit(iter([torch.rand(N, 3, 16, 16) * 2 - 1]))
    stored = json.loads((tmp_path / "config.json").read_text())["config"]
    assert stored["precision"] == "fp32"  # a resumed run goes on with it
