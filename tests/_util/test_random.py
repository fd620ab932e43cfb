"""States of random number generators, written as JSON and restored."""

import json
import random

import numpy as np
import torch

from fastgan._util import random as rng


def test_a_torch_generator_is_restored_from_json():
    source = torch.Generator().manual_seed(5)
    torch.rand(3, generator=source)
    text = json.loads(json.dumps(rng.encode(source)))
    expected = torch.rand(4, generator=source)
    rng.decode(source, text)
    assert torch.equal(torch.rand(4, generator=source), expected)


def test_the_generators_of_python_and_numpy_are_restored_from_json():
    def draw():
        # An odd number of normal ones: both keep the second of a pair for later.
        return [random.gauss(0, 1), random.random(), *np.random.randn(3), *np.random.rand(700)]  # noqa: NPY002

    draw()
    states = json.loads(json.dumps(rng.encode_global()))
    expected = draw()
    assert draw() != expected
    rng.decode_global(states)
    assert draw() == expected


def test_ranks_draw_the_parts_of_one_large_batch():
    """Two ranks of batch 3 draw what one rank of batch 6 does: normal and Poisson numbers, and one for all alike."""
    cpu = torch.device("cpu")
    rates = torch.linspace(0, 40, 6 * 50).view(6, 50)
    alone = rng.Random(7, cpu)
    expected = alone.number(), alone.poisson(rates), alone.normal(6, 4), alone.number()
    for rank in range(2):
        own = slice(3 * rank, 3 * rank + 3)
        part = rng.Random(7, cpu, rank, ranks=2)
        assert part.number() == expected[0]
        assert torch.equal(part.poisson(rates[own]), expected[1][own])
        assert torch.equal(part.normal(3, 4), expected[2][own])
        assert part.number() == expected[3]


def test_poisson_numbers_have_the_mean_and_variance_of_their_rate():
    counts = rng.Random(0, torch.device("cpu")).poisson(torch.tensor([[0.0], [0.5], [200.0]]).expand(3, 20_000))
    assert torch.equal(counts, counts.round())
    for count, rate in zip(counts.double(), (0.0, 0.5, 200.0), strict=True):
        # Five standard errors of the mean, and of the variance of a Poisson distribution.
        assert abs(count.mean() - rate) <= 5 * (rate / 20_000) ** 0.5
        assert abs(count.var() - rate) <= 5 * ((rate + 2 * rate**2) / 20_000) ** 0.5


def test_what_is_drawn_inside_restored_is_drawn_again():
    random = rng.Random(3, torch.device("cpu"))
    with random.restored():
        before = random.uniform(2), random.number()
    assert torch.equal(random.uniform(2), before[0])
    assert random.number() == before[1]
