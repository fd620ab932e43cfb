"""The eager fast path: the same results, gradients and errors as the registered op, and when it is taken."""

from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastgan.ops import _backend, _eager, _library, bias_act, conv2d_bias_act
from fastgan.ops._library import registry
from fastgan.ops.bias_act.register import bias_act_op
from fastgan.testing.case import cotangent, detached
from fastgan.testing.cases import CASES

X = torch.randn(2, 3, 5, 7)


@pytest.fixture
def registered(monkeypatch):
    """A function that runs another one on registered ops alone."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(_library, "describe", lambda args: (None, []))
            return function(*args)

    return run


def two_orders(case, inputs):
    """The output, and the first and second gradients or None."""
    y = case.call(*inputs)
    first = torch.autograd.grad(y, inputs, cotangent(y).requires_grad_(), create_graph=True, allow_unused=True)
    total = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
    second = torch.autograd.grad(total, inputs, allow_unused=True) if torch.is_tensor(total) else ()
    return [y, *first, *second]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_paths_give_the_same_numbers_and_the_same_undefined_gradients(case, registered):
    inputs = case.inputs(torch.float32)
    for ours, expected in zip(
        two_orders(case, detached(inputs)), registered(two_orders, case, detached(inputs)), strict=True
    ):
        assert (ours is None) == (expected is None)
        if ours is not None:
            assert torch.equal(ours, expected)
            assert ours.stride() == expected.stride()


BAD = {
    "channels": lambda: conv2d_bias_act(X, torch.ones(4, 5, 3, 3)),
    "pixels": lambda: conv2d_bias_act(X, torch.ones(4, 3, 9, 9)),
    "bias": lambda: conv2d_bias_act(X, torch.ones(4, 3, 3, 3), torch.ones(5)),
    "dtype": lambda: conv2d_bias_act(X, torch.ones(4, 3, 3, 3, dtype=torch.float64)),
    "groups": lambda: conv2d_bias_act(X, torch.ones(4, 3, 3, 3), groups=3),
    "act": lambda: bias_act(X, act="swish"),
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD.keys())
def test_both_paths_raise_the_same_errors_each_time(call, registered):
    found = []
    for run in (call, call, lambda: registered(call)):
        with pytest.raises((TypeError, ValueError)) as error:
            run()
        found.append((type(error.value), str(error.value)))
    assert found[0] == found[1] == found[2]


# --- which path ------------------------------------------------------------------------------------------------------


@pytest.fixture
def paths(monkeypatch):
    """A list of the paths that bias_act takes."""
    taken = []
    overload, apply = bias_act_op.overload, bias_act_op.function.apply
    # The op is frozen.
    object.__setattr__(bias_act_op, "overload", lambda *args: (taken.append("registered"), overload(*args))[1])
    monkeypatch.setattr(bias_act_op.function, "apply", lambda *args: (taken.append("function"), apply(*args))[1])
    yield taken
    object.__setattr__(bias_act_op, "overload", overload)


class Subclass(torch.Tensor):
    pass


def test_plain_tensors_take_the_fast_path(paths):
    bias_act(X)
    bias_act(nn.Parameter(X))
    with torch.no_grad():
        bias_act(nn.Parameter(X))
    with torch.inference_mode():
        bias_act(X.clone())
    assert paths == ["function"]


def in_a_transform():
    with pytest.raises(RuntimeError, match="setup_context"):  # PyTorch's, for all registered ops
        torch.func.grad(lambda x: bias_act(x).sum())(X)


def in_a_mode():
    with FlopCounterMode(display=False):
        return bias_act(X)


def in_a_function_mode():
    with torch.device("cpu"):
        return bias_act(X)


@pytest.mark.parametrize(
    "call",
    [
        in_a_transform,
        in_a_mode,
        in_a_function_mode,
        lambda: bias_act(X.as_subclass(Subclass)),
        lambda: bias_act(torch._neg_view(X)),
        lambda: bias_act(torch.ones(2, 3, device="meta")),
        lambda: torch.jit.trace(lambda x: bias_act(x), X, check_trace=False),
    ],
    ids=["func", "mode", "function_mode", "subclass", "negated", "meta", "jit_trace"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_everything_else_takes_the_registered_op(paths, call):
    call()
    assert paths[:1] == ["registered"]
    assert "function" not in paths


def test_lazily_negated_and_zero_tensors_give_their_values():
    assert torch.equal(bias_act(torch._neg_view(X)), bias_act(-X))
    assert torch.equal(bias_act(torch._efficientzerotensor((2, 3))), torch.zeros(2, 3))


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def new_plans(monkeypatch):
    """A list of the ops that made a plan."""
    made = []
    new = _library.Op._new_plan
    monkeypatch.setattr(_library.Op, "_new_plan", lambda op, *args: (made.append(op.name), new(op, *args))[1])
    for op in registry.values():
        op.plans.clear()
    return made


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda: bias_act(X + 1), False),
        (lambda: bias_act(torch.cat([X, X])), True),
        (lambda: bias_act(X.contiguous(memory_format=torch.channels_last)), True),
        (lambda: bias_act(X.double()), True),
        (lambda: bias_act(X, alpha=0.1), True),
        (lambda: bias_act(X, torch.ones(3)), True),
    ],
    ids=["values", "shape", "strides", "dtype", "options", "bias"],
)
def test_a_plan_is_made_once_for_each_key(new_plans, change, again):
    bias_act(X)
    bias_act(X)
    assert new_plans == ["bias_act"]
    result = change()
    assert len(new_plans) == 1 + again
    assert torch.equal(result, change())
    assert len(new_plans) == 1 + again


def test_settings_belong_to_the_key(new_plans):
    bias_act(X)
    with _backend.backend("reference"):
        bias_act(X)
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(not enabled)
    try:
        bias_act(X)
    finally:
        torch._C._set_mkldnn_enabled(enabled)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        bias_act(X)
    finally:
        torch.set_num_threads(threads)
    bias_act(X)
    assert len(new_plans) == 4


def test_the_number_of_plans_is_limited(monkeypatch):
    monkeypatch.setattr(_library, "CAPACITY", 3)
    bias_act_op.plans.clear()
    for n in range(1, 8):
        bias_act(torch.ones(n, 2))
        assert len(bias_act_op.plans) <= 3


def test_no_plan_refers_to_a_tensor():
    for case in CASES:
        inputs = case.inputs(torch.float32)
        case.call(*inputs).sum().backward()
    seen, open_ = set(), [plan for op in registry.values() for plan in op.plans.values()]
    while open_:
        value = open_.pop()
        if id(value) in seen or isinstance(value, type | ModuleType):
            continue
        seen.add(id(value))
        assert not isinstance(value, torch.Tensor) or value.is_meta
        if callable(value) and hasattr(value, "__closure__"):
            open_ += [cell.cell_contents for cell in value.__closure__ or ()]
        elif isinstance(value, _eager.Plan):
            open_ += [value.run, value.memo]
        elif isinstance(value, list | tuple | dict):
            open_ += value.values() if isinstance(value, dict) else value
