import math

import pytest
import torch

from fastgan.errors import UsageError
from fastgan.nn import MinibatchDiscrimination


def test_the_paper_s_sums_of_a_small_example():
    layer = MinibatchDiscrimination(2, 2, kernel=1)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # row 1 is the first feature, row 2 twice the second
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.5]])
    y = layer(x)
    assert torch.equal(y[:, :2], x)
    one, two, three = math.exp(-1), math.exp(-2), math.exp(-3)
    expected = torch.tensor([[one + three, 1 + one], [one + two, 1 + one], [three + two, 2 * one]])
    torch.testing.assert_close(y[:, 2:], expected)


def test_similar_samples_give_large_features():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(8, 4)
    x = torch.randn(16, 8)
    spread, collapsed = layer(x)[:, 8:], layer(x[:1].expand(16, 8) + 1e-3 * x)[:, 8:]
    assert collapsed.min() > 14  # of 15 others
    assert spread.mean() < 2


def test_gradients_and_bad_input():
    layer = MinibatchDiscrimination(3, 2, kernel=2).double()
    assert torch.autograd.gradcheck(layer, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))
    with pytest.raises(UsageError, match=r"x: expected features \[N, 3\], got \[4, 3, 1\]"):
        layer(torch.randn(4, 3, 1))
