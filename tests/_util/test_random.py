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
