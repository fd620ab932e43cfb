"""The checks of define_op, the selection of back-ends, and `needed`."""

import itertools

import pytest
import torch

from fastgan.ops import _backend
from fastgan.ops._library import Gradient, Kernel, define_op, needed, registry

_numbers = itertools.count()


def _reference(x):
    return x * 2


def _fake(x):
    return torch.empty_like(x)


DOUBLE = Gradient(lambda ctx, inputs, output: None, lambda ctx, dy: (dy * 2,))


@pytest.fixture
def name():
    """A new name. PyTorch cannot unregister an op; it is removed from fastgan's registry."""
    before = dict(registry)
    yield f"test_op_{next(_numbers)}"
    registry.clear()
    registry.update(before)


def define(schema, **changes):
    return define_op(schema, **{"reference": _reference, "fake": _fake, "gradient": DOUBLE, **changes})


def test_an_op_is_registered_and_differentiable(name):
    op = define(f"{name}(Tensor x) -> Tensor")
    assert registry[name] is op
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(op(x), x * 2)
    assert torch.autograd.gradcheck(op, x)
    assert torch.library.opcheck(op.overload, (x,))


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        ("{}(Tensor(a!) x) -> Tensor", ValueError, "x is mutated or aliased; return a fresh tensor"),
        ("{}(Tensor(a) x) -> Tensor(a)", ValueError, "x is mutated or aliased"),
        ("{}(Tensor? x=None) -> Tensor", ValueError, "default values; give them in the public function"),
        ("{}(Tensor y) -> Tensor", TypeError, r"the parameters of its reference must be \['y'\]"),
        ("{}(Tensor x, float alpha) -> Tensor", TypeError, r"reference must be \['x', 'alpha'\]"),
    ],
)
def test_a_bad_schema_is_refused(name, schema, error, message):
    with pytest.raises(error, match=f"op {name}: .*{message}"):
        define(schema.format(name))
    assert name not in registry
    assert not hasattr(torch.ops.fastgan, name)


def test_a_fake_with_other_parameters_is_refused(name):
    with pytest.raises(TypeError, match=rf"op {name}: the parameters of its fake must be \['x'\]"):
        define(f"{name}(Tensor x) -> Tensor", fake=lambda x, y: x)


@pytest.mark.parametrize("gradient", [None, lambda ctx, dy: dy])
def test_an_op_without_a_gradient_is_refused(name, gradient):
    with pytest.raises(TypeError, match=f"op {name}: a Gradient is needed, got .*higher orders are silently wrong"):
        define(f"{name}(Tensor x) -> Tensor", gradient=gradient)


def test_a_name_is_defined_once(name):
    define(f"{name}(Tensor x) -> Tensor")
    with pytest.raises(ValueError, match=f"op {name}: defined twice"):
        define(f"{name}(Tensor x) -> Tensor")


@pytest.mark.parametrize("wrong", [(), (None, None), [None]], ids=["too_few", "too_many", "no_tuple"])
def test_a_gradient_with_the_wrong_count_raises(name, wrong):
    op = define(f"{name}(Tensor x) -> Tensor", gradient=Gradient(lambda *_: None, lambda ctx, dy: wrong))
    y = op(torch.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match=f"op {name}: its gradient must return 1 values, one per input"):
        y.sum().backward()


def test_zero_cotangents_never_reach_the_formula(name):
    seen = []

    def formula(ctx, dy, dz):
        seen.append((dy, dz))
        return (dy if dz is None else dz,)

    op = define(
        f"{name}(Tensor x) -> (Tensor y, Tensor z)",
        reference=lambda x: (x * 1, x * 1),
        fake=lambda x: (torch.empty_like(x), torch.empty_like(x)),
        gradient=Gradient(lambda *_: None, formula),
    )
    x = torch.ones(2, requires_grad=True)
    op(x)[0].sum().backward()
    ((dy, dz),) = seen
    assert torch.equal(dy, torch.ones(2))
    assert dz is None


# --- back-ends -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_kernels(name):
    """An op whose kernels return different numbers. The first takes only float64."""

    def why_not(x):
        return None if x.dtype == torch.float64 else f"it takes float64, not {x.dtype}"

    kernels = (Kernel("picky", lambda x: x * 20, why_not), Kernel("easy", lambda x: x * 200, lambda x: None))
    return define(f"{name}(Tensor x) -> Tensor", kernels=kernels)


def test_the_first_kernel_that_can_run_is_selected(two_kernels):
    assert two_kernels(torch.ones(1, dtype=torch.float64)).item() == 20
    assert two_kernels(torch.ones(1)).item() == 200


def test_the_reference_runs_if_no_kernel_can(name):
    never = Kernel("never", lambda x: x * 20, lambda x: "it never runs")
    assert define(f"{name}(Tensor x) -> Tensor", kernels=(never,))(torch.ones(1)).item() == 2


@pytest.mark.parametrize(("forced", "value"), [("reference", 2), ("picky", 20), ("easy", 200)])
def test_a_back_end_can_be_forced(two_kernels, monkeypatch, forced, value):
    monkeypatch.setattr(_backend, "forced", forced)
    assert two_kernels(torch.ones(1, dtype=torch.float64)).item() == value


def test_a_forced_back_end_that_cannot_run_raises_with_the_reason(two_kernels, monkeypatch):
    monkeypatch.setattr(_backend, "forced", "picky")
    reason = f"FASTGAN_BACKEND=picky: op {two_kernels.name} cannot run there: it takes float64, not torch.float32"
    with pytest.raises(RuntimeError, match=reason):
        two_kernels(torch.ones(1))


def test_an_unknown_forced_back_end_raises(two_kernels, monkeypatch):
    monkeypatch.setattr(_backend, "forced", "abacus")
    with pytest.raises(RuntimeError, match=r"abacus: .* has no such back-end, only reference, picky, easy"):
        two_kernels(torch.ones(1))


# --- needed ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(name):
    """An op of two inputs, and a list of the results of `needed` for them at each backward pass."""
    answers = []

    def formula(ctx, dy):
        answers.append((needed(ctx, 0), needed(ctx, 2)))
        return dy * 1, None, dy * 1

    op = define(
        # Between the tensors is another argument, so the second tensor is input 2.
        f"{name}(Tensor x, float scale, Tensor w) -> Tensor",
        reference=lambda x, scale, w: x + w,
        fake=lambda x, scale, w: torch.empty_like(x),
        gradient=Gradient(lambda *_: None, formula),
    )
    return op, answers


@pytest.mark.parametrize("inner", [False, True], ids=["leaves", "inner"])
@pytest.mark.parametrize(("wanted", "answer"), [("x", (True, False)), ("w", (False, True)), ("xw", (True, True))])
def test_needed_is_true_for_the_inputs_of_autograd_grad(asked, inner, wanted, answer):
    op, answers = asked
    leaves = {key: torch.ones(2, requires_grad=True) for key in "xw"}
    used = [leaf * 1 if inner else leaf for leaf in leaves.values()]
    y = op(used[0], 1.0, used[1])
    torch.autograd.grad(y.sum(), [leaves[key] for key in wanted])
    assert answers == [answer]


@pytest.mark.parametrize(
    ("grads", "answer"), [((True, False), (True, False)), ((False, True), (False, True)), ((True, True), (True, True))]
)
def test_needed_under_backward(asked, grads, answer):
    op, answers = asked
    op(torch.ones(2, requires_grad=grads[0]), 1.0, torch.ones(2, requires_grad=grads[1])).sum().backward()
    assert answers == [answer]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp's own
def test_forward_mode_is_refused_instead_of_silently_zero(name):
    op = define(f"{name}(Tensor x) -> Tensor")
    with pytest.raises(RuntimeError, match=f"op {name} has no forward-mode derivative; use reverse mode"):
        torch.func.jvp(op, (torch.ones(2),), (torch.ones(2),))
    assert op(torch.ones(2)).tolist() == [2, 2]
