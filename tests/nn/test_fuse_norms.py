"""fuse: instance norms run on our op with the activation after them, where it has kernels; else as in PyTorch."""

import copy

import pytest
import torch
from torch import nn

from fastgan.nn import fuse, fusion_report
from fastgan.ops import instance_norm_act
from fastgan.ops._backend import backend
from fastgan.testing.op_recorder import OpRecorder


def network(act=None, dims=2, **options):
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv1d, nn.InstanceNorm1d)
    torch.manual_seed(0)
    act = nn.ReLU(inplace=True) if act is None else act
    return nn.Sequential(
        conv(3, 4, 3), norm(4, **options), act, conv(4, 4, 3, padding=1, padding_mode="reflect"), norm(4)
    )


def counted(module, x):
    with OpRecorder() as recorder:
        y = module(x)
    return y, recorder.counts()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.Tanh(), nn.Identity()])
def test_values_and_gradients_of_two_orders(act, layout):
    plain = network(act).double().to(memory_format=layout)
    fused = fuse(copy.deepcopy(plain))
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    results = []
    for module in (plain, fused):
        y = module(x)
        (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        # The bias before an instance norm has no gradient but rounding.
        parameters = [p for name, p in module.named_parameters() if name.endswith("weight")]
        results.append([y, first, *torch.autograd.grad(first.square().sum(), parameters)])
    for got, want in zip(results[1], results[0], strict=True):
        assert (got - want).norm() <= 1e-10 * want.norm()


def test_one_op_for_norm_and_activation_also_in_inference():
    fused = fuse(network())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert counted(fused, x)[1]["instance_norm_act"] == 2
    _, counts = counted(fused, x.requires_grad_())
    assert counts["instance_norm_act"] == 2
    assert "bias_act" not in counts


@pytest.mark.parametrize(
    "options", [{"affine": True}, {"track_running_stats": True}, {"affine": True, "track_running_stats": True}]
)
def test_parameters_and_running_statistics_run_as_in_pytorch(options):
    plain = network(**options)
    fused = fuse(copy.deepcopy(plain))
    x = torch.randn(2, 3, 8, 8)
    y, counts = counted(fused, x)
    assert torch.equal(y, plain(x)) or torch.allclose(y, plain(x), atol=1e-5)
    assert counts["instance_norm_act"] == 1
    assert fusion_report(plain)["1"].reason == "runs as in PyTorch: it has parameters or running statistics"


def test_other_inputs_run_as_in_pytorch():
    norm = fuse(nn.InstanceNorm2d(3))
    x = torch.randn(3, 8, 8)  # an image without a batch
    assert torch.equal(norm(x), nn.InstanceNorm2d(3)(x))
    half = torch.randn(1, 3, 8, 8).bfloat16()
    assert torch.equal(norm(half), nn.InstanceNorm2d(3)(half))
    with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
        norm(torch.zeros(1, 3, 1, 1))
    with pytest.warns(UserWarning, match="input's size at dim=1 does not match num_features"):
        norm(torch.zeros(1, 2, 4, 4))


def test_a_forced_back_end_without_the_op():
    norm = fuse(nn.InstanceNorm2d(3))
    x = torch.randn(1, 3, 8, 8)
    with backend("triton"):
        assert torch.equal(norm(x), nn.InstanceNorm2d(3)(x))


def test_signals():
    plain = network(dims=1)
    fused = fuse(copy.deepcopy(plain))
    with torch.no_grad():
        x = torch.randn(2, 3, 12)
        torch.testing.assert_close(fused(x), plain(x))


def test_report():
    report = fusion_report(network())
    assert [report[str(i)].reason for i in (1, 2, 4)] == [
        "instance norm + relu",
        "instance norm + relu",
        "instance norm",
    ]
    assert all(report[str(i)].status == "fused" for i in range(5))


def test_hooks_see_the_norm():
    fused = fuse(network())
    seen = []
    fused[1].register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        fused(x)
        torch.testing.assert_close(seen[0], instance_norm_act(fused[0](x)))


def test_a_changed_norm_is_followed():
    fused = fuse(network())
    plain = network()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        fused(x)
        for module in (fused, plain):
            module[1].eps = 0.5
        torch.testing.assert_close(fused(x), plain(x))
        for module in (fused, plain):
            module[1] = nn.BatchNorm2d(4)
        torch.testing.assert_close(fused(x), plain(x))


def test_compiled():
    fused = fuse(network())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fused, backend="eager", fullgraph=True)(x), fused(x))


class Gained(nn.Module):
    """Activation, gain and clamp as users write them, which fuse joins to a convolution before them."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        x = torch.nn.functional.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2)
        return (x * 1.5).clamp(-2, 2)


def test_users_activations_after_a_norm():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), Gained()).double()
    fused = fuse(copy.deepcopy(plain))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fused(x), plain(x))
