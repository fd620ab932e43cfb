"""Batches of several sets of images at once."""

import numpy as np
import pytest
import torch

from fastgan.data import ImageSet
from fastgan.data.joined import JoinedStream
from fastgan.errors import DataError, UsageError

CPU = torch.device("cpu")


def numbered(count, name="numbers", add=0):
    """Images whose value is their number."""
    values = np.arange(add, count + add, dtype=np.uint8)[:, None, None, None]
    return ImageSet(np.ascontiguousarray(np.broadcast_to(values, (count, 3, 4, 4))), None, name, "none")


def numbers(images):
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def stream(aligned=True, counts=(12, 12), batch=4, **options):
    sets = {"source": numbered(counts[0]), "target": numbered(counts[1], add=100)}
    return JoinedStream(sets, batch, 3, CPU, aligned=aligned, **options)


def test_images_of_one_number_come_together_in_every_epoch():
    batches, seen = stream(), []
    for _ in range(6):
        batch = next(batches)
        assert numbers(batch["target"]) == [number + 100 for number in numbers(batch["source"])]
        seen += numbers(batch["source"])
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_sets_that_do_not_belong_together_have_orders_of_their_own():
    batches, together = stream(aligned=False), 0
    for _ in range(3):
        batch = next(batches)
        pairs = zip(numbers(batch["source"]), numbers(batch["target"]), strict=True)
        together += sum(b == a + 100 for a, b in pairs)
    assert together < 6
    batch = next(stream(aligned=False, counts=(12, 7)))
    assert {name: len(images) for name, images in batch.items()} == {"source": 4, "target": 4}


@pytest.mark.parametrize("aligned", [True, False])
def test_it_goes_on_where_its_state_was_taken_and_ranks_share_a_batch(aligned):
    batches, again = stream(aligned), stream(aligned)
    next(batches)
    again.load_state_dict(batches.state_dict())
    expected = next(batches)
    assert all(torch.equal(images, expected[name]) for name, images in next(again).items())
    ranks = [stream(aligned, batch=2, rank=rank, world=2) for rank in range(2)]
    parts = [[next(rank) for _ in range(2)][1] for rank in ranks]
    for name, images in expected.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), images)


def test_held_out_images_are_never_yielded():
    batches = stream(held_out=4)
    assert numbers(batches.held_out["target"]) == [number + 100 for number in numbers(batches.held_out["source"])]
    apart = {*numbers(batches.held_out["source"])}
    assert len(apart) == 4
    assert not any(apart & {*numbers(next(batches)["source"])} for _ in range(4))
    with pytest.raises(UsageError, match="held_out: expected 0 or more, fewer than the 7 images, got 8"):
        stream(aligned=False, counts=(12, 7), held_out=8)


def test_a_state_of_other_sets_is_refused():
    with pytest.raises(DataError, match="expected sets source, target, got a, b"):
        stream().load_state_dict({"a": {}, "b": {}})
