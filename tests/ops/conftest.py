"""Runs each contract test at its target: the back-end is forced, and what needs a GPU is marked so."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "cuda" in _device(item):
            item.add_marker(pytest.mark.gpu)


def _device(item):
    params = getattr(getattr(item, "callspec", None), "params", {})
    return getattr(params.get("target"), "device", params.get("device", ""))  # no device: an empty list of places


@pytest.fixture(autouse=True)
def _forced_backend(request, monkeypatch):
    callspec = getattr(request.node, "callspec", None)
    if callspec and "target" in callspec.params:
        monkeypatch.setenv("FASTGAN_BACKEND", callspec.params["target"].backend)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors on a busy machine: threads would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch):
    """cuDNN, and our convolutions with it, would round the factors of float32 products to 10 bits on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
