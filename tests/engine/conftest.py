import pytest
import torch


@pytest.fixture(autouse=True)
def fresh(tmp_path_factory, monkeypatch):
    """No test finds another's compiled code, or the user's measured choices."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch._dynamo.reset()
    torch.manual_seed(0)
