"""What the augmentations compute for each pixel, and how adaptive augmentation changes their probability."""

import pytest
import torch

from fastgan.regularization.adaptive import Adaptive
from fastgan.regularization.augment import KINDS, NUMBERS, augment, color, cutout, translation

CPU = torch.device("cpu")
INTERVAL = 4


def alone(tensors):
    """The mean over one rank: nothing changes."""


def test_color_by_its_formulas():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 4, 4) * 2 - 1
    middle = torch.full((1, 3), 0.5)
    torch.testing.assert_close(color(x, middle), x)  # no shift, saturation and contrast 1
    brighter = color(x, torch.tensor([[1.0, 0.5, 0.5]]))
    torch.testing.assert_close(brighter, x + 0.5)
    gray = color(x, torch.tensor([[0.5, 0.0, 0.5]]))
    torch.testing.assert_close(gray, x.mean(1, keepdim=True).expand_as(x))
    flat = color(x, torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(flat, (x + x.mean()) / 2)


def test_translation_moves_whole_pixels_and_leaves_zeros():
    x = torch.arange(1.0, 257).view(1, 1, 16, 16)  # an eighth of 16 is 2
    moved = translation(x, torch.tensor([[0.0, 0.999]]))  # up by 2, right by 2
    assert torch.equal(moved[0, 0, :14, 2:], x[0, 0, 2:, :14])
    assert moved[0, 0, 14:].abs().sum() == moved[0, 0, :, :2].abs().sum() == 0
    assert torch.equal(translation(x, torch.full((1, 2), 0.5)), x)
    # All five shifts, and no others; the largest number below 1 too.
    u = torch.linspace(0, 1, 1000)[:-1]
    u = torch.cat([u, torch.tensor([1 - 2**-24])])
    found = translation(x.expand(1000, -1, -1, -1), torch.stack([u, torch.full_like(u, 0.5)], 1))[:, 0, 8, 8]
    assert sorted(set(((found - x[0, 0, 8, 8]) / 16).tolist())) == [-2, -1, 0, 1, 2]


def test_cutout_zeroes_half_of_each_side():
    x = torch.ones(500, 2, 8, 8)
    y = cutout(x, torch.rand(500, 2, generator=torch.Generator().manual_seed(0)))
    hidden = (y == 0).all(1)
    assert torch.equal(hidden, (y == 0).any(1))
    sizes = torch.stack([hidden.any(2).sum(1), hidden.any(1).sum(1)])
    assert sizes.max() == 4
    assert sizes.min() >= 2  # half of it may lie beyond the border
    assert torch.equal(hidden.sum((1, 2)), sizes.prod(0))  # a rectangle
    assert hidden.any(0).all()  # anywhere


@pytest.mark.parametrize("kinds", [*KINDS, "+".join(KINDS)])
def test_augmentations_are_differentiable(kinds):
    source = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=source, requires_grad=True)
    u = torch.rand(2, NUMBERS, generator=source)
    assert torch.autograd.gradcheck(lambda x: augment(x, kinds, u), x)


def test_only_the_given_kinds_are_applied_with_the_given_probability():
    source = torch.Generator().manual_seed(0)
    x, u = torch.rand(2000, 1, 8, 8, generator=source) + 0.1, torch.rand(2000, NUMBERS, generator=source)
    for p in (0.0, 0.3, 1.0):
        changed = (augment(x, "cutout", u, torch.tensor(p)) != x).flatten(1).any(1)
        assert changed.float().mean().item() == pytest.approx(p, abs=0.03)
        assert ((augment(x, "cutout", u, torch.tensor(p)) == 0).flatten(1).any(1) == changed).all()
    # Each kind is drawn independently.
    both = augment(x, "translation+cutout", u, torch.tensor(0.5))
    assert (both == x).flatten(1).all(1).float().mean().item() == pytest.approx(0.25 + 0.25 / 9, abs=0.03)


def test_the_probability_rises_above_the_target_and_falls_below_it():
    control = Adaptive(target=0.6, images=1000, interval=INTERVAL, device=CPU, mean=alone)
    for _ in range(INTERVAL - 1):
        control.update(torch.tensor(0.9), 10)
        assert control.p == 0
    control.update(torch.tensor(0.9), 10)
    assert control.p.item() == pytest.approx(0.04)  # 40 of the 1000 images that it takes from 0 to 1
    for _ in range(2 * INTERVAL):
        control.update(torch.tensor(0.9), 10)
    assert control.p.item() == pytest.approx(0.12)
    for sign in (0.9, 0.1, 0.7, 0.5):  # 0.55 in the mean
        control.update(torch.tensor(sign), 10)
    assert control.p.item() == pytest.approx(0.08)
    for _ in range(5 * INTERVAL):
        control.update(torch.tensor(-1.0), 10)
    assert control.p == 0
    for _ in range(40 * INTERVAL):
        control.update(torch.tensor(1.0), 10)
    assert control.p == 1


def test_the_controller_is_restored_from_its_tensors():
    one = Adaptive(0.6, 1000, INTERVAL, CPU, alone)
    for sign in (0.9, 0.9, 0.9, 0.9, 0.7, 0.2):
        one.update(torch.tensor(sign), 10)
    other = Adaptive(0.6, 1000, INTERVAL, CPU, alone)
    other.load_tensors({name: value.clone() for name, value in one.tensors().items()})
    for sign in (0.5, 0.9, 0.9):
        one.update(torch.tensor(sign), 10)
        other.update(torch.tensor(sign), 10)
        assert torch.equal(one.p, other.p)
    assert one.p.item() == pytest.approx(0.0)  # 0.575 in the mean
