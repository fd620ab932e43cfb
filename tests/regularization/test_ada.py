"""The whole set of augmentations against plain formulas, its gradients, and how often each transformation comes."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from fastgan import Config, compile
from fastgan.errors import UsageError
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.regularization.ada import geometry
from fastgan.regularization.ada.color import color_maps, recolored
from fastgan.regularization.ada.corruption import POWER, band_gains, cut, filtered, noise_strength
from fastgan.regularization.ada.geometry import blit_maps, geometric_maps, warped
from fastgan.regularization.ada.pipeline import KINDS, NUMBERS, PIPELINES, ada
from fastgan.regularization.ada.wavelets import SYM2, SYM6, bands

EVERY = list(KINDS)
#: No transformation is chosen at a number of 0.999 and p = 0.5, every one at 0.
ALL, NONE = 0.0, 0.999


def numbers(columns, n=1, **chosen):
    """Uniform numbers that choose nothing, but those of the columns given."""
    u = torch.full((n, columns), NONE)
    for name, value in chosen.items():
        u[:, int(name[1:])] = value
    return u


def smooth(n=2, side=32, channels=3):
    torch.manual_seed(0)
    return interpolate(torch.randn(n, channels, 4, 4), size=(side, side), mode="bicubic")


@pytest.fixture
def half():
    return torch.tensor(0.5)


@pytest.mark.parametrize(("taps", "moments"), [(SYM6, 6), (SYM2, 2)])
def test_the_wavelets_are_orthonormal_and_have_their_vanishing_moments(taps, moments):
    h = torch.tensor(taps, dtype=torch.float64)
    assert h.sum().item() == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(0, len(h), 2):
        wanted = 1.0 if shift == 0 else 0.0
        assert (h[shift:] * h[: len(h) - shift]).sum().item() == pytest.approx(wanted, abs=1e-10)
    k = torch.arange(len(h), dtype=torch.float64)
    high = h * (-1) ** k
    assert all((high * (k / len(h)) ** m).sum().abs() < 1e-8 for m in range(moments))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (12, 20)])
def test_nothing_changes_at_p_0_and_everything_at_p_1(channels, shape):
    torch.manual_seed(0)
    images, u = torch.randn(5, channels, *shape), torch.rand(5, NUMBERS)
    field = torch.randn_like(images)
    assert torch.equal(ada(images, EVERY, u, field, torch.zeros(())), images)
    changed = ada(images, EVERY, u, field, torch.ones(()))
    assert torch.equal(changed, ada(images, EVERY, u, field))
    assert changed.shape == images.shape
    assert changed.isfinite().all()
    assert all((a - b).abs().max() > 0.1 for a, b in zip(changed, images, strict=True))
    for kind in EVERY:
        alone = ada(images, [kind], u, field)
        assert not torch.equal(alone, images), kind


def test_flips_rotations_and_translations_by_pixels(half):
    x = smooth()
    for u, wanted in (
        (numbers(7, 2, u0=ALL, u3=0.2), x.flip(3)),
        (numbers(7, 2, u0=ALL, u3=0.7), x),
        (numbers(7, 2, u1=ALL, u4=0.3), torch.rot90(x, 1, (2, 3))),
        (numbers(7, 2, u1=ALL, u4=0.6), torch.rot90(x, 2, (2, 3))),
    ):
        found = warped(x, blit_maps(u, half, (32, 32)))
        # The wavelet is not quite symmetric.
        assert min((found - each).abs().max() for each in (wanted, torch.rot90(wanted, 2, (2, 3)))) < 0.08
    # By 3 pixels to the right and 2 upward: exactly, inside.
    noise = torch.randn(2, 3, 32, 32)
    u = numbers(7, 2, u2=ALL, u5=0.5 + 3 / 8, u6=0.5 - 2 / 8)
    found = warped(noise, blit_maps(u, half, (32, 32)))
    torch.testing.assert_close(found[:, :, 8:24, 11:24], noise[:, :, 10:26, 8:21], rtol=0, atol=1e-5)


def test_the_map_multiplies_the_transformations_from_the_output_back(half):
    u = numbers(11, u0=ALL, u5=0.8, u1=ALL, u6=0.6, u2=ALL, u7=0.3, u3=ALL, u8=0.1, u4=ALL, u9=0.7, u10=0.2)
    found = geometric_maps(u.double(), half.double(), (20, 40))[0]
    normal = torch.distributions.Normal(0.0, 1.0)
    scale, stretch, x, y = (normal.icdf(torch.tensor(v, dtype=torch.float64)).item() for v in (0.8, 0.3, 0.7, 0.2))

    def matrix(a, b, c, d, e=0.0, f=0.0):
        return torch.tensor([[a, b, e], [c, d, f], [0, 0, 1]], dtype=torch.float64)

    def turn(angle):
        return matrix(math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle))

    s, t = 2 ** (0.2 * scale), 2 ** (0.2 * stretch)
    forward = matrix(1, 0, 0, 1, x / 8 * 40, y / 8 * 20) @ turn(-0.8 * math.pi) @ matrix(t, 0, 0, 1 / t)
    forward = forward @ turn(0.2 * math.pi) @ matrix(s, 0, 0, s)
    # Both rotations are inverted by the same sign.
    torch.testing.assert_close(torch.linalg.inv(found), forward, rtol=1e-5, atol=1e-5)


def plain_warp(image, a):
    """Each output pixel by loops in float64: fine samples by the wavelet, bilinear between them, and the wavelet."""
    side, taps, center = image.shape[0], SYM6, geometry._CENTER

    def fold(v):
        v = v % (2 * side - 2)
        return min(v, 2 * side - 2 - v)

    def at(i, j):
        return image[fold(i), fold(j)].item()

    def fine(m, n):
        rows = [(i, taps[m - 2 * i]) for i in range((m - 11) // 2, m // 2 + 1) if 0 <= m - 2 * i < 12]
        columns = [(j, taps[n - 2 * j]) for j in range((n - 11) // 2, n // 2 + 1) if 0 <= n - 2 * j < 12]
        return 2 * sum(r * c * at(i, j) for i, r in rows for j, c in columns)

    def sample(m, n):
        x, y = ((v - center) / 2 - (side - 1) / 2 for v in (n, m))
        px = fold(a[0][0] * x + a[0][1] * y + a[0][2] + (side - 1) / 2) * 2 + center
        py = fold(a[1][0] * x + a[1][1] * y + a[1][2] + (side - 1) / 2) * 2 + center
        left, top = math.floor(px), math.floor(py)
        fx, fy = px - left, py - top
        return sum(
            wy * wx * fine(top + dy, left + dx)
            for dy, wy in ((0, 1 - fy), (1, fy)) for dx, wx in ((0, 1 - fx), (1, fx)) if wy * wx
        )  # fmt: skip

    samples = [[sample(m, n) for n in range(2 * side + 10)] for m in range(2 * side + 10)]
    return [
        [sum(taps[k] * taps[n] * samples[2 * i + k][2 * j + n] for k in range(12) for n in range(12)) / 2
         for j in range(side)] for i in range(side)
    ]  # fmt: skip


def test_an_affine_map_against_loops_in_float64(half):
    torch.manual_seed(2)
    image = torch.randn(6, 6, dtype=torch.float64)
    u = torch.rand(1, 11, dtype=torch.float64)
    maps = geometric_maps(u, None, (6, 6))
    wanted = torch.tensor(plain_warp(image, maps[0].tolist()), dtype=torch.float64)
    torch.testing.assert_close(warped(image[None, None], maps)[0, 0], wanted, rtol=1e-9, atol=1e-9)
    in_float = warped(image[None, None].float(), maps.float())[0, 0]
    torch.testing.assert_close(in_float.double(), wanted, rtol=1e-4, atol=1e-4)


def test_colors_against_formulas(half):
    images = torch.randn(1, 3, 4, 4)
    gray = images.mean(1, keepdim=True)
    normal = torch.distributions.Normal(0.0, 1.0).icdf
    drawn = normal(torch.tensor(0.8)).item()
    for u, wanted in (
        (numbers(10, u0=ALL, u5=0.8), images + 0.2 * drawn),
        (numbers(10, u1=ALL, u6=0.8), images * 2 ** (0.5 * drawn)),
        (numbers(10, u2=ALL, u7=0.1), images - 2 * gray),
        (numbers(10, u2=ALL, u7=0.6), images),
        (numbers(10, u4=ALL, u9=0.8), gray + (images - gray) * 2**drawn),
        # A third of a turn around the gray axis permutes the channels.
        (numbers(10, u3=ALL, u8=0.5 + 1 / 3), images[:, [2, 0, 1]]),
    ):
        torch.testing.assert_close(recolored(images, color_maps(u, half)), wanted, rtol=1e-4, atol=1e-5)
    u = numbers(10, u0=ALL, u5=0.8, u1=ALL, u6=0.8, u2=ALL, u7=0.1, u3=ALL, u8=0.9, u4=ALL, u9=0.2)
    one = recolored(gray, color_maps(u, half))
    torch.testing.assert_close(one, -(gray + 0.2 * drawn) * 2 ** (0.5 * drawn), rtol=1e-4, atol=1e-5)
    three = recolored(gray.expand(1, 3, 4, 4), color_maps(u, half))
    torch.testing.assert_close(three, one.expand(1, 3, 4, 4), rtol=1e-4, atol=1e-5)


def test_bands_add_up_to_the_image_and_take_their_octaves(half):
    parts = bands(64, torch.device("cpu"), torch.float64)
    torch.testing.assert_close(parts.sum(0), torch.eye(64, dtype=torch.float64))
    position = torch.arange(64, dtype=torch.float64)
    for octave, frequency in enumerate((1 / 32, 3 / 16, 3 / 8, 3 / 4)):
        wave = torch.cos(math.pi * frequency * (position - 31.5))
        power = [(part @ wave)[16:48].square().mean().item() for part in parts]
        assert max(range(4), key=power.__getitem__) == octave
    images = torch.randn(2, 1, 64, 48)
    gains = torch.tensor([[1.0, 1, 1, 1], [0.5, 2, 1, 3]])
    found = filtered(images, gains)
    torch.testing.assert_close(found[0], images[0], rtol=1e-4, atol=1e-4)
    rows, columns = (
        sum(g * b for g, b in zip(gains[1], bands(n, torch.device("cpu"), torch.float32), strict=True))
        for n in (64, 48)
    )
    torch.testing.assert_close(found[1, 0], rows @ images[1, 0] @ columns.T)
    gains = band_gains(numbers(8, u1=ALL, u5=0.9), half)[0]
    assert (torch.tensor(POWER) * gains.square()).sum().item() == pytest.approx(1, abs=1e-5)
    assert (gains[1] / gains[0]).item() == pytest.approx(2**1.28155, rel=1e-4)


def test_cutout_hides_half_of_both_sides(half):
    u = numbers(3, u0=ALL, u1=0.5, u2=0.0)
    found = cut(torch.ones(1, 2, 8, 8), u, half)
    wanted = torch.ones(1, 2, 8, 8)
    wanted[:, :, 2:6, :2] = 0
    assert torch.equal(found, wanted)


def test_each_transformation_comes_with_its_probability_and_spread():
    n, p = 20_000, torch.tensor(0.3)
    torch.manual_seed(0)
    u = torch.rand(n, NUMBERS)
    eye = torch.eye(3)
    blit = blit_maps(u[:, KINDS["blit"]], p, (64, 64))
    # A flip or a rotation that turns nothing, and a translation by 0 pixels, change nothing.
    unchanged = (1 - 0.3 / 2) * (1 - 0.3 * 3 / 4) * (1 - 0.3 * (1 - 1 / 17**2))
    kept = (blit == eye).all(2).all(1).float().mean().item()
    assert kept == pytest.approx(unchanged, abs=0.02)
    geometric = geometric_maps(u[:, KINDS["geometric"]], p, (64, 64))
    assert (geometric == eye).all(2).all(1).float().mean().item() == pytest.approx(0.7**4, abs=0.015)
    # The area is that of the isotropic scale alone: its logarithm to base 2 is twice N(0, 0.2²), where it is chosen.
    area = -torch.log2(torch.linalg.det(geometric)) / 2
    scaled = area[area.abs() > 1e-5]
    assert len(scaled) / n == pytest.approx(0.3, abs=0.015)
    assert scaled.std().item() == pytest.approx(0.2, abs=0.01)
    colors = color_maps(u[:, KINDS["ada-color"]], p)
    same = ((colors - torch.eye(3, 4)).abs() < 1e-5).all(2).all(1).float().mean().item()
    assert same == pytest.approx(0.7**4 * 0.85, abs=0.015)
    gains = band_gains(u[:, KINDS["filter"]], p)
    assert ((gains - 1).abs() < 1e-5).all(1).float().mean().item() == pytest.approx(0.7**4, abs=0.015)
    sigma = noise_strength(u[:, KINDS["noise"]], p)
    assert (sigma > 0).float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert sigma[sigma > 0].square().mean().sqrt().item() == pytest.approx(0.1, abs=0.004)
    seen = cut(torch.ones(n, 1, 8, 8), u[:, KINDS["ada-cutout"]], p)
    assert (seen == 0).flatten(1).any(1).float().mean().item() == pytest.approx(0.3, abs=0.015)


def test_gradients_of_first_and_second_order():
    torch.manual_seed(1)
    u = torch.rand(2, NUMBERS, dtype=torch.float64)
    field = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)

    def through(x):  # a function that is not linear, as a discriminator is
        return torch.tanh(ada(x, EVERY[:5], u, field))

    assert torch.autograd.gradcheck(through, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(through, images, fast_mode=True)


def test_a_run_draws_what_its_kinds_take():
    from fastgan._util.random import Random

    for augment, names in (
        ("color", {"augment.real", "augment.fake"}),
        ("ada", {"ada.real", "ada.fake"}),
        ("ada-all+translation", {f"{a}.{b}" for a in ("ada", "field", "augment") for b in ("real", "fake")}),
    ):
        methods = Regularization(RegularizationConfig(augment=augment), torch.device("cpu"))
        images = torch.rand(4, 3, 16, 16)
        noise = methods.draw_for_discriminator(images, Random(0, torch.device("cpu")), 0)
        assert noise.keys() == names
        seen = methods.apply(images, "real", noise)
        if augment == "ada":
            assert torch.equal(seen, ada(images, list(PIPELINES["ada"]), noise["ada.real"]))
    with pytest.raises(UsageError, match=r"augment: expected none, or some of color,.* got 'ada\+blit'"):
        Config.from_flags(augment="ada+blit")
    with pytest.raises(UsageError, match="ada_interval: expected a number >= 1, got 0"):
        Config.from_flags(ada_interval=0)


@pytest.mark.full
def test_it_compiles_with_the_gradient_of_a_gradient():
    torch.manual_seed(0)
    images, u = torch.randn(4, 3, 16, 16), torch.rand(4, NUMBERS)
    weight = torch.randn(3, 16, 16, requires_grad=True)

    def penalty(images, u):
        points = images.detach().requires_grad_()
        logits = (torch.tanh(ada(points, list(PIPELINES["ada"]), u)) * weight).sum()
        (slope,) = torch.autograd.grad(logits, points, create_graph=True)
        value = slope.square().sum()
        return value.detach(), torch.autograd.grad(value, weight)[0]

    compiled = compile(penalty)
    for mine, right in zip(compiled(images, u), penalty(images, u), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)
    assert compiled.variants == 1
