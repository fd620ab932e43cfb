"""How CUDA C++ kernels are found, and the counters of their barriers, with stand-ins for a GPU."""

from types import SimpleNamespace

import pytest
import torch

from fastgan._util import native, nvrtc
from fastgan.ops import _cuda

CPU = torch.device("cpu", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of compute capability 9.0 whose current stream and capture are attributes."""
    state = SimpleNamespace(stream=1, capturing=False, synchronized=0, capability=(9, 0))

    def synchronize(device):
        assert not state.capturing
        state.synchronized += 1

    properties = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232448)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: state.capability)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: state.stream, raising=False)
    _cuda._load.cache_clear()
    yield state
    _cuda._load.cache_clear()


def test_launches_of_a_stream_share_a_counter_and_others_have_their_own(gpu):
    counters = _cuda.Counters()
    first = counters.get(CPU)
    assert counters.get(CPU) == first
    gpu.stream = 2
    second = counters.get(CPU)
    assert abs(second - first) >= 4
    gpu.stream = 1
    assert counters.get(CPU) == first
    assert gpu.synchronized == 1


def test_no_captured_launch_shares_a_counter(gpu, monkeypatch):
    monkeypatch.setattr(_cuda, "POOL", 8)
    counters = _cuda.Counters()
    given = {counters.get(CPU)}
    gpu.capturing = True
    captured = [counters.get(CPU) for _ in range(20)]  # more than a pool: the others are cleared by their graph
    assert len({*given, *captured}) == 21
    gpu.capturing = False
    assert counters.get(CPU) in given
    gpu.capturing = True
    given |= {*captured, *(more := [counters.get(CPU) for _ in range(8)])}
    assert len(given) == 29
    counts = [int(n) for memory in counters._memory for n in memory]
    assert not any(counts)
    first = {memory.data_ptr(): len(memory) for memory in counters._memory}
    assert all(any(0 <= address - start < 4 * size for start, size in first.items()) for address in more)


def test_a_capture_before_any_other_call(gpu):
    gpu.capturing = True
    counters = _cuda.Counters()
    assert counters.get(CPU) != counters.get(CPU)
    assert not gpu.synchronized


class Built:
    """In the place of fastgan._cuda."""

    def __init__(self, problem=None):
        self.problem, self.prepared, self.launched = problem, [], []

    def prepare(self, name, device, shared):
        if self.problem:
            raise RuntimeError(self.problem)
        self.prepared.append((name, device, shared))

    def launch(self, *arguments):
        self.launched.append(arguments)


def test_the_built_module_comes_first(gpu, monkeypatch):
    built = Built()
    monkeypatch.setattr(native, "cuda", lambda: built)
    monkeypatch.setattr(nvrtc, "library", None)
    kernels = _cuda.kernels("spectral_norm", torch.device("cuda", 1))
    assert [name for name, *_ in built.prepared] == _cuda.KERNELS["spectral_norm"]
    assert {(device, shared) for _, device, shared in built.prepared} == {(1, 232448)}
    kernels.launch("f", 2, 32, 16, True, b"bytes")
    assert built.launched == [("f", 1, 2, 32, 16, True, gpu.stream, b"bytes")]


def test_nvrtc_comes_next_and_both_reasons_are_kept(gpu, monkeypatch):
    def no_library():
        raise RuntimeError("no NVRTC")

    monkeypatch.setattr(native, "cuda", lambda: Built("no kernel image for this GPU"))
    monkeypatch.setattr(nvrtc, "library", no_library)
    with pytest.raises(RuntimeError, match="no kernel image for this GPU; no NVRTC"):
        _cuda.kernels("spectral_norm", torch.device("cuda", 0))


def test_an_old_gpu_has_a_reason(gpu):
    gpu.capability = (7, 5)
    with pytest.raises(RuntimeError, match=r"need compute capability 8\.0, not 7\.5"):
        _cuda.kernels("spectral_norm", torch.device("cuda", 0))


def test_tensors_that_are_not_supported_have_a_reason():
    assert _cuda.why_not("spectral_norm", torch.zeros(1), (torch.float32,)) == "the tensor is on cpu, not on a GPU"
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float16)
    reason = _cuda.why_not("spectral_norm", on_gpu, (torch.float32, torch.float64))
    assert reason == "the CUDA C++ kernels take float32, float64, not torch.float16"
