import numpy as np
import pytest
import torch

from fastgan.errors import UsageError
from fastgan.metrics import neighbors
from fastgan.metrics.neighbors import find_duplicates, neighbor_radii, thumbnail_blocks, thumbnails


def test_distances_of_near_duplicates_are_accurate():
    """Points 1e-3 apart, far from the origin, in float32: the error is smaller than their distance."""
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x + 1e-3]) + 100
    radii = neighbor_radii(x, 1)[0].sqrt()
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    assert torch.allclose(radii, exact.amin(1), rtol=1e-4)


def test_blocks_of_distances_are_limited_and_cover_all_rows(monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK", 1 << 20)
    x, y = torch.randn(500, 8), torch.randn(300, 8)
    blocks = list(neighbors.squared_distances(x, y))
    assert len(blocks) > 10
    assert max(block.numel() * block.element_size() for _, block in blocks) <= 1 << 20
    found = torch.cat([block for _, block in blocks])
    expected = torch.cdist(x.double(), y.double()).square()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert [rows.start for rows, _ in blocks[1:]] == [rows.stop for rows, _ in blocks[:-1]]


def test_too_few_points_for_k_neighbors():
    with pytest.raises(UsageError, match="expected from 1 to 9"):
        neighbor_radii(torch.zeros(10, 4), 10)


def test_duplicates_and_copies_are_found(halves):
    """Of 300 samples 30 are slightly changed training images, and 21 are equal."""
    training, unseen = halves
    samples = unseen.images[:300].copy()
    samples[:30] = np.clip(training.images[1000:1030].astype(int) + 2, 0, 255)
    samples[280:] = samples[279]
    pool = thumbnail_blocks(training.images)
    found = find_duplicates(thumbnails(training.images[:500]), thumbnails(samples), pool)
    assert found.among_fake == pytest.approx(21 / 300, abs=0.005)
    assert found.copied == pytest.approx(0.1, abs=0.01)
    assert {(i, 1000 + i) for i in range(30)} <= set(found.copies)
    assert found.among_real < 0.01
    with pytest.raises(UsageError, match="fake: expected at least 2 samples"):
        find_duplicates(thumbnails(samples), thumbnails(samples[:1]))
