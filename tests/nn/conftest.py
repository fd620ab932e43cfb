"""Fixtures of the tests of fuse."""

import copy

import pytest

import fastgan
from fastgan.nn.fusion import chain, supported


@pytest.fixture
def fused():
    """A fused copy of a network."""
    return lambda network: fastgan.fuse(copy.deepcopy(network))


@pytest.fixture(autouse=True)
def fused_on_a_cpu(monkeypatch):
    """fastgan's ops run also where a CPU would use PyTorch's. Tests of that decision override this fixture."""
    for module in (chain, supported):
        monkeypatch.setattr(module, "first_order", lambda x: False)
