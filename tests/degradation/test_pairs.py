"""Random crops of pairs, and the pool of pairs."""

import numpy as np
import pytest
import torch

from fastgan.degradation import PairPool, Random, random_crop
from fastgan.errors import UsageError

CPU = torch.device("cpu")


def numbered(n, height, width, channels=1):
    """Images whose pixels are all different."""
    return torch.arange(float(n * channels * height * width)).view(n, channels, height, width)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_crop_is_a_turned_part_of_its_image_at_the_same_place_in_both(channels):
    low = numbered(64, 7, 9, channels)
    high = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    cropped = random_crop({"source": low, "target": high}, 8, Random(0, CPU))
    assert cropped["source"].shape == (64, channels, 4, 4)
    # The larger one is the smaller one with every pixel repeated: so it stays, if both are cropped alike.
    doubled = cropped["source"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(cropped["target"], doubled)
    found = set()
    for image, crop in zip(low.numpy(), cropped["source"].numpy(), strict=True):
        turned = {
            (k, mirror): np.rot90(crop[:, :, ::-1] if mirror else crop, k, (1, 2))
            for k in range(4)
            for mirror in (False, True)
        }
        places = [
            (top, left, how)
            for top in range(4)
            for left in range(6)
            for how, each in turned.items()
            if np.array_equal(each, image[:, top : top + 4, left : left + 4])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert {top for top, _, _ in found} == {0, 1, 2, 3}
    assert {left for _, left, _ in found} == {0, 1, 2, 3, 4, 5}
    assert len({how for _, _, how in found}) == 8


def test_without_random_numbers_the_center_is_taken_as_it_is():
    images = numbered(2, 10, 12)
    cropped = random_crop({"target": images}, 4, None)
    assert torch.equal(cropped["target"], images[:, :, 3:7, 4:8])


def test_flips_and_rotations_can_be_left_out():
    images = numbered(50, 6, 6)
    plain = random_crop({"target": images}, 6, Random(0, CPU), flip=False, rotate=False)["target"]
    assert torch.equal(plain, images)
    flipped = random_crop({"target": images}, 6, Random(0, CPU), rotate=False)["target"]
    mirror = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirror ^ same).all()
    assert 10 < mirror.sum() < 40


def test_crops_need_not_be_square():
    images = numbered(40, 9, 7, 3)
    crops = random_crop({"images": images}, (5, 4), Random(0, CPU), rotate=False)["images"]
    found = set()
    for image, crop in zip(images, crops, strict=True):
        for top in range(5):
            for left in range(4):
                part = image[:, top : top + 5, left : left + 4]
                found |= {
                    (top, left, mirror) for mirror in (0, 1) if torch.equal(crop, part.flip(2) if mirror else part)
                }
    assert {top for top, _, _ in found} == {0, 1, 2, 3, 4}
    assert {left for _, left, _ in found} == {0, 1, 2, 3}
    assert {mirror for _, _, mirror in found} == {0, 1}
    center = random_crop({"images": images}, (5, 4), None, rotate=False)["images"]
    assert torch.equal(center, images[:, :, 2:7, 1:5])
    with pytest.raises(UsageError, match="rotate: expected False for crops that are no squares, got True and 5×4"):
        random_crop({"images": images}, (5, 4), None)


def test_crops_that_do_not_fit_are_refused():
    images = numbered(2, 10, 12)
    with pytest.raises(UsageError, match="size: expected at most that of the images, 10×12, got 16×16"):
        random_crop({"target": images}, 16, None)
    with pytest.raises(UsageError, match=r"size: expected multiples of 2, .* got \(5, 5\)"):
        random_crop({"source": images, "target": numbered(2, 20, 24)}, 5, None)
    with pytest.raises(UsageError, match="batch: expected sizes that are multiples of 10×12, got 21×24"):
        random_crop({"source": images, "target": numbered(2, 21, 24)}, 4, None)


def pairs(i, n=2):
    """Batch i: every image has a number of its own; the target has that of its source."""
    number = (torch.arange(n) + i * n).float().view(n, 1, 1, 1)
    return {"source": number.expand(n, 1, 2, 2), "target": number.expand(n, 1, 4, 4)}


def test_the_pool_mixes_pairs_and_loses_none():
    pool, random = PairPool(8), Random(0, CPU)
    for i in range(4):  # 4 batches of 2 fill it
        assert torch.equal(pool.exchange(pairs(i), random)["source"], pairs(i)["source"])
    given = []
    for i in range(4, 60):
        mixed = pool.exchange(pairs(i), random)
        assert torch.equal(mixed["source"][:, :, 0, 0], mixed["target"][:, :, 0, 0])
        given.append(mixed["source"][:, 0, 0, 0])
    seen = torch.cat(given)
    assert len(seen.unique()) == len(seen)
    # What comes out waited for about 4 batches, and a batch holds pairs of different ones.
    ages = torch.cat([i + 4 - (batch / 2).floor() for i, batch in enumerate(given)])
    assert ages.min() == 1
    assert 3 < ages.mean() < 5
    assert sum(int(a // 2 != b // 2) for a, b in given) > len(given) / 2


@pytest.mark.parametrize("after", [0, 2, 7])
def test_a_pool_goes_on_exactly_where_it_was_saved(after):
    pool, random = PairPool(6), Random(0, CPU)
    for i in range(after):
        pool.exchange(pairs(i), random)
    saved, again = {name: value.clone() for name, value in pool.tensors().items()}, PairPool(6)
    state = random.generator.get_state()
    expected = [pool.exchange(pairs(i), random)["source"] for i in range(after, after + 5)]
    random.generator.set_state(state)
    again.load_tensors(saved, CPU)
    found = [again.exchange(pairs(i), random)["source"] for i in range(after, after + 5)]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_two_ranks_see_what_one_does_with_a_batch_as_large_and_either_goes_on_from_the_others_state():
    def mean_for(batches):
        """Of two ranks, each of which has its own half of a batch: the mean of both is known beforehand."""
        return lambda tensors: tensors[0].copy_(next(batches).unflatten(0, (2, 2)) / 2)

    def of_all():
        return (pairs(i, 4)[name] for i in range(24) for name in ("source", "target"))

    alone, random = PairPool(8), Random(0, CPU)
    ranks = [(PairPool(8, mean_for(of_all())), Random(0, CPU, rank, 2)) for rank in range(2)]
    for i in range(12):
        expected = alone.exchange(pairs(i, 4), random)["target"]
        halves = [{name: value[2 * r : 2 * r + 2] for name, value in pairs(i, 4).items()} for r in range(2)]
        found = [pool.exchange(half, own)["target"] for half, (pool, own) in zip(halves, ranks, strict=True)]
        assert torch.equal(torch.cat(found), expected)
    states = [pool.tensors() for pool in (alone, ranks[0][0], ranks[1][0])]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_no_pool_and_pairs_of_another_size():
    random = Random(0, CPU)
    assert PairPool(0).exchange(batch := pairs(0), random) is batch
    pool = PairPool(4)
    for i in range(3):
        pool.exchange(pairs(i), random)
    for i in range(4):  # of one image each: it begins anew
        assert pool.exchange(batch := pairs(i, 1), random) is batch
    assert float(pool.exchange(pairs(4, 1), random)["source"].max()) < 4
    with pytest.raises(UsageError, match="pool: expected a number of pairs >= 0, got -1"):
        PairPool(-1)


def test_crops_of_any_memory_format():
    images = numbered(4, 8, 10, 3)
    wanted = random_crop({"target": images}, 4, Random(0, CPU))["target"]
    given = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(random_crop({"target": given}, 4, Random(0, CPU))["target"], wanted)
