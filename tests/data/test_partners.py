"""Streams of images with other images of their class."""

import numpy as np
import pytest
import torch

from fastgan.data import ImageSet
from fastgan.data.joined import PartnerStream
from fastgan.data.kinds import open_sets
from fastgan.data.stream import _next_of_class
from fastgan.errors import DataError, UsageError

CPU = torch.device("cpu")
COUNTS = [5, 1, 7, 2]


def numbered(counts=COUNTS):
    """Images whose first two pixels are their number and their class."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(labels), 1, 2, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)), labels
    return ImageSet(images, labels, "numbered", "none")


def numbers(images):
    return ((images[:, 0, 0] + 1) * 127.5).round().long()


def stream(batch=5, **options):
    return PartnerStream(numbered(), batch, 3, CPU, **options)


def pairs(stream, batches):
    """(image, partner) of so many batches, after their classes were compared."""
    found = []
    for _ in range(batches):
        batch = next(stream)
        real, source = numbers(batch["real"]), numbers(batch["source"])
        assert torch.equal(real[:, 1], source[:, 1])
        assert torch.equal(real[:, 1], batch["labels"])
        found += zip(real[:, 0].tolist(), source[:, 0].tolist(), strict=True)
    return found


def test_each_image_has_another_of_its_class_anew_every_epoch():
    own = stream()
    epochs = [pairs(own, 3) for _ in range(4)]
    labels = numbered().labels
    for epoch in epochs:
        assert sorted(real for real, _ in epoch) == list(range(15))
        assert sorted(source for _, source in epoch) == list(range(15))
        assert all((real == source) == (COUNTS[labels[real]] == 1) for real, source in epoch)
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 4


def test_the_next_of_a_class():
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    indices = torch.tensor([4, 0, 5, 3, 1, 2])
    assert _next_of_class(indices, labels).tolist() == [1, 3, 5, 2, 4, 0]


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_resumed_and_on_two_ranks_the_pairs_are_the_same(share):
    whole = stream(share=share)
    before, state = pairs(whole, 4), whole.state_dict()
    after = pairs(whole, 4)
    again = stream(share=share)
    again.load_state_dict(state)
    assert pairs(again, 4) == after
    ranks = [PartnerStream(numbered(), 5, 3, CPU, share=share, rank=rank, world=2) for rank in range(2)]
    parts = [pairs(rank, 4) for rank in ranks]
    both = [pair for i in range(4) for part in parts for pair in part[5 * i : 5 * i + 5]]
    assert both == before + after
    with pytest.raises(DataError, match="belongs to"):
        PartnerStream(numbered([9, 9]), 5, 3, CPU).load_state_dict(state)


def test_held_out_images_have_held_out_partners_and_are_nobodys():
    own = stream(held_out=5)
    held = numbers(own.held_out["real"])
    partners = numbers(own.held_out["source"])
    assert torch.equal(held[:, 1], partners[:, 1])
    assert sorted(held[:, 0].tolist()) == sorted(partners[:, 0].tolist())
    seen = {number for pair in pairs(own, 8) for number in pair}
    assert seen == set(range(15)) - {*held[:, 0].tolist()}


def test_images_that_have_no_partner_are_an_error(tmp_path):
    np.savez(tmp_path / "few.npz", images=numbered().images, labels=numbered().labels)
    np.savez(tmp_path / "unlabeled.npz", images=numbered().images)
    with pytest.raises(UsageError, match="data: expected at least 2 images of each class, got 1 of 1"):
        open_sets("classes", str(tmp_path / "few.npz"), None, None, {})
    with pytest.raises(UsageError, match=r"data: expected labeled images, .*; unlabeled has no labels"):
        open_sets("classes", str(tmp_path / "unlabeled.npz"), None, None, {})
