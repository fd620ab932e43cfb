import pytest
import torch

from fastgan.engine import CompiledStep


@pytest.fixture(autouse=True)
def fresh(tmp_path_factory, monkeypatch):
    """No test uses another's compiled code, or the user's measurements."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch._dynamo.reset()
    torch.manual_seed(0)


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def backend(request, monkeypatch):
    """Captured graphs run operation by operation, which shows what the capture does; in the full run also compiled."""

    def aot_eager(self, function):
        return torch.compile(function, backend="aot_eager", fullgraph=True)

    if request.param == "aot_eager":
        monkeypatch.setattr(CompiledStep, "_inductor", aot_eager)
