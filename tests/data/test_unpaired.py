"""Two sets of images: folders, sub-folders of the public data sets, channels; what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data.joined import JoinedStream
from fastgan.data.kinds import KINDS, open_sets
from fastgan.data.unpaired import open_unpaired
from fastgan.errors import DataError, UsageError


def write(folder, count, size=(12, 12), gray=False, start=0):
    folder.mkdir(parents=True)
    for i in range(count):
        shape = size[::-1] if gray else (*size[::-1], 3)
        Image.fromarray(np.full(shape, start + i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("names", [("trainA", "trainB"), ("A", "B"), ("a", "b")])
def test_sub_folders(tmp_path, names):
    for name, count in zip(names, (2, 3), strict=True):
        write(tmp_path / "data" / name, count, start=10 * count)
    found = open_unpaired(str(tmp_path / "data"))
    assert [len(found[name]) for name in ("a", "b")] == [2, 3]
    assert [int(found[name].images[1].max()) for name in ("a", "b")] == [21, 31]


def test_two_sources_of_any_kind_and_channels(tmp_path):
    write(tmp_path / "x", 4, (20, 12))
    np.savez(tmp_path / "y.npz", np.zeros((5, 3, 9, 9), np.uint8))
    found = open_unpaired(tmp_path / "x", 8, 3, target=str(tmp_path / "y.npz"), source_channels=1)
    assert {name: images.images.shape for name, images in found.items()} == {"a": (4, 1, 8, 8), "b": (5, 3, 8, 8)}
    assert not KINDS["unpaired"].aligned
    options = {"target": str(tmp_path / "y.npz")}
    assert open_sets("unpaired", str(tmp_path / "x"), 8, None, options)["a"].channels == 3


def test_sets_come_in_orders_of_their_own(tmp_path):
    """Two sets that are pairs do not come as pairs."""
    write(tmp_path / "data" / "A", 16)
    write(tmp_path / "data" / "B", 16)
    sets = open_unpaired(tmp_path / "data")
    batch = next(JoinedStream(sets, 8, 0, torch.device("cpu"), aligned=False))
    assert not torch.equal(batch["a"], batch["b"])


def test_what_does_not_fit(tmp_path):
    write(tmp_path / "x", 2)
    write(tmp_path / "y", 2, (10, 12))
    with pytest.raises(
        UsageError, match=r"target: expected the images of the other domain, as .* has no folders trainA"
    ):
        open_unpaired(tmp_path / "x")
    with pytest.raises(UsageError, match="target: expected the images of the other domain, as embedded has no folders"):
        open_unpaired("embedded")
    with pytest.raises(DataError, match=r"x has images of 12×12 and y of 10×12 pixels .* give .*resolution"):
        open_unpaired(tmp_path / "x", target=str(tmp_path / "y"))
    with pytest.raises(UsageError, match="source_channels: expected 1, 3 or None, got 2"):
        open_unpaired(tmp_path / "x", target=str(tmp_path / "y"), source_channels=2)
