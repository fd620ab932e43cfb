"""Penalties: closed forms, equality with plain PyTorch, half precision, and bad input."""

import pytest
import torch
from torch import nn

from fastgan.engine.dynamo import quiet
from fastgan.errors import UsageError
from fastgan.losses import PENALTIES, dragan, gradient_penalty, r1, r2, zero_centered_gp

REAL, FAKE = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded():
    return torch.Generator().manual_seed(3)


def test_penalties_of_a_linear_discriminator_have_a_closed_form():
    w = torch.tensor([[3.0, 4.0]], requires_grad=True)
    discriminator = lambda x: x @ w.T  # noqa: E731
    real, fake = torch.randn(6, 2), torch.randn(6, 2)
    penalty = gradient_penalty(discriminator, real, fake, weight=10.0)
    assert penalty.item() == pytest.approx(10 * (5 - 1) ** 2)
    (grad,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(grad, 10 * 2 * 4 * w.detach() / 5)
    assert gradient_penalty(discriminator, real, fake, target=5.0).item() == pytest.approx(0, abs=1e-9)
    assert r1(discriminator, real, weight=3.0).item() == pytest.approx(1.5 * 25)
    assert r2(discriminator, fake, weight=3.0).item() == pytest.approx(1.5 * 25)
    assert zero_centered_gp(discriminator, real, fake, weight=3.0).item() == pytest.approx(3 * 25)
    assert dragan(discriminator, real, weight=3.0).item() == pytest.approx(3 * 16)


def test_penalty_points_lie_between_real_and_fake_and_repeat_with_the_seed():
    seen = []
    discriminator = lambda x: (seen.append(x.detach()), x.square().sum(1))[1]  # noqa: E731
    real, fake = torch.zeros(50, 2), torch.ones(50, 2)
    for _ in range(2):
        gradient_penalty(discriminator, real, fake, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    torch.testing.assert_close(seen[0][:, 0], seen[0][:, 1])  # one weight per sample
    assert 0 <= seen[0].min() < 0.2 < 0.8 < seen[0].max() <= 1


def test_a_vanishing_gradient_gives_finite_derivatives():
    w = torch.zeros(1, 2, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ w.T, torch.randn(4, 2), torch.randn(4, 2))
    assert penalty.item() == pytest.approx(10)
    assert torch.autograd.grad(penalty, w)[0].isfinite().all()


def test_penalty_in_bfloat16_is_summed_in_float32():
    w = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    penalty = r1(lambda x: x @ w.T, torch.zeros(2, 4096, dtype=torch.bfloat16), weight=2.0)
    assert penalty.dtype == torch.float32
    assert penalty.item() == 4096  # in bfloat16 the sum would stay at 256


def test_dragan_stays_near_the_real_images():
    seen = []
    discriminator = lambda x: (seen.append(x.detach()), x.square().sum(1))[1]  # noqa: E731
    real = torch.randn(500, 20, generator=seeded())
    for _ in range(2):
        dragan(discriminator, real, generator=seeded())
    away = (seen[0] - real) / real.std()
    assert torch.equal(seen[0], seen[1])
    # Uniform in [0, 1) times uniform in [0, 1) times one half.
    assert away.min() >= 0
    assert away.max() < 0.5
    assert away.mean().item() == pytest.approx(0.125, abs=0.01)


CRITICS = {
    "leaky_relu": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1)),
    "sigmoid": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid()),
    "layer_norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.LayerNorm([4, 4, 4]), nn.ReLU(), nn.Conv2d(4, 1, 4)
    ),
    "patches": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)),
}


def by_hand(discriminator, points, target):
    points = points.detach().requires_grad_()
    (g,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)
    size = g.flatten(1).norm(dim=1)
    return (size.square() if target is None else (size - target).square()).mean()


@pytest.mark.parametrize("discriminator", CRITICS)
def test_values_and_gradients_equal_plain_pytorch_s(discriminator):
    torch.manual_seed(0)
    network = CRITICS[discriminator]().double()
    weights = list(network.parameters())
    points = torch.lerp(REAL, FAKE, torch.rand(6, 1, 1, 1, dtype=torch.float64, generator=seeded()))
    pairs = [
        (gradient_penalty(network, REAL, FAKE, generator=seeded()), 10 * by_hand(network, points, 1.0)),
        (zero_centered_gp(network, REAL, FAKE, generator=seeded()), 10 * by_hand(network, points, None)),
        (r1(network, REAL, weight=4.0), 2 * by_hand(network, REAL, None)),
        (r2(network, FAKE, weight=4.0), 2 * by_hand(network, FAKE, None)),
    ]
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)
        found = [torch.autograd.grad(v, weights, allow_unused=True) for v in (ours, plain)]
        for got, want in zip(*found, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_labels_and_other_arguments_reach_the_discriminator():
    table = nn.Embedding(5, 3 * 64).double()
    labels = torch.arange(6) % 5

    def discriminator(x, labels, *, gain):
        return gain * (x.flatten(1) * table(labels)).sum(1)

    norms = table(labels).norm(dim=1)
    expected = 10 * (2 * norms - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(discriminator, REAL, FAKE, labels, gain=2.0), expected)
    torch.testing.assert_close(r1(discriminator, REAL, labels, gain=2.0), 2 * norms.square().mean())
    torch.testing.assert_close(r2(discriminator, FAKE, labels, gain=2.0), 2 * norms.square().mean())
    torch.testing.assert_close(
        zero_centered_gp(discriminator, REAL, FAKE, labels, gain=2.0), 40 * norms.square().mean()
    )
    torch.testing.assert_close(dragan(discriminator, REAL, labels, gain=2.0), expected)


@pytest.mark.parametrize("scale", [1024.0, torch.tensor(1024.0)], ids=["number", "tensor"])
def test_a_loss_scale_is_divided_out_before_anything_is_squared(scale):
    # Gradients of 1e-6 are subnormal in float16, and their squares underflow.
    w = torch.full((1, 64), 1e-6, dtype=torch.float16, requires_grad=True)
    discriminator = lambda x: x @ w.T  # noqa: E731
    x = torch.randn(4, 64, generator=seeded()).half()
    true = (w.detach().double() ** 2).sum().item()
    unscaled, scaled = (r1(discriminator, x, weight=2.0, scale=s).item() for s in (1.0, scale))
    assert scaled == pytest.approx(true, rel=1e-3)
    assert scaled == pytest.approx(unscaled, rel=1e-3)  # a linear discriminator's gradient is exact either way
    steep = lambda x: (x @ w.T) * 1e-3  # noqa: E731
    assert r1(steep, x, weight=2.0).item() == 0
    assert r1(steep, x, weight=2.0, scale=scale).item() == pytest.approx(true * 1e-6, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    torch.manual_seed(0)
    network = CRITICS["leaky_relu"]()
    real, fake = REAL.float(), FAKE.float()
    exact = gradient_penalty(network, real, fake, generator=seeded())
    with torch.autocast("cpu", dtype):
        value = gradient_penalty(network, real, fake, generator=seeded())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.02)
    gradients = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    assert all(g is None or g.dtype == torch.float32 for g in gradients)


def test_a_penalty_can_be_logged_under_no_grad():
    network = CRITICS["leaky_relu"]().double()
    with torch.no_grad():
        value = r1(network, REAL)
    assert value.item() == pytest.approx(r1(network, REAL).item())


def test_points_have_the_dtype_of_real():
    seen = []
    discriminator = lambda x: (seen.append(x.dtype), x.square().sum((1, 2, 3)))[1]  # noqa: E731
    gradient_penalty(discriminator, REAL.float(), FAKE.bfloat16())
    assert seen == [torch.float32]


def test_real_and_fake_take_no_gradient():
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    gradient_penalty(lambda x: x.square().sum((1, 2, 3)).sigmoid(), real, fake)
    r1(lambda x: x.square().sum((1, 2, 3)), real)
    assert real.requires_grad
    assert real.grad is None
    assert fake.grad is None


SUM = lambda x: x.sum((1, 2, 3))  # noqa: E731


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gradient_penalty(SUM, REAL, FAKE[:4]),
            r"fake: expected the shape of real \[6, 3, 8, 8\], got \[4",
        ),
        (lambda: gradient_penalty(SUM, REAL, FAKE.to("meta")), "fake: expected the device of real cpu, got meta"),
        (lambda: r1(SUM, (REAL * 255).byte()), r"real: expected a floating tensor \[N, ...\], got torch.uint8"),
        (lambda: r2(SUM, None), r"fake: expected a floating tensor \[N, ...\], got <class 'NoneType'>"),
        (lambda: dragan(SUM, REAL.flatten()), r"real: expected \[N, ...\], got \[1152\]"),
        (
            lambda: r1(lambda x: x.detach().sum(1), REAL),
            "discriminator: expected logits that depend on the images diff",
        ),
        (lambda: r1(lambda x: x.argmax(1), REAL), "discriminator: .* got a tensor of torch.int64 without a gradient"),
        (lambda: r1(lambda x: (SUM(x), x), REAL), "discriminator: expected logits, .* got 2 in a tuple"),
        (
            lambda: r1(lambda x: torch.ones(6, requires_grad=True) * 2, REAL),
            "discriminator: expected logits that depend on the images, got a gradient of None",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="Dynamo of PyTorch 2.11 refuses requires_grad_ on a tensor that it has made",
)
def test_compiles_whole():
    torch.manual_seed(0)
    network = CRITICS["leaky_relu"]().double()
    weights = list(network.parameters())

    def step(real, fake):
        return torch.autograd.grad(gradient_penalty(network, real, fake, target=0.5), weights, allow_unused=True)[0]

    with torch._dynamo.config.patch(trace_autograd_ops=True), quiet():
        got = torch.compile(step, fullgraph=True, backend="aot_eager")(REAL, REAL)
    torch.testing.assert_close(got, step(REAL, REAL), rtol=1e-10, atol=1e-12)


def test_penalties_by_name():
    """Penalties of a discriminator 3x₁ + 4x₂, whose gradient norm is 5 everywhere."""

    def discriminator(x, y):
        assert y == "label"
        return x @ torch.tensor([3.0, 4.0])

    real, fake = torch.randn(6, 2), torch.randn(6, 2)
    expected = {"gradient_penalty": 16, "zero_centered_gp": 25, "dragan": 16, "r1": 12.5, "r2": 12.5}
    assert expected.keys() == PENALTIES.keys()
    for name, value in expected.items():
        penalty = PENALTIES[name](discriminator, real, fake, "label", weight=1.0, epsilon=None, scale=1.0)
        assert penalty.item() == pytest.approx(value, rel=1e-4), name


def test_r1_uses_real_and_r2_fake_images():
    def discriminator(x):
        return x.square().sum(1) / 2  # slope x

    real, fake = torch.full((4, 2), 2.0), torch.full((4, 2), 3.0)
    found = {
        name: PENALTIES[name](discriminator, real, fake, weight=1.0, epsilon=None, scale=1.0) for name in ("r1", "r2")
    }
    assert found["r1"].item() == pytest.approx(4)
    assert found["r2"].item() == pytest.approx(9)


@pytest.mark.parametrize("penalty", [gradient_penalty, zero_centered_gp, r1, r2, dragan])
def test_one_of_several_outputs_is_selected(penalty):
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softplus(), nn.Linear(3, 2)).double()
    images = (REAL, FAKE) if penalty in (gradient_penalty, zero_centered_gp) else (REAL,)

    def value(network, output=None):
        torch.manual_seed(0)
        return penalty(network, *images, output=output)

    expected = value(lambda x: body(x)[:, :1])
    torch.testing.assert_close(value(lambda x: body(x).split(1, 1), 0), expected)
    torch.testing.assert_close(value(lambda x: {"features": x, "logits": body(x)[:, :1]}, "logits"), expected)
    torch.testing.assert_close(value(lambda x: [x, body(x)[:, :1]], lambda outputs: outputs[1]), expected)
    cat = value(lambda x: body(x).split(1, 1), lambda scales: torch.cat(scales, 1))
    torch.testing.assert_close(cat, value(body))
    for outputs, came in (
        (lambda x: [x, body(x)], "2 in a list"),
        (lambda x: {"logits": x}, "dictionary with 'logits'"),
    ):
        with pytest.raises(UsageError, match=f"expected logits, one tensor, got .*{came}; say which by output="):
            value(outputs)
        with pytest.raises(UsageError, match=f"output: the discriminator's outputs have no 7, got .*{came}"):
            value(outputs, 7)
