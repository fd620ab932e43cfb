import pytest
import torch
import torch._functorch.config
import torch._inductor.config

from fastgan.engine import CompiledStep


@pytest.fixture(autouse=True)
def fresh(tmp_path_factory, monkeypatch):
    """No test uses another's compiled code, or the user's measurements."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch._dynamo.reset()
    torch.manual_seed(0)
    # A graph from a cache brings guards of the step that it was made for, and then more variants are compiled.
    with (
        torch._functorch.config.patch(enable_autograd_cache=False),
        torch._inductor.config.patch(fx_graph_cache=False),
    ):
        yield


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def backend(request, monkeypatch):
    """Captured graphs run operation by operation, which shows what the capture does; in the full run also compiled."""

    def aot_eager(self, function):
        return torch.compile(function, backend="aot_eager", fullgraph=True)

    if request.param == "aot_eager":
        monkeypatch.setattr(CompiledStep, "_inductor", aot_eager)
