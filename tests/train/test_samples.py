"""Sample grids: what each of them shows, and that drawing them changes nothing in the run."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.report.images import to_uint8
from fastgan.tasks import sample_grids
from fastgan.train import samples
from fastgan.train.samples import AMONG, NearestNeighbors

SIDE = 66  # of an image of 64 pixels and its margin


class Gray(nn.Module):
    """Images of one gray level: the first number of a latent, darker by class. Draws random numbers."""

    latent = 2

    def __init__(self, classes=0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.labels = []
        if classes:
            self.classes = classes

    def forward(self, z, y=None):
        assert (y is None) == (not hasattr(self, "classes"))
        self.labels.append(y)
        level = z[:, :1] / 4 - (0 if y is None else 0.05 * y[:, None].float()) + 0 * torch.rand(())
        return (level + self.bias)[:, :, None, None].expand(-1, 1, 64, 64)


def drawn(tmp_path, classes=0, reference=None):
    """A trainer after save_all at step 7, and the levels of each grid's images [rows, columns]."""
    trainer = Trainer(Gray(classes), nn.Sequential(nn.Flatten(), nn.Linear(4096, 1)), out=tmp_path)
    trainer.state.step = 7
    trainer.state.batch["real"] = torch.linspace(-1, 1, 20).view(20, 1, 1, 1).expand(20, 1, 64, 64)
    if reference is not None:
        trainer.task.neighbors = NearestNeighbors(reference)
    samples.save_all(trainer.state, trainer.state.run / "samples")
    found = {}
    for path in sorted((tmp_path / "samples").iterdir()):
        assert path.name.endswith("-00000007.png")
        sheet = np.asarray(Image.open(path)).astype(int)[..., 0]
        found[path.name.split("-")[0]] = sheet[34::SIDE, 34::SIDE]
    return trainer, found


def levels(z):
    return np.rint((np.clip(np.asarray(z)[..., 0] / 4, -1, 1) + 1) * 127.5).astype(int)


def test_each_grid_shows_what_its_name_says(tmp_path):
    reference = np.arange(0, 256, 3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64), np.uint8)
    _, found = drawn(tmp_path, reference=reference)
    assert list(found) == ["beside", "fixed", "fresh", "nearest", "strips", "truncation"]
    fixed, fresh = (sample_grids.latents(0, step, (2,)) for step in (0, 7))
    assert (found["fixed"].flatten() == levels(fixed)).all()
    assert (found["fresh"].flatten() == levels(fresh)).all()
    # A strip goes from one latent to another, and its latents are nowhere shorter than both.
    path = sample_grids.path(fixed[:4], fixed[4:8], 8)
    assert torch.allclose(path[0], fixed[:4])
    assert torch.allclose(path[-1], fixed[4:8], atol=1e-6)
    assert torch.allclose(sample_grids.path(torch.eye(2), torch.eye(2).flip(0), 9).norm(dim=2), torch.ones(9, 2))
    assert (found["strips"] == levels(path.transpose(0, 1))).all()
    scaled = fixed[:4, None] * torch.tensor(sample_grids.TRUNCATIONS)[:, None]
    assert (found["truncation"] == levels(scaled)).all()
    assert (found["truncation"][:, 0] == 128).all()
    pairs = found["nearest"].reshape(16, 2)
    assert (pairs[:, 0] == levels(fresh[:16])).all()
    assert (np.abs(pairs[:, 1] - pairs[:, 0]) <= 1).all()
    left = np.rint((np.linspace(-1, 1, 20) + 1) * 127.5)[:16]
    assert np.abs(found["beside"][:, :4].flatten() - left).max() <= 1
    sheet = np.asarray(Image.open(tmp_path / "samples" / "beside-00000007.png"))[..., 0].astype(int)
    assert (sheet[34::SIDE, 2 * 4 * SIDE + 16 - 34 :: -SIDE][:, :4][:, ::-1].flatten() == levels(fresh[:16])).all()


def test_classes_have_a_grid_of_their_own_and_alternate_elsewhere(tmp_path):
    trainer, found = drawn(tmp_path, classes=3)
    columns = levels(sample_grids.latents(0, 0, (2,))[:8])
    grid = found["classes"]
    assert grid.shape == (3, 8)
    assert (grid[0] == columns).all()
    assert (np.diff(grid, axis=0) < 0).all()
    labels = trainer.ema.module.labels
    assert all(y.dtype == torch.int64 for y in labels)
    assert labels[0][:5].tolist() == [0, 1, 2, 0, 1]
    # Rows of the interpolations and of the truncation are of one class.
    assert all(y.view(4, 8).unique(dim=1).shape == (4, 1) for y in labels[2:4])


def test_random_numbers_are_restored_after_drawing(tmp_path):
    trainer, _ = drawn(tmp_path)
    before = torch.random.get_rng_state()
    samples.save_all(trainer.state, trainer.state.run / "samples")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_outputs_that_are_no_images_have_no_grids(tmp_path):
    points = nn.Linear(2, 2)
    points.latent = 2
    Trainer(points, nn.Linear(2, 1), config=Config.from_flags(steps=1, compile="off"), out=tmp_path / "run").fit(
        itertools.repeat(torch.randn(4, 2))
    )
    assert not (tmp_path / "run" / "samples").exists()


def in_range(images):
    """uint8 images as float32 in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1.0)


def test_the_nearest_image_is_searched_among_an_even_choice():
    many = np.random.default_rng(0).integers(0, 256, (3 * AMONG, 1, 4, 4), np.uint8)
    neighbors = NearestNeighbors(many)
    assert neighbors.about == {"among": AMONG, "of": 3 * AMONG}
    shown = many[[0, len(many) - 1]]
    assert np.array_equal(to_uint8(neighbors.of(in_range(shown)).numpy()), shown)
    few = NearestNeighbors(many[:5])
    assert few.about == {"among": 5, "of": 5}
    assert np.array_equal(to_uint8(few.of(in_range(many[3:4])).numpy()), many[3:4])


@pytest.mark.parametrize("reference", [np.zeros((4, 1, 8, 8)), np.zeros((8, 8), np.uint8), torch.zeros(4, 1, 8, 8)])
def test_a_reference_of_another_type_is_an_error(reference):
    with pytest.raises(UsageError, match=r"^reference: expected images as uint8 \[M, C, H, W\] with M > 0, got "):
        NearestNeighbors(reference)


def test_a_reference_of_another_size_is_an_error(tmp_path):
    trainer = Trainer(Gray(), nn.Sequential(nn.Flatten(), nn.Linear(4096, 1)), out=tmp_path / "run")
    message = r"reference: expected images like the batches', \[1, 64, 64\], got \[1, 8, 8\]"
    with pytest.raises(UsageError, match=message):
        trainer.fit(itertools.repeat(torch.zeros(4, 1, 64, 64)), reference=np.zeros((9, 1, 8, 8), np.uint8))
