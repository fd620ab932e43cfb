"""The CUDA C++ kernels of adam_ema, emulated on the CPU, against the reference."""

import math

import emulated
import pytest
import torch

from fastgan.ops import _backend
from fastgan.ops.adam_ema import adam_ema, cuda, reference
from fastgan.testing.tolerances import assert_as_good_as

emulation = pytest.mark.skipif(not emulated.compiler(), reason="no C++ compiler here")

#: Sizes around those of packs, warps and chunks of 4096; one tensor with several chunks.
SHAPES = [(1,), (0,), (3,), (4,), (5,), (33,), (4095,), (4096,), (4097,), (3, 5000), (2, 3, 5, 5), ()]
CHANGED = ("weights", "means", "squares", "steps", "averages", "copies")


class Kernels(emulated.EmulatedKernels):
    def launch(self, name, grid, block, shared, cooperative, argument):
        self.launches.append(name)
        problem = emulated.kernels("adam_ema").emulate(name.encode(), argument, grid, block, shared, self.order)
        if problem:
            raise RuntimeError(f"{name}: {problem.decode()}")


@pytest.fixture
def emulate(monkeypatch):
    """emulate(order): puts emulated kernels with two warps in a block in the place of a GPU, and returns them."""

    def install(order=0):
        monkeypatch.setattr(cuda, "THREADS", 64)
        return emulated.install(monkeypatch, Kernels(order=order))

    return install


def make(shapes=SHAPES, dtype=torch.float32, copies=torch.bfloat16, seed=0, offset=0):
    """Arguments after three updates; every other weight has an average. offset: of addresses, in elements."""
    source = torch.Generator().manual_seed(seed)

    def placed(value):
        memory = torch.full((value.numel() + 8,), math.nan, dtype=value.dtype)
        return memory[offset : offset + value.numel()].view(value.shape).copy_(value)

    def normal(scale=1.0):
        return [placed(scale * torch.randn(s, generator=source, dtype=torch.float64).to(dtype)) for s in shapes]

    lists = {"weights": normal(), "gradients": normal(2.0), "means": normal()}
    lists["squares"] = [value.square_() for value in normal()]
    lists["steps"] = [torch.tensor(3.0) for _ in shapes]
    lists["averages"] = [average if i % 2 else None for i, average in enumerate(normal())]
    lists["copies"] = [None if copies is None else placed(w.to(copies)) for w in lists["weights"]]
    return lists


def clone(lists):
    return {name: [None if t is None else t.clone() for t in tensors] for name, tensors in lists.items()}


def options(divisor=4.0, loss=0.5, **others):
    settings = {"ema_weight": 0.01, "lr": 1e-2, "betas": (0.5, 0.999), "eps": 1e-8, "clip": 0.0} | others
    return {"loss": torch.tensor(loss), "divisor": torch.tensor(divisor), **settings}


def double(lists):
    widened = {
        name: [None if t is None or name == "copies" else t.double() for t in tensors]
        for name, tensors in lists.items()
        if name != "steps"
    }
    return {**widened, "steps": [step.clone() for step in lists["steps"]]}


def assert_same_bits(one, other, names=CHANGED):
    for name in names:
        for i, (a, b) in enumerate(zip(one[name], other[name], strict=True)):
            assert a is None or torch.equal(a, b), f"{name}[{i}]"


@emulation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("betas", "ema_weight", "clip"),
    [((0.5, 0.999), 0.01, 0.0), ((0.0, 0.9), 0.7, 3.0), ((0.9, 0.99), torch.tensor(0.25), 1e9)],
)
def test_it_is_as_good_as_pytorch(emulate, betas, ema_weight, clip, dtype):
    emulate()
    lists, set_to = make(dtype=dtype), options(betas=betas, ema_weight=ema_weight, clip=clip)
    ours, plain, truth = clone(lists), clone(lists), double(lists)
    checked, expected = cuda.adam_ema(**ours, **set_to), reference.adam_ema(**plain, **set_to)
    exact = reference.adam_ema(**truth, **set_to)
    for one, other in zip(checked, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    torch.testing.assert_close(checked.norm, exact.norm, rtol=1e-6, atol=0)
    for name in ("weights", "means", "squares", "averages"):
        for i, (own, other, true) in enumerate(zip(ours[name], plain[name], truth[name], strict=True)):
            if own is not None and own.numel():
                assert_as_good_as(own, other, true, what=f"{name}[{i}]")
    assert ours["steps"] == [4.0] * len(SHAPES)
    assert all(torch.equal(c, w.to(c.dtype)) for c, w in zip(ours["copies"], ours["weights"], strict=True))


@emulation
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
def test_a_gradient_that_is_not_finite_moves_only_averages_and_copies(emulate, value):
    emulate()
    lists = make()
    lists["gradients"][9].view(-1)[4100] = value
    ours, plain = clone(lists), clone(lists)
    ours["copies"][2].fill_(7.0)
    checked = cuda.adam_ema(**ours, **options())
    assert checked.bad == 1
    assert not checked.norm.isfinite()
    assert_same_bits(ours, lists, ("weights", "means", "squares", "steps", "copies"))
    reference.follow(plain["weights"], plain["averages"], 0.01)
    for own, other in zip(ours["averages"], plain["averages"], strict=True):
        assert own is None or torch.allclose(own, other)


@emulation
def test_a_loss_that_is_not_finite_skips_the_update(emulate):
    emulate()
    lists = make()
    ours = clone(lists)
    checked = cuda.adam_ema(**ours, **options(loss=math.nan))
    assert checked.bad == 1
    assert checked.norm.isfinite()
    assert_same_bits(ours, lists, ("weights", "means", "squares", "steps"))


@emulation
@pytest.mark.parametrize("order", [1, 2, 3])
def test_no_order_of_the_threads_changes_a_bit(emulate, order):
    lists, found = make(), []
    for kernels in (0, order):
        emulate(kernels)
        found.append(clone(lists))
        for _ in range(3):  # the counter serves launches of different sizes
            found[-1]["checked"] = list(cuda.adam_ema(**{k: found[-1][k] for k in lists}, **options(clip=1.0)))
    assert_same_bits(*found, (*CHANGED, "checked"))


@emulation
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_addresses_that_are_no_multiples_of_16_bytes(emulate, offset):
    emulate()
    usual, moved = make(), make(offset=offset)
    cuda.adam_ema(**usual, **options())
    cuda.adam_ema(**moved, **options())
    assert_same_bits(usual, moved)


@emulation
@pytest.mark.parametrize("copies", [None, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_copies_of_every_type(emulate, copies):
    emulate()
    lists = make(copies=copies)
    lists["weights"][5][:8] = torch.tensor([math.inf, -math.inf, math.nan, 1e-8, -0.0, 70000.0, 65520.0, 3.39e38])
    lists["weights"][5][8:10] = torch.tensor([1 + 1 / 256, 1 + 3 / 256])  # halfway between two of bfloat16
    cuda.adam_ema(**lists, **options(lr=0.0))
    for copy, weight in zip(lists["copies"], lists["weights"], strict=True):
        if copy is not None:
            torch.testing.assert_close(copy, weight.to(copies), rtol=0, atol=0, equal_nan=True)


@emulation
def test_many_weights_take_several_launches(emulate):
    kernels = emulate(order=2)
    lists = make([(n % 13 + 1, 3) for n in range(2 * cuda.MAX_GRADIENTS + 7)])
    ours, plain = clone(lists), clone(lists)
    checked, expected = (run(**part, **options(clip=1.0)) for run, part in
                         ((cuda.adam_ema, ours), (reference.adam_ema, plain)))  # fmt: skip
    for one, other in zip(checked, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    for name in CHANGED:
        for own, other in zip(ours[name], plain[name], strict=True):
            assert own is None or torch.allclose(own.float(), other.float(), rtol=1e-2 if name == "copies" else 1e-5)
    assert kernels.launches == ["check_gradients_float"] * 3 + ["adam_ema_float"] * 7


@emulation
def test_the_public_function_launches_them(emulate, monkeypatch):
    kernels = emulate()
    monkeypatch.setattr(_backend, "forced", "cuda")
    lists = make()
    adam_ema(**lists, **options())
    assert kernels.launches == ["check_gradients_float", "adam_ema_float"]


@emulation
def test_nothing_beside_the_outputs_is_written(emulate, monkeypatch):
    emulate()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # new memory, scratch included, is NaN
    try:
        lists = make(offset=4)
        checked = cuda.adam_ema(**lists, **options())
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(value.isfinite().all() for value in checked)
    for name in ("weights", "means", "squares", "averages", "copies"):
        for tensor in lists[name]:
            if tensor is not None:
                memory = tensor.as_strided((tensor.numel() + 8,), (1,), 0)
                assert memory[:4].isnan().all()
                assert memory[-4:].isnan().all()
                assert memory[4:-4].isfinite().all()


def test_what_the_kernels_do_not_take_has_a_reason():
    weights = [torch.zeros(2), torch.zeros(2).double()]
    assert "one dtype" in cuda.ADAM_EMA.why_not(weights)
    assert "on cpu, not on a GPU" in cuda.ADAM_EMA.why_not(weights[:1])


@emulation
def test_the_arguments_are_the_structures_of_the_kernels():
    """Their sizes on both sides: the emulation's compiler and Python's struct."""
    size = emulated.library("adam_ema").adam_ema_size
    check = cuda.MAX_GRADIENTS * (8 + 8 + 4) + cuda._CHECK.size
    step = cuda.MAX_WEIGHTS * (8 * 8 + 4) + cuda._STEP.size
    assert [size(i) for i in range(6)] == [check, step, cuda.MAX_GRADIENTS, cuda.MAX_WEIGHTS, cuda.CHUNK, cuda.THREADS]
    assert max(check, step) <= 4096
