"""adam_ema on every back-end: PyTorch's fused Adam is the reference, and the formulas in float64 are the truth."""

import itertools
import math

import pytest
import torch

from fastgan._util import native
from fastgan.ops import _backend
from fastgan.ops.adam_ema import adam_ema, functional, reference
from fastgan.testing.targets import targets
from fastgan.testing.tolerances import assert_as_good_as

TARGETS = [target for target in targets() if target.backend != "triton"]
FAST = [target for target in TARGETS if target.backend != "reference"]
DTYPES = [torch.float32, torch.float64]
#: Sizes around those of vectors and chunks, a convolution in each memory format, a scalar, and a permuted matrix.
SHAPES = [(1,), (7,), (8,), (9,), (), (2048,), (2051,), (0,), (5000, 3), (6, 5, 3, 3)]


def make(target, dtype=torch.float32, seed=0, shapes=SHAPES):
    """Arguments after three updates, with averages for every other weight."""
    source = torch.Generator().manual_seed(seed)

    def normal(scale=1.0):
        found = [scale * torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
        found.append(scale * torch.randn(4, 6, 3, 3, generator=source, dtype=torch.float64))
        found[-1] = found[-1].contiguous(memory_format=torch.channels_last)
        found.append((scale * torch.randn(8, 5, generator=source, dtype=torch.float64)).t())
        return [tensor.to(target.device, dtype) for tensor in found]

    weights, gradients, means = normal(), normal(2.0), normal()
    squares, averages = [value.square_() for value in normal()], normal()
    steps = [torch.tensor(3.0, device=target.device) for _ in weights]
    averages = [average if i % 2 else None for i, average in enumerate(averages)]
    return {"weights": weights, "gradients": gradients, "means": means, "squares": squares, "steps": steps,
            "averages": averages}  # fmt: skip


def clone(lists):
    return {name: [None if t is None else t.clone() for t in tensors] for name, tensors in lists.items()}


def options(target, divisor=1.0, loss=0.5, **others):
    numbers = {"loss": torch.tensor(loss), "divisor": torch.tensor(divisor)}
    settings = {"lr": 1e-2, "betas": (0.5, 0.999), "eps": 1e-8, "ema_weight": 0.01} | others
    return {name: value.to(target.device) for name, value in numbers.items()} | settings


CHANGED = ("weights", "means", "squares", "steps", "averages")


def differing(one, other, names=CHANGED):
    """Names of the tensors that differ in any bit."""
    return [
        f"{name}[{i}]"
        for name in names
        for i, (a, b) in enumerate(zip(one[name], other[name], strict=True))
        if a is not None and not torch.equal(a, b)
    ]


def run_reference(lists, *, averages=True, copies=None, clip=0.0, eps=1e-8, **others):
    own = lists["averages"] if averages else [None] * len(lists["weights"])
    arguments = {"copies": copies or [None] * len(lists["weights"]), "clip": clip, "eps": eps, **others}
    return reference.adam_ema(
        **{name: value for name, value in lists.items() if name != "averages"}, averages=own, **arguments
    )


def formulas(lists, divisor, loss, lr, betas, eps, ema_weight, clip=0.0):
    """The steps of reference.py, written down once more."""
    g = [gradient.double().cpu() for gradient in lists["gradients"]]
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in g)) / float(divisor)
    largest = math.sqrt(torch.finfo(lists["gradients"][0].dtype).max)  # whose square is finite too
    good = norm * float(divisor) < largest and math.isfinite(float(loss))
    divisor = float(divisor) * (max(norm / clip, 1.0) if clip else 1.0)
    found = {name: [] for name in CHANGED}
    for i, gradient in enumerate(g):
        w, m, v, t = (lists[name][i].double().cpu() for name in ("weights", "means", "squares", "steps"))
        if good:
            t = t + 1
            m = betas[0] * m + (1 - betas[0]) * gradient / divisor
            v = betas[1] * v + (1 - betas[1]) * (gradient / divisor) ** 2
            w = w - lr / (1 - betas[0] ** t) * m / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        a = lists["averages"][i]
        a = None if a is None else a.double().cpu() + ema_weight * (w - a.double().cpu())
        for name, value in zip(CHANGED, (w, m, v, t, a), strict=True):
            found[name].append(value)
    return found, norm, float(not good)


def pytorch_fuses():
    """Whether PyTorch's CPU kernels and ours both use fused multiply-add; elsewhere the last bits may differ."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("betas", "ema_weight", "clip"), [((0.5, 0.999), 0.01, 0.0), ((0.0, 0.9), 0.7, 3.0)])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_it_is_as_good_as_pytorch(target, betas, ema_weight, clip, dtype):
    lists = make(target, dtype)
    set_to = options(target, divisor=4.0, betas=betas, ema_weight=ema_weight, clip=clip)
    plain, ours = clone(lists), clone(lists)
    truth, norm, _ = formulas(lists, **set_to)
    run_reference(plain, **set_to)
    checked = adam_ema(**ours, **set_to)
    assert checked.norm.item() == pytest.approx(norm, rel=1e-5)
    for found, gradient in zip(checked.norms, lists["gradients"], strict=True):
        assert found.item() == pytest.approx(gradient.double().norm().item() / 4, rel=1e-5)
    assert checked.bad == 0
    for name in CHANGED:
        for i, (own, other, true) in enumerate(zip(ours[name], plain[name], truth[name], strict=True)):
            if own is not None and own.numel():
                assert_as_good_as(own, other, true, what=f"{name}[{i}]")


@pytest.mark.skipif(not pytorch_fuses(), reason="PyTorch's kernels round otherwise on this processor")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("beta1", "ema_weight"), [*itertools.product((0.0, 0.4, 0.6, 0.9), (0.001, 0.5, 1.0))])
def test_the_cpp_kernel_makes_pytorchs_bits(beta1, ema_weight, threads, dtype, monkeypatch):
    (target,) = [t for t in FAST if t.backend == "cpp"] or pytest.skip("the C++ kernels were not built")
    monkeypatch.setattr(_backend, "forced", "cpp")
    torch.set_num_threads(threads)
    lists = make(target, dtype, shapes=[*SHAPES, *((n,) for n in range(10, 40)), (70_001,)])
    plain, ours = clone(lists), clone(lists)
    for clip in (0.0, 5.0, 5.0):
        set_to = options(target, divisor=3.0, betas=(beta1, 0.999), ema_weight=ema_weight, clip=clip)
        for part in (plain, ours):
            part["gradients"] = clone(lists)["gradients"]
        run_reference(plain, **set_to)
        adam_ema(**ours, **set_to)
        assert not differing(ours, plain)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_gradient_that_is_not_finite_moves_only_the_averages(target, value):
    """1e25 is finite, its square in float32 is not."""
    lists = make(target)
    lists["gradients"][6].view(-1)[2050] = value
    ours = clone(lists)
    checked = adam_ema(**ours, **options(target))
    assert checked.bad == 1
    assert not checked.norm.isfinite()
    assert not differing(ours, lists, ("weights", "means", "squares", "steps"))
    truth, _, _ = formulas(lists, **options(target))
    for own, true in zip(ours["averages"], truth["averages"], strict=True):
        if own is not None:
            torch.testing.assert_close(own.cpu().double(), true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_loss_that_is_not_finite_skips_the_update(target):
    lists = make(target)
    ours = clone(lists)
    checked = adam_ema(**ours, **options(target, loss=math.nan))
    assert checked.bad == 1
    assert checked.norm.isfinite()
    assert not differing(ours, lists, ("weights", "means", "squares", "steps"))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_weight_of_the_average_can_be_a_tensor(target):
    lists = make(target)
    number, tensor = clone(lists), clone(lists)
    adam_ema(**number, **options(target, ema_weight=0.25))
    adam_ema(**tensor, **options(target, ema_weight=torch.tensor(0.25, device=target.device)))
    assert not differing(number, tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_copies_get_the_new_weights(target, dtype):
    lists = make(target)
    ours = clone(lists)
    copies = [torch.full_like(w, 7.0, dtype=dtype) if i != 2 else None for i, w in enumerate(ours["weights"])]
    adam_ema(**ours, copies=copies, **options(target))
    assert differing(ours, lists)
    for copy, weight in zip(copies, ours["weights"], strict=True):
        assert copy is None or torch.equal(copy, weight.to(dtype))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_backward_pass_through_changed_weights_is_an_error(target):
    lists = make(target)
    weight = lists["weights"][2].requires_grad_()
    y = weight.square().sum()
    adam_ema(**lists, **options(target))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_many_weights(target):
    """More than one launch takes, on a GPU."""
    lists = make(target, shapes=[(n % 13 + 1, 3) for n in range(200)])
    plain, ours = clone(lists), clone(lists)
    run_reference(plain, **options(target, clip=1.0))
    adam_ema(**ours, **options(target, clip=1.0))
    for name in CHANGED:
        for own, other in zip(ours[name], plain[name], strict=True):
            if own is not None:
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", FAST, ids=str)
def test_norms_of_large_gradients_lose_no_digits(target):
    """PyTorch's sum on the CPU, in float32, is wrong in the fourth digit here."""
    gradient = torch.full((3_000_000,), 0.1, device=target.device)
    weight, mean, square = (torch.zeros_like(gradient) for _ in range(3))
    step = [torch.zeros((), device=target.device)]
    checked = adam_ema([weight], [gradient], [mean], [square], step, **options(target))
    assert checked.norm.item() == pytest.approx(gradient[:1].double().item() * math.sqrt(3_000_000), rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("target", FAST, ids=str)
def test_results_repeat_bit_for_bit(target, clip):
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        lists = make(target, shapes=[*SHAPES, (100_003,)])
        checked = adam_ema(**lists, **options(target, clip=clip))
        runs.append({**lists, "checked": list(checked)})
    assert all(not differing(runs[0], other, (*CHANGED, "checked")) for other in runs[1:])


def test_it_continues_pytorchs_optimizer():
    (target, *_) = TARGETS
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 4)), torch.nn.Parameter(torch.randn(9))]
    copied = [weight.detach().clone() for weight in weights]
    adam = torch.optim.Adam(weights, 0.05, (0.5, 0.9))
    means, squares = ([torch.zeros_like(weight) for weight in copied] for _ in range(2))
    steps = [torch.zeros(()) for _ in copied]
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        gradients = [weight.grad.clone() for weight in weights]
        adam.step()
        adam_ema(copied, gradients, means, squares, steps, **options(target, lr=0.05, betas=(0.5, 0.9)))
        torch.testing.assert_close(copied, [weight.detach() for weight in weights])
    assert steps == [5, 5]


def test_weights_of_two_dtypes_are_pytorchs():
    target = TARGETS[0]
    single, double = make(target, torch.float32, shapes=[(5,)]), make(target, torch.float64, shapes=[(6,)])
    lists = {name: single[name] + double[name] for name in single}
    truth, _, _ = formulas(lists, **options(target))
    adam_ema(**lists, **options(target))
    for own, true in zip(lists["weights"], truth["weights"], strict=True):
        torch.testing.assert_close(own.double(), true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_strides_of_dimensions_of_size_1_do_not_matter(target):
    """Convolutions of one channel have several that mean the same, and checkpoints keep none."""
    lists = make(target, shapes=[(8, 1, 3, 3)])
    usual, unusual = clone(lists), clone(lists)
    unusual["weights"][0] = unusual["weights"][0].as_strided((8, 1, 3, 3), (9, 1, 3, 1))
    adam_ema(**usual, **options(target))
    adam_ema(**unusual, **options(target))
    assert not differing(usual, unusual)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": lambda x: x[:-1]}, r"gradients: expected one for each of 12 weights, got 11"),
        ({"steps": lambda x: x[:-1]}, r"steps: expected one for each of 12 weights, got 11"),
        (
            {"means": lambda x: [x[0].double(), *x[1:]]},
            r"means\[0\]: expected torch.float32 on cpu, as its weight, got",
        ),
        ({"squares": lambda x: [x[0][:0], *x[1:]]}, r"squares\[0\]: expected \[1\] with strides \[1\], as its weight"),
        ({"gradients": lambda x: [*x[:-1], x[-1].contiguous()]}, r"gradients\[11\]: expected \[5, 8\] with strides"),
        ({"averages": lambda x: [*x[:-1], x[-1].half()]}, r"averages\[11\]: expected torch.float32 on cpu"),
        ({"gradients": lambda x: [None, *x[1:]]}, r"gradients\[0\]: expected a tensor, got None"),
        ({"weights": lambda x: [x[0].long(), *x[1:]]}, r"weights\[0\]: expected a floating tensor on cpu"),
        ({"weights": lambda x: [*x[:2], torch.zeros(16)[::2], *x[3:]]}, r"weights\[2\]: expected a dense tensor"),
        ({"steps": lambda x: [x[0].long(), *x[1:]]}, r"steps\[0\]: expected a float32 scalar on cpu"),
        ({"divisor": lambda x: x.double()}, r"divisor: expected a float32 scalar on cpu, got torch.float64"),
        ({"loss": lambda x: x.expand(2)}, r"loss: expected a float32 scalar on cpu, got torch.float32 \[2\]"),
        ({name: lambda x: [] for name in ("weights", "gradients", "steps")}, "weights: expected one tensor or more"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = make(TARGETS[0]) | options(TARGETS[0])
    for name, function in change.items():
        arguments[name] = function(arguments[name])
    with pytest.raises((TypeError, ValueError), match=message):
        adam_ema(**arguments)


def test_a_forced_back_end_that_cannot_run_is_an_error(monkeypatch):
    lists = make(TARGETS[0], torch.float16, shapes=[(3,)])
    assert functional._back_end(*lists.values()) is reference.adam_ema
    monkeypatch.setattr(_backend, "forced", "cpp")
    with pytest.raises(RuntimeError, match="FASTGAN_BACKEND=cpp: adam_ema cannot run there: the C"):
        adam_ema(**lists, **options(TARGETS[0]))


@pytest.mark.skipif(native.why_not("_cpu") is not None, reason="the C++ kernels were not built")
def test_the_cpp_kernel_is_the_one_that_runs_on_the_cpu():
    lists = make(TARGETS[0])
    assert functional._back_end(*lists.values()).__module__ == "fastgan.ops.adam_ema.cpu"
    lists["weights"][1] = lists["weights"][1].double()
    assert functional._back_end(*lists.values()) is reference.adam_ema
