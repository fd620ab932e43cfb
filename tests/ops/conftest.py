"""Forces the back-end and the dispatch path of each contract test, and marks tests that need a GPU or the full run."""

import pytest
import torch

from fastgan.ops import _backend, _library
from fastgan.ops._library import registry
from fastgan.testing.cases import CASES


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    cases = cases_covering_all_ops()
    dropped = []
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        target = params.get("target")
        if "cuda" in getattr(target, "device", params.get("device", "")):  # no target: the list of targets is empty
            item.add_marker(pytest.mark.gpu)
        by_default, registered = in_default_run(params, cases), params.get("dispatch") == "registered"
        if str(target) == "cpu-triton" and registered and not by_default:
            dropped.append(item)  # slow, and the path does not depend on the kernel
        elif (str(target) == "cpu-triton" and (registered or not by_default)) or (
            str(target) == "cpu-reference" and registered
        ):
            item.add_marker(pytest.mark.full)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(map(id, dropped))
        items[:] = [item for item in items if id(item) not in gone]


def in_default_run(params, cases):
    """Triton's interpreter is slow: by default it takes float32 and one core case for each op."""
    return (
        params.get("dtype", torch.float32) is torch.float32
        and params.get("case", cases[0]) in cases
        and params.get("group") != "discriminator"
        and params.get("iterations", 1) == 1
        and not params.get("v_first")
    )


def cases_covering_all_ops():
    """A few core cases, together with all ops."""
    missing, found = set(registry), []
    while missing:
        case = max((case for case in CASES if case.core), key=lambda case: len(missing & set(case.ops)))
        assert missing & set(case.ops), f"no core case has {missing}"
        missing -= set(case.ops)
        found.append(case)
    return found


def pytest_generate_tests(metafunc):
    """Contract tests run on both dispatch paths."""
    if "test_contract" in metafunc.module.__name__:
        metafunc.fixturenames.append("dispatch")
        metafunc.parametrize("dispatch", ["eager", "registered"], indirect=True)


@pytest.fixture
def dispatch(request, monkeypatch):
    """The path that plain tensors take: the eager one, or the registered op."""
    if request.param == "registered":
        monkeypatch.setattr(_library, "describe", lambda args: (None, []))
    return request.param


@pytest.fixture(autouse=True)
def _forced_backend(request, monkeypatch):
    callspec = getattr(request.node, "callspec", None)
    if callspec and "target" in callspec.params:
        monkeypatch.setattr(_backend, "forced", callspec.params["target"].backend)


@pytest.fixture(autouse=True)
def _one_thread():
    """The tensors are small: several threads would mostly wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch):
    """With TF32, cuDNN and our convolutions round the factors of float32 products to 10 bits on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
