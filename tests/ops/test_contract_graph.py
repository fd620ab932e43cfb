"""The contract of every op: the ops that run, compilation, export."""

import operator
from collections import Counter

import pytest
import torch
import torch.nn as nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastgan.ops._library import registry
from fastgan.testing.case import cotangent, detached
from fastgan.testing.cases import CASES
from fastgan.testing.op_recorder import OpRecorder
from fastgan.testing.penalty_network import discriminator_weights, penalty
from fastgan.testing.targets import devices

CORE = [case for case in CASES if case.core]
FLAT = [case for case in CASES if not case.curved]


#: Ops that compute two gradients in one call, by the passes in them.
JOINT = {"conv_backward": ("conv_dgrad", "conv_wgrad"), "conv_dgrad_backward": ("conv", "conv_wgrad")}


def test_every_op_has_a_case():
    assert set(registry) == {op for case in CASES for op in case.ops}


def test_the_names_of_cases_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_list_the_back_ends_that_exist(case):
    # Ops without kernels run on every back-end, joint ones only where no back-end without them is asked for.
    found = [registry[op].kernels for op in case.ops if op not in JOINT]
    existing = [{kernel.name for kernel in kernels} for kernels in found if kernels]
    assert set(case.dtypes) == {"reference"}.union(set.intersection(*existing) if existing else ())


def two_orders(case, device="cpu", dtype=torch.float64):
    """The recorded operators of a gradient penalty through two ops and of its backward pass."""
    x, *first = case.inputs(dtype, device)
    second = case.inputs(dtype, device, seed=3)[1:]
    # Without convolutions, whose second gradients in PyTorch create zeros.
    weights = discriminator_weights(case, case.call(x, *first), x, convolve=False)
    with OpRecorder() as calls:
        value = penalty(case.call, x, [tuple(first), tuple(second)], weights)
        value.backward()
    return calls, x


def one_order(case, device="cpu", dtype=torch.float64):
    """The recorded operators of a run and of its backward pass."""
    inputs = case.inputs(dtype, device)
    with OpRecorder() as calls:
        case.call(*inputs).sum().backward()
    return calls


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_penalty_runs_only_the_ops_that_it_needs(case, device):
    calls, _ = two_orders(case, device)
    passes = Counter[str]()
    for name, count in calls.counts().items():
        for part in JOINT.get(name, (name,)):
            passes[part] += count
    assert passes == dict(case.penalty_calls)
    assert {*calls.counts(), *one_order(case, device).counts()} == set(case.ops)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("case", FLAT, ids=str)
def test_a_penalty_creates_no_zeros(case, device):
    calls, x = two_orders(case, device)
    # At most x's own gradient, which is zero, as in PyTorch: no pass of zeros leads to it.
    zeros = calls.zeros(x.numel())
    assert len(zeros) <= 1
    made = {id(out) for call in zeros for out in call.outputs}
    assert not [call.name for call in calls.of("fastgan") if made & {*map(id, tree_leaves(call.args))}]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_parameter_gradient_unless_requested(case):
    x, *parameters = case.inputs(torch.float64)
    y = case.call(x, *parameters)
    with OpRecorder() as calls:
        torch.autograd.grad(y, x, cotangent(y), create_graph=True)
    assert calls.of("fastgan") or len(case.ops) == 1  # the identity has no op in its gradient
    shapes = {p.shape for p in parameters}
    assert not [out for call in calls.of("fastgan") for out in call.outputs if out.shape in shapes]


def _leaf(given):
    return given.detach().clone().requires_grad_(given.is_floating_point())


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("case", CORE, ids=str)
def test_opcheck(case, device):
    calls, _ = two_orders(case, device)
    seen = set()
    for call in (*calls.of("fastgan"), *one_order(case, device).of("fastgan")):
        if call.name not in seen:
            seen.add(call.name)
            args = tree_map_only(torch.Tensor, _leaf, call.args)
            torch.library.opcheck(call.overload, args, call.kwargs)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("case", CORE, ids=str)
def test_compiles_once_for_all_sizes(case, device):
    torch._dynamo.reset()
    compiled = torch.compile(case.call, fullgraph=True, dynamic=True, backend="aot_eager")
    n, _, *rest = case.shape
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for layout in case.memory_formats[:1]:
            for more in (0, 1, 4):
                inputs = case.inputs(
                    torch.float64, device, layout, shape=case.sized(n + more, rest[0] + more if rest else 1)
                )
                dy = cotangent(expected := case.call(*inputs))
                got = compiled(*inputs)
                torch.testing.assert_close(got, expected)
                ours = torch.autograd.grad(got, inputs, dy)
                torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, dy))


class _Model(nn.Module):
    def __init__(self, case, parameters):
        super().__init__()
        self.call = case.call
        self.parameters_of_op = nn.ParameterList(parameters)

    def forward(self, x):
        return self.call(x, *self.parameters_of_op)


# PyTorch's exporter calls a deprecated function of PyTorch.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("case", CORE, ids=str)
def test_decomposes_for_export(case):
    x, *parameters = detached(case.inputs(torch.float32))
    model = _Model(case, parameters).eval()
    program = torch.export.export(model, (x.detach(),))
    program = program.run_decompositions({op.overload: op.reference for op in registry.values()})
    for node in program.graph.nodes:
        if node.op == "call_function":
            assert node.target is operator.getitem or node.target.namespace == "aten", node.target
    other = case.inputs(torch.float32, seed=5)[0].detach()
    torch.testing.assert_close(program.module()(other), model(other))
