"""The statistics of a step against plain loops."""

import math

import pytest
import torch

from fastgan.tasks.measures import statistics


def test_statistics_are_what_their_names_say():
    torch.manual_seed(0)
    real, fake = torch.randn(7, 2, 3), 0.1 * torch.randn(7, 2, 3) + 40
    fake[3] = fake[5]
    real_logits, fake_logits = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0])
    found = statistics(real, fake, real_logits, fake_logits)
    for name, images, logits in (("real", real, real_logits), ("fake", fake, fake_logits)):
        assert float(found[f"range/{name}_min"]) == images.min()
        assert float(found[f"range/{name}_max"]) == images.max()
        assert float(found[f"logit/{name}"]) == logits.mean()
    assert float(found["auroc/real_fake"]) == pytest.approx((3 + 1 + 0.5) / 6)  # a tie counts half
    for name, images in (("real", real), ("fake", fake)):
        apart = torch.cdist(images.double().flatten(1), images.double().flatten(1)) / math.sqrt(6)
        pairs = apart[~torch.eye(7, dtype=torch.bool)].view(7, 6)
        assert float(found[f"spread/{name}"]) == pytest.approx(pairs.square().mean().sqrt().item(), rel=1e-5)
        assert float(found[f"nearest/{name}"]) == pytest.approx(pairs.amin(1).mean().item(), rel=1e-4)


def test_a_batch_of_one_has_no_distances():
    one = torch.zeros(1, 1, 2, 2)
    found = set(statistics(one, one, torch.zeros(1), torch.zeros(1)))
    assert "auroc/real_fake" in found
    assert not [name for name in found if name.startswith(("spread/", "nearest/"))]
