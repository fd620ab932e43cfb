"""What `fit` takes as batches: loaders and lists of any length, in any of the usual forms."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.nn import MinibatchStdDev
from fastgan.tasks.batches import class_labels
from fastgan.train.data import Batches

IMAGES = torch.linspace(-1, 1, 21 * 16).view(21, 1, 4, 4)


def trainer(network=None, generator=None, out=None, **options):
    torch.manual_seed(0)
    generator = generator or nn.Sequential(nn.Linear(4, 16), nn.Unflatten(1, (1, 4, 4)))
    pack = options.get("pack", 1)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(16 * pack, 1))
    config = Config.from_flags(**{"steps": 8, "log_every": 4, "compile": "off", "batch": 8} | options)
    return Trainer(generator, network, config=config, latent_shape=(4,), out=out)


def sizes(given, t, count=7):
    batches = Batches(given, t.state)
    return [len(next(batches)["real"]) for _ in range(count)]


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def loader(count=21, shuffle=False):
    return DataLoader(TensorDataset(IMAGES[:count]), batch_size=8, shuffle=shuffle)


@pytest.mark.parametrize("given", [loader(shuffle=True), list(loader()), [{"real": x} for (x,) in loader()]])
def test_finite_batches_begin_again(given):
    t = trainer()
    t.fit(given)
    assert t.step == 8
    assert t.state.images == 8 + 8 + 5 + 8 + 8 + 5 + 8 + 8


def test_a_loader_shuffles_each_epoch_anew():
    torch.manual_seed(0)
    batches = Batches(loader(16, shuffle=True), trainer().state)
    first, second = (torch.cat([next(batches)["real"] for _ in range(2)]) for _ in range(2))
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert torch.equal(epoch[epoch[:, 0, 0, 0].argsort()], IMAGES[:16])


@pytest.mark.slow
def test_a_smaller_last_batch_is_trained_on_with_graphs_too():
    t = trainer(compile="on")
    t.fit(loader())
    eager = trainer()
    eager.fit(loader())
    for compiled, plain in zip(t.generator.parameters(), eager.generator.parameters(), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-6)


def test_what_no_step_can_take_of_the_last_batch_is_left_out(caplog):
    with caplog.at_level("INFO"):
        assert sizes(loader(17), trainer(normed())) == [8, 8, 8, 8, 8, 8, 8]
        assert "of the last 1 images of an epoch 0 are used (layers that compare the samples" in caplog.text
        assert sizes(loader(17), trainer()) == [8, 8, 1, 8, 8, 1, 8]
        assert sizes(loader(21), trainer(pack=2)) == [8, 8, 4, 8, 8, 4, 8]
        assert "of the last 5 images of an epoch 4 are used (pack is 2)" in caplog.text
    grouped = nn.Sequential(MinibatchStdDev(4), nn.Flatten(), nn.Linear(32, 1))
    assert sizes(loader(21), trainer(grouped)) == [8, 8, 4, 8, 8, 4, 8]
    trainer(normed()).fit(loader(17))
    trainer(pack=2).fit(loader(17))
    with pytest.raises(UsageError, match="batches: expected more than 1 images in a batch"):
        sizes(itertools.chain([IMAGES[:8]], itertools.repeat(IMAGES[:1])), trainer(normed()))
    with pytest.raises(UsageError, match="pack: a batch of 1 images cannot be put in packs of 2"):
        trainer(pack=2).fit([IMAGES[:1]])


class Stream(IterableDataset):
    def __iter__(self):
        yield from IMAGES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (iter([IMAGES[:8]] * 2), "batches: ended after 2 of 8 steps; give what can be iterated again"),
        ([], "batches: expected at least one batch, got none"),
        (IMAGES, r"batches: expected an iterable of batches, got float32 \[21, 1, 4, 4\]; .*DataLoader\(images"),
        ({"real": IMAGES}, r"batches: expected an iterable of batches, got \{'real'"),
        (TensorDataset(IMAGES), "got the data set TensorDataset of single images; give torch.utils.data.DataLoader"),
        (Stream(), r"expected images \[1, 1, 4, 4\] .*got \[1, 4, 4\]; images come in batches"),
        (7, "batches: expected an iterable of batches, got int"),
    ],
)
def test_what_is_no_iterable_of_batches_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        trainer().fit(given)


def test_a_run_that_took_no_step_does_not_block_the_next(tmp_path):
    for _ in range(2):
        with pytest.raises(UsageError, match="batches: expected images"):
            trainer(out=tmp_path / "run").fit([IMAGES.repeat(1, 3, 1, 1)])
    (tmp_path / "run" / "notes.txt").write_text("mine")
    trainer(out=tmp_path / "run", steps=1).fit(loader())
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="already holds a run"):
        trainer(out=tmp_path / "run", steps=1).fit(loader())


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([2, 0, 1]),
        torch.tensor([2, 0, 1], dtype=torch.uint8),
        torch.tensor([2.0, 0.0, 1.0]),
        torch.tensor([[2], [0], [1]], dtype=torch.int32),
        torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    ],
)
def test_labels_as_numbers_and_one_hot(labels):
    found = class_labels(labels, 3, 3, "batches")
    assert found.dtype == torch.int64
    assert found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([2.5, 0, 1]), "float32 .* with values that are no whole numbers"),
        (torch.full((3, 3), 1 / 3), r"float32 \[3, 3\] that are not one-hot"),
        (torch.tensor([3, 0, 1]), "numbered from 0 to 2, got 3"),
        (torch.tensor([0, -1, 1]), "numbered from 0 to 2, got -1"),
        (torch.tensor([float("nan"), 0, 1]), "no whole numbers"),
        (torch.zeros(3, 4), r"got labels float32 \[3, 4\]"),
        (["cat", "dog", "cat"], r"got labels list of 3 \(str, str, str\)"),
        (None, "got labels none"),
    ],
)
def test_other_labels_are_explained(labels, message):
    with pytest.raises(UsageError, match=f"^batches: expected pairs of images and labels, int64.*{message}"):
        class_labels(labels, 3, 3, "batches")
