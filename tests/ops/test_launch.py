"""launch: a compiled Triton kernel runs without Triton's front end, with a stand-in for a kernel."""

import pytest
import torch

from fastgan.ops import _launch


class Compiled:
    def __init__(self, calls):
        self.calls = calls

    def __getitem__(self, grid):
        return lambda *args: self.calls.append(("compiled", grid, args))


class Kernel:
    """What launch uses of a JITFunction: arg_names, and kernel[grid](...), which returns what it compiled."""

    arg_names = ("x", "y", "size", "ACT", "BLOCK")

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        def front_end(*args, **constants):
            self.calls.append(("front end", grid, args))
            return Compiled(self.calls)

        return front_end


@pytest.fixture
def kernel():
    yield Kernel()
    _launch._compiled.clear()


def unaligned():
    return torch.zeros(9)[1:]


X, Y = torch.zeros(8), torch.zeros(8)
OPTIONS = {"BLOCK": 32, "ACT": 2, "num_warps": 4}


def test_from_the_second_launch_on_the_compiled_kernel_gets_all_parameters_in_order(kernel):
    _launch.launch(kernel, (3,))(X, Y, 8, **OPTIONS)
    other = torch.ones(8)
    _launch.launch(kernel, (5, 2))(other, Y, 8, **OPTIONS)
    (first, *_), (kind, grid, args) = kernel.calls
    assert first == "front end"
    assert kind == "compiled"
    assert grid == (5, 2, 1)
    assert args[0] is other
    assert args[1:] == (Y, 8, 2, 32)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((X.double(), Y, 8), OPTIONS),
        ((unaligned(), Y, 8), OPTIONS),
        ((X, Y, 1), OPTIONS),
        ((X, Y, 8), OPTIONS | {"ACT": 1}),
        ((X, Y, 8), OPTIONS | {"num_warps": 8}),
    ],
    ids=["dtype", "alignment", "number", "constant", "launch_option"],
)
def test_what_triton_specializes_for_is_compiled_apart(kernel, args, options):
    _launch.launch(kernel, (3,))(X, Y, 8, **OPTIONS)
    _launch.launch(kernel, (3,))(*args, **options)
    assert [kind for kind, *_ in kernel.calls] == ["front end", "front end"]


def test_tensors_can_be_given_by_name(kernel):
    for y in (Y, torch.ones(8)):
        _launch.launch(kernel, (3,))(X, size=8, y=y, **OPTIONS)
    assert kernel.calls[1][2][1] is y
    _launch.launch(kernel, (3,))(X, size=8, y=unaligned(), **OPTIONS)
    assert [kind for kind, *_ in kernel.calls] == ["front end", "compiled", "front end"]


def test_the_interpreter_compiles_nothing(monkeypatch):
    calls = []

    class Interpreted:
        def __getitem__(self, grid):
            return lambda *args, **constants: calls.append(args)

    kernel = Interpreted()
    for _ in range(2):
        _launch.launch(kernel, (1,))(X, Y, 8, **OPTIONS)
    assert len(calls) == 2
    assert not _launch._compiled


def test_the_names_are_those_of_tritons_kernels():
    triton = pytest.importorskip("triton")

    def add(x, y, size, ACT: triton.language.constexpr, BLOCK: triton.language.constexpr):
        pass

    assert list(triton.jit(add).arg_names) == ["x", "y", "size", "ACT", "BLOCK"]
