import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prdc import compute_prdc

from fastgan.errors import DataError, UsageError
from fastgan.metrics import neighbors
from fastgan.metrics.prdc import prdc

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "metrics.py"


def features(n, dim, seed, scale=1.0):
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).abs()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_authors_library(k, monkeypatch, capsys):
    monkeypatch.setattr(neighbors, "BLOCK", 1 << 22)  # several blocks of rows
    x, y = features(400, 24, 0), features(300, 24, 1, 1.1)
    expected = compute_prdc(x.numpy(), y.numpy(), nearest_k=k)
    found = prdc(x, y, k=k, k_density=k)._asdict()
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)
    assert 0 < found["precision"] < 1
    assert 0 < found["recall"] < 1


def test_precision_and_density_have_their_own_k():
    x, y = features(200, 8, 0), features(150, 8, 1)
    both = prdc(x, y)
    three, five = prdc(x, y, k=3, k_density=3), prdc(x, y, k=5, k_density=5)
    assert both == (three.precision, three.recall, five.density, five.coverage)


def test_missing_modes_lower_recall_and_invented_modes_lower_precision():
    left, right, far = features(200, 4, 0), features(200, 4, 1) + 50, features(200, 4, 2) - 50
    collapsed = prdc(torch.cat([left, right]), features(400, 4, 3))
    assert collapsed.precision > 0.9
    assert collapsed.recall < 0.6
    assert collapsed.coverage < 0.6
    invented = prdc(features(400, 4, 3), torch.cat([left, far]))
    assert invented.precision < 0.6
    assert invented.recall > 0.9


def test_too_few_samples_and_bad_features():
    x = features(10, 4, 0)
    with pytest.raises(UsageError, match="k: expected from 1 to 4 neighbors for 5 fake samples, got 3 and 5"):
        prdc(x, x[:5])
    with pytest.raises(UsageError, match="k: expected"):
        prdc(x, x, k=0)
    x[2] = torch.inf
    with pytest.raises(DataError, match="1 of 10"):
        prdc(x, x)


@pytest.mark.full
def test_memory_of_5000_samples_of_2048_features_is_below_2_gib():
    command = [sys.executable, BENCHMARK, "--in-this-process", "prdc"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (found["n"], found["dim"]) == (5000, 2048)
    assert found["peak_mib"] < 2048
    print(found)
