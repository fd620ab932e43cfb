import pytest
import torch

from fastgan.losses import feature_matching


def test_feature_matching_is_the_squared_distance_of_means():
    fake, real = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    # Means (2, 2) and (1, 1).
    assert feature_matching(fake, real).item() == pytest.approx(2)
