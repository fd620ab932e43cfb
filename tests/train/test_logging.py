"""Means over an interval: kept on the device, added in groups of steps, without values that are not finite."""

import numpy as np
import pytest
import torch

from fastgan.train.distributed import World
from fastgan.train.logging import Means


@pytest.mark.parametrize("steps", [1, Means.AT_ONCE - 1, Means.AT_ONCE, 3 * Means.AT_ONCE + 5])
def test_means_over_an_interval_however_long(steps):
    means, random = Means(), np.random.default_rng(steps)
    for _ in range(2):  # fetch resets the means
        seen = {"loss": [], "norm": [], "penalty": []}
        for i in range(steps):
            values = {"loss": random.normal(), "norm": random.normal() if i != 3 else np.nan}
            if i % 4 == 0:
                values["penalty"] = random.normal()  # logged at some steps only
            for name, value in values.items():
                seen[name].append(value)
            means.add({name: torch.tensor(value) for name, value in values.items()})
        found = means.fetch(World())
        assert found == pytest.approx({name: np.nanmean(values) for name, values in seen.items()}, abs=1e-6)


def test_a_scalar_that_is_never_finite_is_absent():
    means = Means()
    means.add({"loss": torch.tensor(float("inf")), "norm": torch.tensor(1.0)})
    assert means.fetch(World()) == {"norm": 1.0}
    assert means.fetch(World()) == {}
