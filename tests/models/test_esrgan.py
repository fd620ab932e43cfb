import re

import pytest
import torch
from torch.nn import functional as F

from fastgan.errors import DataError, UsageError
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact, from_state
from fastgan.models.esrgan.bicubic import Bicubic
from fastgan.runtime.spec import Spec

SMALL = [
    (RRDBNet, {"scale": 4, "width": 4, "growth": 2, "blocks": 1}),
    (RRDBNet, {"scale": 2, "width": 4, "growth": 2, "blocks": 1}),
    (RRDBNet, {"scale": 1, "width": 4, "growth": 2, "blocks": 1, "channels": 1}),
    (SRVGGNetCompact, {"scale": 4, "width": 4, "blocks": 2}),
    (SRVGGNetCompact, {"scale": 3, "width": 4, "blocks": 1, "channels": 1}),
    (SRVGGNetCompact, {"scale": 1, "width": 4, "blocks": 3}),
    (SRVGGNetCompact, {"scale": 2, "width": 4, "blocks": 1, "shuffle": 4}),
    (SRVGGNetCompact, {"scale": 3, "width": 4, "blocks": 1, "shuffle": 4}),
    (SRVGGNetCompact, {"scale": 1, "width": 4, "blocks": 1, "shuffle": 4}),
]
small = pytest.mark.parametrize(("kind", "options"), SMALL)


@small
def test_shapes_and_gradients(kind, options):
    # With other seeds all pre-activations of a layer can be positive, so that a PReLU gets no gradient.
    torch.manual_seed(0)
    network = kind(**options)
    n = network.multiple
    for h, w in ((n, n), (3 * n, 5 * n)):
        x = torch.rand(2, network.channels, h, w)
        y = network(x)
        assert y.shape == (2, network.channels, network.scale * h, network.scale * w)
    y.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    spec = Spec.of(network)
    assert (spec.kind, spec.scale, spec.range) == ("image", options["scale"], (0.0, 1.0))
    assert (spec.channels, spec.multiple, spec.reach) == (network.channels, n, network.reach)


@small
def test_reach_is_exact(kind, options):
    """No output pixel depends on an input pixel farther away than `reach`, and some depend on one at that distance."""
    torch.manual_seed(0)
    network = kind(**options).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.05, 0.2)  # all positive, so that gradients do not cancel
    reach, scale, unit = network.reach, network.scale, network.multiple
    side = (2 * reach // unit + 3) * unit
    farthest = []
    for offset in range(unit):
        x = torch.rand(1, network.channels, side, side, dtype=torch.float64).requires_grad_()
        at = reach // unit * unit + offset
        for phase in range(scale):
            y = network(x)[0, :, at * scale + phase, at * scale + scale - 1 - phase].sum()
            (grad,) = torch.autograd.grad(y, x)
            rows, columns = grad[0].abs().sum(0).nonzero(as_tuple=True)
            farthest += [int(at - rows.min()), int(rows.max() - at), int(at - columns.min()), int(columns.max() - at)]
    assert max(farthest) == reach


def test_names_equal_those_of_the_public_checkpoints():
    keys = set(RRDBNet(blocks=2).state_dict())
    assert {key.rpartition(".")[0] for key in keys} == {
        "conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last",
        *(f"body.{i}.rdb{j}.conv{k}" for i in (0, 1) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)),
    }  # fmt: skip
    keys = set(SRVGGNetCompact(scale=2, blocks=16, shuffle=4).state_dict())
    convolutions = {f"body.{i}.{what}" for i in range(0, 36, 2) for what in ("weight", "bias")}
    assert keys - {"body.34.weight", "body.34.bias"} == convolutions - {"body.34.weight", "body.34.bias"} | {
        f"body.{i}.weight" for i in range(1, 34, 2)
    }


def test_numbers_of_parameters_equal_those_of_the_public_checkpoints():
    def parameters(network):
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        assert parameters(RRDBNet()) == 16_697_987
        assert parameters(RRDBNet(blocks=6)) == 4_467_779
        assert parameters(RRDBNet(scale=2)) == 16_703_171
        assert parameters(SRVGGNetCompact(blocks=16)) == 621_424
        assert parameters(SRVGGNetCompact(blocks=32)) == 1_213_296


def test_dense_blocks_start_near_the_identity():
    torch.manual_seed(0)
    (block,) = RRDBNet(width=16, growth=8, blocks=1).body
    x = torch.randn(1, 16, 8, 8)
    assert 0 < (block.rdb1(x) - x).norm() < 0.1 * x.norm()


@pytest.mark.parametrize(("of", "to"), [(4, 2), (4, 3), (4, 1), (2, 1), (3, 2), (3, 1), (6, 4), (5, 4)])
def test_bicubic_downsampling_equals_pytorchs(of, to):
    x = torch.rand(2, 3, of * 4, of * 3, dtype=torch.float64)
    y = Bicubic(3, of, to).double()(x)
    torch.testing.assert_close(y, F.interpolate(x, scale_factor=to / of, mode="bicubic"), rtol=0, atol=1e-6)
    x = torch.rand(1, 3, of, of)  # smaller than the kernel
    torch.testing.assert_close(Bicubic(3, of, to)(x), F.interpolate(x, scale_factor=to / of, mode="bicubic"))


def test_a_smaller_scale_is_the_network_followed_by_bicubic_downsampling():
    full = SRVGGNetCompact(scale=4, width=4, blocks=1)
    reduced = SRVGGNetCompact(scale=3, width=4, blocks=1, shuffle=4)
    reduced.load_state_dict(full.state_dict())
    x = torch.rand(1, 3, 5, 6)
    expected = F.interpolate(full(x), scale_factor=0.75, mode="bicubic")
    torch.testing.assert_close(reduced(x), expected)


def test_wrong_scales():
    with pytest.raises(UsageError, match="scale: expected 1, 2 or 4, got 3"):
        RRDBNet(scale=3)
    with pytest.raises(UsageError, match="scale: expected a number from 1 to shuffle = 4, got 5"):
        SRVGGNetCompact(scale=5, shuffle=4)
    with pytest.raises(UsageError, match="scale: expected a number from 1 to shuffle = 0, got 0"):
        SRVGGNetCompact(scale=0)


@small
def test_the_network_is_rebuilt_from_its_state_dict(kind, options):
    network = kind(**options)
    rng_state = torch.get_rng_state()
    found = from_state(network.state_dict(), scale=options["scale"])
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert type(found) is kind
    assert not found.training
    assert all(not tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    for name in ("scale", "channels", "multiple", "reach"):
        assert getattr(found, name) == getattr(network, name)
    x = torch.rand(1, network.channels, 4 * network.multiple, 4 * network.multiple)
    assert torch.equal(found(x), network(x))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        half = from_state({f"module.{key}": value.to(dtype) for key, value in network.state_dict().items()})
        assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_the_scale_of_a_downsampling_is_not_in_the_weights():
    assert from_state(SRVGGNetCompact(2, width=4, blocks=1, shuffle=4).state_dict()).scale == 4
    assert from_state(SRVGGNetCompact(4, width=4, blocks=1).state_dict(), scale=2).scale == 2
    with pytest.raises(DataError, match="scale: expected 2, got weights of a ×4 network"):
        from_state(RRDBNet(width=4, growth=2, blocks=1).state_dict(), scale=2)


RELEASED = {
    r"^body\.(\d)\.rdb": r"RRDB_trunk.\1.RDB", "^conv_body": "trunk_conv", "^conv_up": "upconv", "^conv_hr": "HRconv",
}  # fmt: skip
BEFORE_RELEASE = {
    r"^body\.(\d)\.rdb(.*)\.": r"model.1.sub.\1.RDB\2.0.", "^conv_first": "model.0", "^conv_body": "model.1.sub.2",
    "^conv_up1": "model.3", "^conv_up2": "model.6", "^conv_hr": "model.8", "^conv_last": "model.10",
}  # fmt: skip


@pytest.mark.parametrize(("names", "example"), [(RELEASED, "RRDB_trunk.1.RDB3.conv5.bias"),
                                                (BEFORE_RELEASE, "model.1.sub.1.RDB3.conv5.0.bias")])  # fmt: skip
def test_names_of_older_checkpoints(names, example):
    network = RRDBNet(width=4, growth=2, blocks=2)
    state = {}
    for key, value in network.state_dict().items():
        for new, old in names.items():
            key = re.sub(new, old, key)
        state[key] = value
    assert example in state
    found = from_state(state)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(found(x), network(x))


def changed(network, **changes):
    state = dict(network.state_dict())
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value(state.get(key))
    return state


def with_nan(weight):
    weight = weight.clone()
    weight[1, 2, 0, 0] = torch.nan
    return weight


RRDB = RRDBNet(width=4, growth=2, blocks=2)
SRVGG = SRVGGNetCompact(width=4, blocks=2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "the first keys are: none"),
        ({"layer.weight": torch.zeros(1)}, r"expected the keys of RRDBNet .* the first keys are: layer\.weight"),
        (changed(RRDB, conv_hr__bias=None), "conv_hr.bias is missing in a RRDBNet"),
        (changed(RRDB, body__1__rdb3__conv5__bias=None, conv_hr__bias=None), r"conv5.bias \(and 1 more\) is missing"),
        (changed(RRDB, conv_last__weight=None), "conv_last.weight is missing"),
        (
            changed(RRDB, conv_first__weight=lambda w: w[0]),
            r"conv_first.weight has shape \[3, 3, 3\]: expected \[out, in, 3, 3\]",
        ),
        (
            changed(RRDB, body__0__conv1x1__weight=lambda w: torch.zeros(1)),
            "body.0.conv1x1.weight is unexpected in a RRDBNet",
        ),
        (changed(RRDB, body__99999999999__rdb1__conv1__weight=lambda w: torch.zeros(1)), r"body.2\..* is missing"),
        (
            changed(RRDB, conv_up1__weight=lambda w: w[:2]),
            r"conv_up1.weight has shape \[2, 4, 3, 3\]: expected \[4, 4,",
        ),
        (
            changed(RRDB, conv_up1__weight=lambda w: w.int()),
            "conv_up1.weight has dtype torch.int32: expected floating point",
        ),
        (changed(RRDB, conv_up1__weight=with_nan), "conv_up1.weight has values that are NaN or infinite"),
        (
            changed(RRDB, conv_first__weight=lambda w: w[:, :2]),
            r"has 2 input channels and .* 3 outputs: expected 48 \(×1\), 12",
        ),
        (
            changed(SRVGG, body__6__weight=lambda w: w[:47]),
            "body.6.weight has 47 output channels: expected 3 times the squ",
        ),
        (
            changed(SRVGG, body__6__weight=lambda w: w[:2]),
            "body.6.weight has 2 output channels: expected 3 times the squ",
        ),
        (changed(SRVGG, body__6__weight=None, body__6__bias=None), "a PReLU between each two"),
        (changed(SRVGG, body__1__weight=None), "a PReLU between each two"),
        (
            changed(SRVGG, body__3__weight=lambda w: w[:1]),
            r"body.3.weight has shape \[1\]: expected \[4\] in this SRVGG",
        ),
        (changed(SRVGG, body__3__bias=lambda w: torch.zeros(1)), "body.3.bias is unexpected in a SRVGGNetCompact"),
    ],
)
def test_state_dicts_of_other_networks_are_errors(state, message):
    with pytest.raises(DataError, match=message):
        from_state(state)
