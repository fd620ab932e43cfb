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
    torch.manual_seed(0)  # by bad luck no pre-activation of so few is negative, and a PReLU's slope has no gradient
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
    """Every output pixel depends on input pixels up to `reach` away, and some on one that is just as far."""
    torch.manual_seed(0)
    network = kind(**options).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.05, 0.2)  # positive throughout, so that nothing cancels
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


def test_the_public_layouts():
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


def test_the_public_sizes():
    def parameters(network):
        return sum(parameter.numel() for parameter in network.parameters())

    with torch.device("meta"):
        assert parameters(RRDBNet()) == 16_697_987
        assert parameters(RRDBNet(blocks=6)) == 4_467_779
        assert parameters(RRDBNet(scale=2)) == 16_703_171
        assert parameters(SRVGGNetCompact(blocks=16)) == 621_424
        assert parameters(SRVGGNetCompact(blocks=32)) == 1_213_296


def test_dense_blocks_begin_near_the_identity():
    torch.manual_seed(0)
    (block,) = RRDBNet(width=16, growth=8, blocks=1).body
    x = torch.randn(1, 16, 8, 8)
    assert 0 < (block.rdb1(x) - x).norm() < 0.1 * x.norm()


@pytest.mark.parametrize(("of", "to"), [(4, 2), (4, 3), (4, 1), (2, 1), (3, 2), (3, 1), (6, 4), (5, 4)])
def test_the_bicubic_reduction_is_torchs(of, to):
    x = torch.rand(2, 3, of * 4, of * 3, dtype=torch.float64)
    y = Bicubic(3, of, to).double()(x)
    torch.testing.assert_close(y, F.interpolate(x, scale_factor=to / of, mode="bicubic"), rtol=0, atol=1e-6)
    x = torch.rand(1, 3, of, of)  # smaller than the kernel
    torch.testing.assert_close(Bicubic(3, of, to)(x), F.interpolate(x, scale_factor=to / of, mode="bicubic"))


def test_reduced_is_the_whole_network_and_then_bicubic():
    whole = SRVGGNetCompact(scale=4, width=4, blocks=1)
    reduced = SRVGGNetCompact(scale=3, width=4, blocks=1, shuffle=4)
    reduced.load_state_dict(whole.state_dict())
    x = torch.rand(1, 3, 5, 6)
    expected = F.interpolate(whole(x), scale_factor=0.75, mode="bicubic")
    torch.testing.assert_close(reduced(x), expected)


def test_wrong_scales():
    with pytest.raises(UsageError, match="scale: expected 1, 2 or 4, got 3"):
        RRDBNet(scale=3)
    with pytest.raises(UsageError, match="scale: expected a number from 1 to shuffle = 4, got 5"):
        SRVGGNetCompact(scale=5, shuffle=4)
    with pytest.raises(UsageError, match="scale: expected a number from 1 to shuffle = 0, got 0"):
        SRVGGNetCompact(scale=0)


@small
def test_the_network_is_known_by_its_weights(kind, options):
    network = kind(**options)
    chance = torch.get_rng_state()
    found = from_state(network.state_dict(), scale=options["scale"])
    assert torch.equal(torch.get_rng_state(), chance)  # nothing is drawn
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


def test_a_reduction_is_nothing_that_weights_tell():
    assert from_state(SRVGGNetCompact(2, width=4, blocks=1, shuffle=4).state_dict()).scale == 4
    assert from_state(SRVGGNetCompact(4, width=4, blocks=1).state_dict(), scale=2).scale == 2
    with pytest.raises(DataError, match="scale: these weights are of a network for ×4, not ×2"):
        from_state(RRDBNet(width=4, growth=2, blocks=1).state_dict(), scale=2)


OLD = {r"^body\.(\d)\.rdb": r"RRDB_trunk.\1.RDB", "^conv_body": "trunk_conv", "^conv_up": "upconv",
       "^conv_hr": "HRconv"}  # fmt: skip
OLDER = {r"^body\.(\d)\.rdb(.*)\.": r"model.1.sub.\1.RDB\2.0.", "^conv_first": "model.0", "^conv_body": "model.1.sub.2",
         "^conv_up1": "model.3", "^conv_up2": "model.6", "^conv_hr": "model.8", "^conv_last": "model.10"}  # fmt: skip


@pytest.mark.parametrize(("names", "example"), [(OLD, "RRDB_trunk.1.RDB3.conv5.bias"),
                                                (OLDER, "model.1.sub.1.RDB3.conv5.0.bias")])  # fmt: skip
def test_older_layouts(names, example):
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


def spoilt(weight):
    weight = weight.clone()
    weight[1, 2, 0, 0] = torch.nan
    return weight


RRDB = RRDBNet(width=4, growth=2, blocks=2)
SRVGG = SRVGGNetCompact(width=4, blocks=2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "its first ones are: none at all"),
        ({"layer.weight": torch.zeros(1)}, r"expected the keys of RRDBNet .* its first ones are: layer\.weight"),
        (changed(RRDB, conv_hr__bias=None), "conv_hr.bias is missing: the others make a RRDBNet"),
        (changed(RRDB, body__1__rdb3__conv5__bias=None, conv_hr__bias=None), r"conv5.bias \(and 1 more\) is missing"),
        (changed(RRDB, conv_last__weight=None), "conv_last.weight is missing"),
        (
            changed(RRDB, conv_first__weight=lambda w: w[0]),
            r"conv_first.weight has shape \[3, 3, 3\]: expected that of",
        ),
        (changed(RRDB, body__0__conv1x1__weight=lambda w: torch.zeros(1)), "body.0.conv1x1.weight is not of this netw"),
        (changed(RRDB, body__99999999999__rdb1__conv1__weight=lambda w: torch.zeros(1)), r"body.2\..* is missing"),
        (
            changed(RRDB, conv_up1__weight=lambda w: w[:2]),
            r"conv_up1.weight has shape \[2, 4, 3, 3\]: expected \[4, 4,",
        ),
        (
            changed(RRDB, conv_up1__weight=lambda w: w.int()),
            "conv_up1.weight holds torch.int32 numbers: expected float",
        ),
        (changed(RRDB, conv_up1__weight=spoilt), "conv_up1.weight holds numbers that are not finite"),
        (changed(RRDB, conv_first__weight=lambda w: w[:, :2]), r"takes 2 channels and .* 3: expected 48 \(×1\), 12"),
        (changed(SRVGG, body__6__weight=lambda w: w[:47]), "body.6.weight gives 47 channels: expected 3 times the squ"),
        (changed(SRVGG, body__6__weight=lambda w: w[:2]), "body.6.weight gives 2 channels: expected 3 times the squ"),
        (changed(SRVGG, body__6__weight=None, body__6__bias=None), "a PReLU between each two"),
        (changed(SRVGG, body__1__weight=None), "a PReLU between each two"),
        (
            changed(SRVGG, body__3__weight=lambda w: w[:1]),
            r"body.3.weight has shape \[1\]: expected \[4\] in this SRVGG",
        ),
        (changed(SRVGG, body__3__bias=lambda w: torch.zeros(1)), "body.3.bias is not of this network"),
    ],
)
def test_weights_of_other_networks(state, message):
    with pytest.raises(DataError, match=message):
        from_state(state)
