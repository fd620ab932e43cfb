"""Fixtures of the tests of fuse."""

import copy

import pytest

import fastgan


@pytest.fixture
def fused():
    """A fused copy of a network."""
    return lambda network: fastgan.fuse(copy.deepcopy(network))
