import pytest
import torch

from fastgan.losses import l1


def test_l1_is_the_mean_absolute_difference():
    fake = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert l1(fake, torch.tensor([[0.0, 2.0], [5.0, 2.0]])).item() == pytest.approx(0.75)
