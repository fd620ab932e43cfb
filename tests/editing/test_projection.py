import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan.editing import perceptual_distance, project
from fastgan.editing.projection import _autocorrelation, _schedule, _Step
from fastgan.editing.styles import w_of_seeds
from fastgan.errors import UsageError
from fastgan.losses import perceptual_loss
from fastgan.models.stylegan import Generator


@pytest.mark.parametrize("space", ["w", "w+"])
def test_the_image_of_the_generator_is_recovered(tiny, space):
    with torch.no_grad():
        target = tiny.synthesis(w_of_seeds(tiny, [12_345]), noise_mode="const")
    before = copy.deepcopy(tiny.state_dict())
    found = project(tiny, target, space=space, steps=300, noise_weight=0)
    assert found.psnr > 30
    assert found.w.shape == (1, 3, 5)
    assert found.noise == {}
    assert torch.allclose(tiny.synthesis(found.w, noise_mode="const"), found.image)
    assert (found.w[:, 0] == found.w[:, 1]).all() == (space == "w")
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_noise_maps_are_optimized_and_given_back(tiny):
    torch.manual_seed(3)
    other = copy.deepcopy(tiny)
    for name, buffer in other.synthesis.named_buffers():
        if name.endswith("noise_const"):
            buffer.copy_(torch.randn_like(buffer))
    with torch.no_grad():
        target = other.synthesis(w_of_seeds(tiny, [7]), noise_mode="const")
    plain = project(tiny, target, steps=150, noise_weight=0)
    found = project(tiny, target, steps=150, noise_weight=0.01)
    assert found.psnr > plain.psnr + 3
    assert sorted(found.noise) == ["first.noise_const", "second.noise_const", "third.noise_const"]
    for one in found.noise.values():
        assert abs(float(one.mean())) < 0.2
        assert abs(float(one.square().mean()) - 1) < 0.2


def test_the_distance_is_part_of_the_loss(tiny):
    target = torch.zeros(1, 3, 16, 16)
    seen = []

    def distance(images, targets):
        seen.append((images.shape, targets is not None))
        return images.sum() * 0 + 7.0

    found = project(tiny, target, steps=2, distance=distance, noise_weight=0)
    assert len(seen) == 2
    assert all(loss > 7 for loss in found.history)


def test_the_same_seed_gives_the_same_projection(tiny):
    target = torch.zeros(1, 3, 16, 16)
    first, second = (project(tiny, target, steps=5, seed=4) for _ in range(2))
    assert torch.equal(first.w, second.w)
    assert first.history == second.history


def test_autocorrelation_is_small_for_noise_and_large_for_smooth_maps():
    torch.manual_seed(0)
    noise = torch.randn(64, 64)
    smooth = nn.functional.avg_pool2d(noise[None, None], 5, 1, 2)[0, 0]
    smooth = smooth / smooth.std()
    assert _autocorrelation(noise) < 0.1
    assert _autocorrelation(smooth) > 1


def test_schedule_rises_stays_and_falls():
    assert _schedule(0.0) == pytest.approx(0.02)
    assert _schedule(0.5) == 1
    assert _schedule(0.875) == pytest.approx(0.5)
    assert _schedule(1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": "z"}, "space: expected w or w"),
        ({"steps": 0}, "steps: expected a number >= 1, got 0"),
        ({"rate": 0.0}, "rate: expected a number > 0"),
        ({"noise_weight": -1}, "noise_weight: expected a number >= 0"),
        ({"target": torch.zeros(1, 3, 8, 8)}, r"target: expected an image \[1, 3, 16, 16\], got \[1, 3, 8, 8\]"),
        ({"label": 1}, "label: expected none, the generator has no classes, got 1"),
    ],
)
def test_bad_input_is_named(tiny, given, message):
    with pytest.raises(UsageError, match=message):
        project(tiny, **{"target": torch.zeros(1, 3, 16, 16), **given})


def test_a_generator_without_styles_is_named():
    with pytest.raises(UsageError, match="Linear has no mapping and no synthesis and no num_ws"):
        project(nn.Linear(2, 2), torch.zeros(1, 3, 16, 16))


def test_an_image_of_stylegan2_is_recovered_in_w_plus():
    torch.manual_seed(0)
    sizes = {"channel_base": 512, "channel_max": 32}
    network = Generator(32, 0, 32, 32, 3, mapping_kwargs={"num_layers": 2}, **sizes).eval().requires_grad_(False)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("torgb.weight"):  # of a network that is not trained, whose images exceed [-1, 1]
                weight.mul_(0.12)
        target = network.synthesis(w_of_seeds(network, [12_345]), noise_mode="const")
    assert target.abs().max() < 1
    found = project(network, target, steps=150)
    assert found.psnr > 30
    assert len(found.noise) == 7


@pytest.mark.full
def test_a_compiled_step_computes_the_same(tiny):
    step = _Step(tiny, torch.zeros(1, 3, 16, 16), ["first.noise_const", "third.noise_const"], None, 10.0)
    random = torch.Generator().manual_seed(0)
    w, first, third = (torch.randn(shape, generator=random).requires_grad_() for shape in ((1, 3, 5), (8, 8), (16, 16)))
    compiled = fastgan.compile(step)
    found = compiled(w, [first, third], torch.zeros_like(w))
    for one, other in zip(found, step(w, [first, third], torch.zeros_like(w)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not compiled.why_eager


def test_history_leaves_out_the_term_of_the_noise(tiny):
    found = project(tiny, torch.zeros(1, 3, 16, 16), steps=3, noise_weight=1e6)
    assert max(found.history) < 4


@pytest.mark.parametrize("side", [64, 300])
def test_the_perceptual_distance_reduces_large_pictures(side):
    torch.manual_seed(0)
    images, target = (torch.rand(1, 3, side, side + 20) * 2 - 1 for _ in range(2))
    images.requires_grad_()
    small = [x if side == 64 else F.interpolate(x, (256, 273), mode="area") for x in (images, target)]
    found = perceptual_distance("random", torch.device("cpu"), 2.0)(images, target)
    torch.testing.assert_close(found, 2 * perceptual_loss("random")(*small), rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(found, images)
    assert slope.abs().max() > 0
