"""What becomes of gradients: guarded, clipped, averaged, unscaled. Judged by PyTorch's own optimizer and clipping."""

import contextlib
import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, register_optimizer_step_post_hook

from fastgan import Trainer
from fastgan.engine import cuda_graphs
from fastgan.errors import UsageError
from fastgan.train import update as update_module
from fastgan.train.distributed import World
from fastgan.train.optim import FIRST_SCALE, Update


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def updating(net, clip=0.0, fp16=False, lr=0.1):
    adam = torch.optim.Adam(net.parameters(), lr, (0.5, 0.9), fused=True)
    return Update(net, adam, World(), clip, fp16)


def gradients(net, seed=1, scale=1.0):
    torch.manual_seed(seed)
    return tuple(scale * torch.randn_like(w) for w in net.parameters() if w.requires_grad)


def weights(net):
    return [w.detach().clone() for w in net.parameters()]


def same(one, other):
    return all(map(torch.equal, one, other))


FINE = torch.tensor(1.0)


def spoilt(net, value):
    bad = gradients(net)
    bad[2].view(-1)[1] = value
    return bad


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
def test_a_bad_gradient_is_skipped_and_counted(value):
    """1e25 is finite, its square is not: Adam's second moment would be infinite for ever, and that weight stand."""
    net = network()
    update = updating(net)
    update.add(FINE, gradients(net))
    update.apply()
    kept, state = weights(net), copy.deepcopy(update.optimizer.state_dict())
    for n in (1, 2):
        update.add(FINE, spoilt(net, value))
        assert not update.apply().isfinite()
        assert (update.skipped, update.in_a_row) == (n, n)
    assert same(weights(net), kept)
    for old, new in zip(state["state"].values(), update.optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    update.add(FINE, gradients(net, 2))
    update.apply()
    assert (update.skipped, update.in_a_row) == (2, 0)
    assert not same(weights(net), kept)
    assert all(w.grad is None for w in net.parameters())


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_bad_loss_is_skipped_though_its_gradient_is_finite(value):
    net = network()
    kept, update = weights(net), updating(net)
    update.add(FINE, gradients(net))
    update.add(torch.tensor(value), gradients(net))
    assert update.apply().isfinite()
    assert (update.skipped, update.in_a_row) == (1, 1)
    assert same(weights(net), kept)


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_clipping_and_adam_are_pytorchs(clip):
    ours, plain = network(), network()
    update = updating(ours, clip)
    adam = torch.optim.Adam(plain.parameters(), 0.1, (0.5, 0.9), foreach=False)
    for seed in range(4):
        update.add(FINE, gradients(ours, seed))
        norm = update.apply()
        for weight, gradient in zip(plain.parameters(), gradients(plain, seed), strict=True):
            weight.grad = gradient
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(plain.parameters(), clip or math.inf))
        adam.step()
        # Adam divides the size of a gradient out, but for the moments' memory of sizes before.
        torch.testing.assert_close(weights(ours), weights(plain))


def loss_and_gradients(net, x):
    loss = net(x).square().mean()
    return loss.detach(), torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_two_batches_are_one_of_twice_the_size(clip):
    torch.manual_seed(1)
    x = torch.randn(8, 5)
    nets = network(), network()
    norms = []
    for net, parts in zip(nets, ([x], [x[:4], x[4:]]), strict=True):
        update = updating(net, clip)
        for _ in range(3):
            for part in parts:
                update.add(*loss_and_gradients(net, part))
            norm = update.apply()
        norms.append(norm)
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*map(weights, nets))


def test_adding_changes_nobodys_gradient():
    """A compiled step may own what it returned, and hand out the same memory again."""
    net = network()
    update, first, second = updating(net), gradients(net, 1), gradients(net, 2)
    update.add(FINE, first)
    update.add(FINE, second)
    update.apply()
    assert same(first, gradients(net, 1))
    assert same(second, gradients(net, 2))


def test_the_fp16_scale_halves_doubles_and_comes_out_again(monkeypatch):
    monkeypatch.setattr(update_module, "GROWTH_INTERVAL", 3)
    ours, plain = network(), network()
    update, reference = updating(ours, clip=1.0, fp16=True), updating(plain, clip=1.0)
    assert update.scale == FIRST_SCALE

    def good(seed):
        for _ in range(2):  # accumulated, so that both divisors are in play
            update.add(FINE, gradients(ours, seed, float(update.scale)))
            reference.add(FINE, gradients(plain, seed))
        torch.testing.assert_close(update.apply(), reference.apply())
        torch.testing.assert_close(weights(ours), weights(plain))

    good(0)
    update.add(FINE, spoilt(ours, math.inf))
    update.apply()
    assert update.scale == FIRST_SCALE / 2
    scales = []
    for seed in range(1, 7):
        good(seed)
        scales.append(float(update.scale / FIRST_SCALE))
    assert scales == [0.5, 0.5, 1.0, 1.0, 1.0, 2.0]  # the overflow began the count anew
    assert update.skipped == 1


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_of_exactly_zero(clip):
    net = network()
    kept, update = weights(net), updating(net, clip)
    update.add(FINE, gradients(net, scale=0.0))
    assert update.apply() == 0
    assert update.skipped == 0
    assert same(weights(net), kept)


def test_frozen_weights_and_weights_without_a_gradient():
    ours, plain = network(), network()
    for net in (ours, plain):
        net[0].weight.requires_grad_(False)
    update = updating(ours)
    adam = torch.optim.Adam(plain.parameters(), 0.1, (0.5, 0.9), foreach=False)
    first, second, third = gradients(ours)
    update.add(FINE, (first, None, third))
    update.add(FINE, (first, second, None))  # in one batch, not in the other: half of it
    update.apply()
    for weight, gradient in zip(
        [w for w in plain.parameters() if w.requires_grad], (first, second / 2, third / 2), strict=True
    ):
        weight.grad = gradient
    adam.step()
    torch.testing.assert_close(weights(ours), weights(plain))
    kept = ours[0].bias.detach().clone()
    update.add(FINE, (None, second, third))
    update.apply()
    assert torch.equal(ours[0].bias, kept)  # no gradient, no step by the moments either, as in PyTorch
    assert update.skipped == 0


def test_nothing_to_train_is_said():
    said = "expected a network with a parameter that requires a gradient, got"
    with pytest.raises(UsageError, match=f"discriminator: {said} Sequential"):
        Trainer(network(), network().requires_grad_(False))
    with pytest.raises(UsageError, match=f"generator: {said} Tanh"):
        Trainer(nn.Tanh(), network())


@pytest.mark.parametrize("fp16", [False, True])
def test_what_a_checkpoint_keeps_comes_back_bit_for_bit(fp16, monkeypatch):
    monkeypatch.setattr(update_module, "GROWTH_INTERVAL", 4)
    net = network()
    update = updating(net, fp16=fp16)
    for value in (math.nan, 1.0, 2.0, math.nan, 1.0, 1.0):
        update.add(FINE, spoilt(net, value))
        update.apply()
    again_net = copy.deepcopy(net)
    again = updating(again_net, fp16=fp16)
    again.optimizer.load_state_dict(copy.deepcopy(update.optimizer.state_dict()))
    again.load_tensors({name: value.clone() for name, value in update.tensors().items()})
    for name, value in update.tensors().items():
        assert torch.equal(again.tensors()[name], value), name
        assert again.tensors()[name].dtype == value.dtype, name
    assert update.skipped == 2
    for step in range(3):  # the count of good updates came along: the scale grows at the same one
        for one, n in ((update, net), (again, again_net)):
            one.add(FINE, gradients(n, step))
            one.apply()
        assert same(weights(net), weights(again_net))
        assert same(update.tensors().values(), again.tensors().values())


def test_backing_off_multiplies_the_rates():
    update = updating(network())
    update.back_off(0.5)
    update.back_off(0.5)
    assert [g["lr"] for g in update.optimizer.param_groups] == [0.025]


def test_gradients_and_moments_of_another_layout_are_not_mixed_up(tmp_path):
    """PyTorch's fused Adam pairs the wrong numbers where strides differ; ours never hands it such."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 5).to(memory_format=layout)
        update = Update(layer, torch.optim.Adam(layer.parameters(), 0.01, fused=True), World(), 0.0, False)
        source = torch.Generator().manual_seed(1)
        for _ in range(3):
            gradients = [torch.randn(p.shape, generator=source) for p in layer.parameters()]  # contiguous
            update.add(torch.zeros(()), tuple(gradients))
            update.apply()
        found.append(layer.weight.detach().contiguous())
    torch.testing.assert_close(*found)


class Sums(nn.Module):
    """Two weights that are added have one tensor for both gradients; one that is summed has an expanded one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.ones(3)) for _ in range(3))

    def forward(self, x):
        return (x + self.a + self.b).square().sum() + self.c.sum()


@pytest.mark.parametrize(("clip", "fp16"), [(1.0, False), (0.0, True)])
def test_weights_that_share_a_gradient_are_divided_once_each(clip, fp16):
    net = Sums()
    adam = torch.optim.Adam(net.parameters(), 0.1, (0.0, 0.0), eps=1.0, fused=True)
    update = Update(net, adam, World(), clip, fp16)
    loss = net(torch.zeros(3))
    found = torch.autograd.grad(loss * (1.0 if update.scale is None else update.scale), list(net.parameters()))
    assert found[0].data_ptr() == found[1].data_ptr()
    update.add(loss.detach(), found)
    update.apply()
    assert torch.equal(net.a, net.b)
    gradient = 4 / math.sqrt(2 * 3 * 4**2 + 3) if clip else 4.0
    torch.testing.assert_close(net.a.detach(), torch.full((3,), 1 - 0.1 * gradient / (gradient + 1)))


def test_ranks_can_write_into_an_expanded_gradient():
    class Two(World):
        def mean_(self, tensors):
            for tensor in tensors:
                tensor.copy_(tensor.clone())

    net = Sums()
    update = Update(net, torch.optim.Adam(net.parameters(), fused=True), Two(), 0.0, False)
    loss = net(torch.zeros(3))
    update.add(loss.detach(), torch.autograd.grad(loss, list(net.parameters())))
    update.apply()
    assert not torch.equal(net.c, torch.ones(3))


def test_an_update_that_was_broken_off_leaves_nothing_to_the_next():
    net, other = network(), network()
    update, fresh = updating(net), updating(other)
    update.add(FINE, gradients(net, seed=7))
    for one, n in ((update, net), (fresh, other)):
        one.begin()
        one.add(FINE, gradients(n))
        one.apply()
    assert same(weights(net), weights(other))


def test_weights_that_were_frozen_since_are_named():
    net = network()
    update = updating(net)
    net[0].requires_grad_(False)
    with pytest.raises(UsageError, match="the weights of Sequential that require a gradient are others"):
        update.begin()


# --- recorded as CUDA graphs ----------------------------------------------------------------------------------------


class Replayed:
    """What a CUDA graph is to `Recorder`, on the CPU: Python's part runs at the recording, the rest at each replay."""

    def __init__(self, run):
        self.run, self.result, self.replays = run, torch.zeros(()), 0

    def replay(self):
        self.replays += 1
        hooks = dict(_global_optimizer_post_hooks)
        if self.replays > 1:
            _global_optimizer_post_hooks.clear()
        try:
            self.result.copy_(self.run())
        finally:
            _global_optimizer_post_hooks.update(hooks)


@pytest.fixture
def recordings(monkeypatch):
    """The graphs that are recorded; a recording itself changes no tensor."""
    made = []

    def recorded(device, run):
        made.append(Replayed(run))
        return made[-1], made[-1].result

    monkeypatch.setattr(cuda_graphs, "_recorded", recorded)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return made


def test_recorded_updates_are_the_eager_ones(recordings):
    """Also where one is skipped, watched, of another learning rate or of other weights, or the moments have moved."""
    networks = [network(), network()]
    eager, records = (updating(net, clip=0.5, fp16=True) for net in networks)
    records.records = True
    steps = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: steps.append(optimizer))
    try:
        for i in range(40):
            given = spoilt(networks[0], math.nan) if i == 8 else gradients(networks[0], seed=i)
            given = (None, *given[1:]) if i >= 30 else given
            norms = []
            for update in (eager, records):
                if i == 14:
                    update.back_off(0.5)
                if i == 22:
                    for moments in update.optimizer.state.values():
                        moments.update({name: value.clone() for name, value in moments.items()})
                update.add(FINE, tuple(None if g is None else g.clone() for g in given))
                norms.append(update.apply(watch=i == 11))
            assert torch.equal(*norms) or i == 8
            assert same(*map(weights, networks)), i
            assert same(
                (eager.scale, eager.skipped, eager.in_a_row), (records.scale, records.skipped, records.in_a_row)
            )
    finally:
        handle.remove()
    # One after the moments are there, and one after each change; a watched update is none of the graph's.
    assert [graph.replays for graph in recordings] == [14 - 4 - 1, 22 - 14 - 3, 30 - 22 - 3, 40 - 30 - 3]
    assert steps.count(records.optimizer) == steps.count(eager.optimizer) == 40
    assert records.seen is not None


def test_memory_that_holds_no_recording_means_eager_updates(recordings, monkeypatch):
    def full(device, run):
        recordings.append("tried")
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(cuda_graphs, "_recorded", full)
    networks = [network(), network()]
    eager, records = map(updating, networks)
    records.records = True
    for i in range(10):
        for update, net in zip((eager, records), networks, strict=True):
            update.add(FINE, gradients(net, seed=i))
            update.apply()
    assert same(*map(weights, networks))
    assert recordings == ["tried"]
