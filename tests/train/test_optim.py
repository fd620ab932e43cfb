"""Updates: gradients are checked, clipped, averaged and unscaled. PyTorch's optimizers are the reference."""

import copy
import math

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss, Defaults
from fastgan.train import build, optim
from fastgan.train.config import OptimConfig
from fastgan.train.distributed import World
from fastgan.train.ema import Ema
from fastgan.train.optim import FIRST_SCALE, Adam, RMSprop, Update


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def updating(net, clip=0.0, fp16=False, lr=0.1, weight_clip=0.0):
    return Update(net, Adam(net.parameters(), lr, (0.5, 0.9)), World(), clip, fp16, weight_clip)


OPTIONS = {
    Adam: OptimConfig(optimizer="adam", beta1=0.5, beta2=0.9), RMSprop: OptimConfig(optimizer="rmsprop")
}  # fmt: skip


def gradients(net, seed=1, scale=1.0):
    torch.manual_seed(seed)
    return tuple(scale * torch.randn_like(w) for w in net.parameters() if w.requires_grad)


def weights(net):
    return [w.detach().clone() for w in net.parameters()]


def same(one, other):
    return all(map(torch.equal, one, other))


LOSS = torch.tensor(1.0)


def gradients_with(net, value):
    bad = gradients(net)
    bad[2].view(-1)[1] = value
    return bad


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
def test_an_update_with_a_non_finite_gradient_is_skipped_and_counted(value):
    """1e25 is finite, its square is not: Adam's second moment would stay infinite, and that weight would not change."""
    net = network()
    update = updating(net)
    update.add(LOSS, gradients(net))
    update.apply()
    kept, state = weights(net), copy.deepcopy(update.optimizer.state_dict())
    for n in (1, 2):
        update.add(LOSS, gradients_with(net, value))
        assert not update.apply().isfinite()
        assert (update.skipped, update.in_a_row) == (n, n)
    assert same(weights(net), kept)
    for old, new in zip(state["state"].values(), update.optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    update.add(LOSS, gradients(net, 2))
    update.apply()
    assert (update.skipped, update.in_a_row) == (2, 0)
    assert not same(weights(net), kept)
    assert all(w.grad is None for w in net.parameters())


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_an_update_with_a_non_finite_loss_is_skipped(value):
    net = network()
    kept, update = weights(net), updating(net)
    update.add(LOSS, gradients(net))
    update.add(torch.tensor(value), gradients(net))
    assert update.apply().isfinite()
    assert (update.skipped, update.in_a_row) == (1, 1)
    assert same(weights(net), kept)


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_clipping_and_adam_equal_pytorchs(clip):
    ours, plain = network(), network()
    update = updating(ours, clip)
    adam = torch.optim.Adam(plain.parameters(), 0.1, (0.5, 0.9), foreach=False)
    for seed in range(4):
        update.add(LOSS, gradients(ours, seed))
        norm = update.apply()
        for weight, gradient in zip(plain.parameters(), gradients(plain, seed), strict=True):
            weight.grad = gradient
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(plain.parameters(), clip or math.inf))
        adam.step()
        # Adam cancels the scale of gradients, so clipping shows in the moments of several updates.
        torch.testing.assert_close(weights(ours), weights(plain))


def loss_and_gradients(net, x):
    loss = net(x).square().mean()
    return loss.detach(), torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_two_accumulated_batches_equal_one_of_twice_the_size(clip):
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


def test_add_does_not_change_gradients_in_place():
    """A compiled step may own the tensors that it returned, and reuse their memory."""
    net = network()
    update, first, second = updating(net), gradients(net, 1), gradients(net, 2)
    update.add(LOSS, first)
    update.add(LOSS, second)
    update.apply()
    assert same(first, gradients(net, 1))
    assert same(second, gradients(net, 2))


def test_the_fp16_scale_halves_and_doubles_and_does_not_change_updates(monkeypatch):
    monkeypatch.setattr(optim, "GROWTH_INTERVAL", 3)
    ours, plain = network(), network()
    update, reference = updating(ours, clip=1.0, fp16=True), updating(plain, clip=1.0)
    assert update.scale == FIRST_SCALE

    def update_both(seed):
        for _ in range(2):  # accumulated, so that both divisors matter
            update.add(LOSS, gradients(ours, seed, float(update.scale)))
            reference.add(LOSS, gradients(plain, seed))
        torch.testing.assert_close(update.apply(), reference.apply())
        torch.testing.assert_close(weights(ours), weights(plain))

    update_both(0)
    update.add(LOSS, gradients_with(ours, math.inf))
    update.apply()
    assert update.scale == FIRST_SCALE / 2
    scales = []
    for seed in range(1, 7):
        update_both(seed)
        scales.append(float(update.scale / FIRST_SCALE))
    assert scales == [0.5, 0.5, 1.0, 1.0, 1.0, 2.0]  # the overflow reset the count
    assert update.skipped == 1


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_of_exactly_zero(clip):
    net = network()
    kept, update = weights(net), updating(net, clip)
    update.add(LOSS, gradients(net, scale=0.0))
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
    update.add(LOSS, (first, None, third))
    update.add(LOSS, (first, second, None))  # in one of two batches: half of it
    update.apply()
    for weight, gradient in zip(
        [w for w in plain.parameters() if w.requires_grad], (first, second / 2, third / 2), strict=True
    ):
        weight.grad = gradient
    adam.step()
    torch.testing.assert_close(weights(ours), weights(plain))
    kept = ours[0].bias.detach().clone()
    update.add(LOSS, (None, second, third))
    update.apply()
    assert torch.equal(ours[0].bias, kept)  # no gradient, no step by the moments either, as in PyTorch
    assert update.skipped == 0


def test_a_network_without_trainable_parameters_is_an_error():
    message = "expected a network with a parameter that requires a gradient, got"
    with pytest.raises(UsageError, match=f"discriminator: {message} Sequential"):
        Trainer(network(), network().requires_grad_(False))
    with pytest.raises(UsageError, match=f"generator: {message} Tanh"):
        Trainer(nn.Tanh(), network())


@pytest.mark.parametrize("fp16", [False, True])
def test_the_state_in_a_checkpoint_is_restored_bit_for_bit(fp16, monkeypatch):
    monkeypatch.setattr(optim, "GROWTH_INTERVAL", 4)
    net = network()
    update = updating(net, fp16=fp16)
    for value in (math.nan, 1.0, 2.0, math.nan, 1.0, 1.0):
        update.add(LOSS, gradients_with(net, value))
        update.apply()
    again_net = copy.deepcopy(net)
    again = updating(again_net, fp16=fp16)
    again.optimizer.load_state_dict(copy.deepcopy(update.optimizer.state_dict()))
    again.load_tensors({name: value.clone() for name, value in update.tensors().items()})
    for name, value in update.tensors().items():
        assert torch.equal(again.tensors()[name], value), name
        assert again.tensors()[name].dtype == value.dtype, name
    assert update.skipped == 2
    for step in range(3):  # the count of finite updates is restored: the scale doubles at the same one
        for one, n in ((update, net), (again, again_net)):
            one.add(LOSS, gradients(n, step))
            one.apply()
        assert same(weights(net), weights(again_net))
        assert same(update.tensors().values(), again.tensors().values())


@pytest.mark.parametrize("kind", [Adam, RMSprop])
def test_a_scheduled_rate_is_a_tensor_that_stays_where_it_is(kind):
    """Recorded updates read it there; the update is that of the same rate as a number."""
    nets = [network(), network()]
    updates = [
        Update(net, optim.optimizer_of(OPTIONS[kind], net.parameters(), 0.1), World(), 0.0, False) for net in nets
    ]
    updates[0].set_rate(0.1, scheduled=True)
    place = updates[0].optimizer.param_groups[0]["lr"].data_ptr()
    for step, rate in enumerate((0.1, 0.05, 0.025)):
        updates[0].set_rate(rate, scheduled=True)
        updates[1].set_rate(float(torch.tensor(rate)))
        for net, update in zip(nets, updates, strict=True):
            update.add(LOSS, gradients(net, step))
            update.apply()
        for one, other in zip(weights(nets[0]), weights(nets[1]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert updates[0].addresses()[0] == place
    assert updates[1].addresses()[0] == pytest.approx(0.025)


def fused_adam(weights, lr, betas=(0.9, 0.999)):
    return torch.optim.Adam(weights, lr, betas, fused=True)


@pytest.mark.parametrize("adam", [Adam, fused_adam])
def test_gradients_of_other_strides_are_applied_to_the_right_weights(adam):
    """PyTorch's fused Adam pairs the wrong elements where strides differ, so Update converts gradients and moments."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 5).to(memory_format=layout)
        update = Update(layer, adam(layer.parameters(), 0.01, (0.9, 0.999)), World(), 0.0, False)
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
    adam = Adam(net.parameters(), 0.1, (0.0, 0.0))
    adam.param_groups[0]["eps"] = 1.0
    update = Update(net, adam, World(), clip, fp16)
    loss = net(torch.zeros(3))
    found = torch.autograd.grad(loss * (1.0 if update.scale is None else update.scale), list(net.parameters()))
    assert found[0].data_ptr() == found[1].data_ptr()
    update.add(loss.detach(), found)
    update.apply()
    assert torch.equal(net.a, net.b)
    gradient = 4 / math.sqrt(2 * 3 * 4**2 + 3) if clip else 4.0
    torch.testing.assert_close(net.a.detach(), torch.full((3,), 1 - 0.1 * gradient / (gradient + 1)))


def test_ranks_can_average_an_expanded_gradient_in_place():
    class Two(World):
        def mean_(self, tensors):
            for tensor in tensors:
                tensor.copy_(tensor.clone())

    net = Sums()
    update = Update(net, Adam(net.parameters(), 0.001, (0.9, 0.999)), Two(), 0.0, False)
    loss = net(torch.zeros(3))
    update.add(loss.detach(), torch.autograd.grad(loss, list(net.parameters())))
    update.apply()
    assert not torch.equal(net.c, torch.ones(3))


def test_reset_drops_the_gradients_of_an_interrupted_update():
    net, other = network(), network()
    update, fresh = updating(net), updating(other)
    update.add(LOSS, gradients(net, seed=7))
    for one, n in ((update, net), (fresh, other)):
        one.reset()
        one.add(LOSS, gradients(n))
        one.apply()
    assert same(weights(net), weights(other))


def test_weights_frozen_after_construction_are_an_error():
    net = network()
    update = updating(net)
    net[0].requires_grad_(False)
    with pytest.raises(UsageError, match="the weights of Sequential that require a gradient are others"):
        update.reset()


# --- Adam and the average ------------------------------------------------------------------------------------------


def assert_same_bits(one, other):
    """Where PyTorch's CPU kernels use fused multiply-add, as ours do; elsewhere the last bits may differ."""
    exact = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    torch.testing.assert_close(one, other, **({"rtol": 0, "atol": 0} if exact else {}))


@pytest.mark.parametrize(("clip", "fp16"), [(0.0, False), (0.5, True)])
def test_pytorchs_optimizer_and_ours_continue_each_others_state(clip, fp16):
    """Checkpoints of earlier versions, which PyTorch's optimizer wrote, go on with the same bits."""
    nets = [network(), network()]
    updates = [
        Update(net, make(net.parameters(), 0.1, (0.5, 0.9)), World(), clip, fp16)
        for net, make in zip(nets, (Adam, fused_adam), strict=True)
    ]
    for seed in range(6):
        if seed == 3:  # each goes on from the other's state
            states = [copy.deepcopy(update.optimizer.state_dict()["state"]) for update in updates]
            for update, state in zip(updates, reversed(states), strict=True):
                groups = update.optimizer.state_dict()["param_groups"]
                update.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for update, net in zip(updates, nets, strict=True):
            update.add(LOSS, gradients_with(net, math.inf) if seed == 1 else gradients(net, seed))
            update.apply()
        assert_same_bits(weights(nets[0]), weights(nets[1]))
        one, other = (update.optimizer.state_dict()["state"] for update in updates)
        assert one.keys() == other.keys()
        for i in one:
            assert [*one[i]] == [*other[i]] == ["step", "exp_avg", "exp_avg_sq"]
            assert_same_bits(list(one[i].values()), list(other[i].values()))


@pytest.mark.parametrize("weight", [0.25, 0.75, torch.tensor(0.25)])
@pytest.mark.parametrize("value", [1.0, math.nan])
def test_averages_that_the_optimizer_moves_equal_those_of_a_pass_of_their_own(value, weight):
    nets, found = [network(), network()], []
    for net, together in zip(nets, (True, False), strict=True):
        update, ema = updating(net), Ema(network(), half_life=1.0)
        for seed in range(3):
            taken = gradients(net, seed)
            taken[0].mul_(value)
            update.add(LOSS, (*taken[:3], None))  # one weight takes no part, and its average follows all the same
            with torch.no_grad():
                net[2].bias.add_(1.0)
            if together:
                update.apply(averages=ema.averages(net), ema_weight=weight)
                assert update.averaged == {id(w) for w in list(net.parameters())[:3]}
            else:
                update.apply()
                assert update.averaged == frozenset()
            ema.update(net, weight, update.averaged)
        found.append(weights(net) + weights(ema.module))
        assert not same(weights(ema.module), weights(net))
    assert_same_bits(*found)


def test_averages_that_differ_from_their_weights_or_weights_that_change_again_are_left():
    layer = nn.Conv2d(3, 4, 5)
    ema = Ema(layer, half_life=1.0)
    ema.module.to(memory_format=torch.channels_last)
    ema.module.bias.data = ema.module.bias.data.double()
    update = updating(layer)
    update.add(LOSS, gradients(layer))
    before = weights(ema.module)
    update.apply(averages=ema.averages(layer), ema_weight=1.0)
    assert update.averaged == frozenset()
    assert same(weights(ema.module), before)

    net = network()
    update = updating(net, weight_clip=0.01)
    update.add(LOSS, gradients(net))
    update.apply(averages=Ema(net, half_life=1.0).averages(net), ema_weight=1.0)
    assert update.averaged == frozenset()
    assert largest(net) == pytest.approx(0.01)


def test_a_run_equals_one_with_pytorchs_optimizer_and_an_average_of_its_own(monkeypatch):
    found = []
    for make in (optim.optimizer_of, lambda config, w, lr: fused_adam(w, lr, (config.beta1, config.beta2))):
        monkeypatch.setattr(build, "optimizer_of", make)
        t = Trainer(
            *pair(), config=Config.from_flags(steps=5, compile="off", clip=0.5, ema_images=20), latent_shape=(4,)
        )
        t.fit(batches())
        found.append([w for net in t.state.networks.values() for w in weights(net)])
        assert type(t.state.updates["generator"].optimizer) is (Adam if len(found) == 1 else torch.optim.Adam)
    assert_same_bits(*found)


# --- RMSprop and the optimizers of a configuration -----------------------------------------------------------------


def test_rmsprop_equals_pytorchs():
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, plain = (nn.Parameter(start.clone()) for _ in range(2))
    own, reference = RMSprop([ours], 1e-2), torch.optim.RMSprop([plain], 1e-2)
    own.found_inf = torch.tensor(0.0)
    for scale in (1.0, 8.0, 0.5, 1.0):
        gradient = torch.randn(5, 3)
        ours.grad, plain.grad, own.grad_scale = gradient * scale, gradient, torch.tensor(scale)
        own.step()
        reference.step()
        torch.testing.assert_close(ours, plain)
    before, mean = ours.detach().clone(), own.state[ours]["square_avg"].clone()
    ours.grad, own.found_inf = torch.full((5, 3), float("nan")), torch.tensor(1.0)
    own.step()
    assert torch.equal(ours, before)
    assert torch.equal(own.state[ours]["square_avg"], mean)


def pair():
    torch.manual_seed(0)
    return nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def largest(network):
    return max(p.abs().max().item() for p in network.parameters())


def batches():
    source = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(8, 2, generator=source)


def test_optimizers_of_the_loss_by_default():
    t = Trainer(*pair(), "wgan", Config.from_flags(steps=3, log_every=3, compile="off"), latent_shape=(4,))
    assert [type(update.optimizer) for update in t.state.updates.values()] == [RMSprop, RMSprop]
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == 5e-5
    t.fit(batches())
    assert t.state.images == 3 * 5 * 8  # five discriminator steps
    # Arjovsky et al. 2017: the discriminator's weights, and only they, are clipped to 0.01.
    assert largest(t.discriminator) == pytest.approx(0.01)
    assert largest(t.generator) > 0.1

    t = Trainer(*pair(), "wgan-gp", Config.from_flags(lr_g=3e-3), latent_shape=(4,))
    generator, discriminator = (update.optimizer.param_groups[0] for update in t.state.updates.values())
    assert (generator["lr"], discriminator["lr"], discriminator["betas"]) == (3e-3, 1e-4, (0.0, 0.9))
    assert (t.config.optim.d_steps, t.config.optim.weight_clip) == (5, 0.0)
    t = Trainer(*pair(), config=Config(), latent_shape=(4,))
    assert (t.config.optim.lr_d, t.config.optim.beta1, t.config.optim.beta2, t.config.optim.d_steps) == (
        2e-4,
        0.5,
        0.999,
        1,
    )
    # config.json holds the values that were used.
    assert None not in t.config.to_dict()["optim"].values()


def test_a_custom_adversarial_loss():
    loss = AdversarialLoss(
        "least-distance",
        d_loss=lambda real, fake: (fake - real).mean() + 0.1 * (real**2 + fake**2).mean(),
        g_loss=lambda fake: -fake.mean(),
        penalties={"r1": 1.0},
        defaults=Defaults(lr_g=1e-4, lr_d=4e-4),
    )
    t = Trainer(*pair(), loss, Config.from_flags(steps=2, compile="off", penalty_interval=2), latent_shape=(4,))
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == 4e-4
    assert "penalty/r1" in t.fit(batches())  # at every step
    assert t.config.loss.penalties(loss, lazy=False) == {"r1": 1.0}
    networks = pair()[0], nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    with pytest.raises(UsageError, match="d_norm: batch norm couples"):
        Trainer(*networks, loss, Config.from_flags(d_norm="batch"), latent_shape=(4,))


def test_options_override_the_defaults_of_the_loss():
    options = {"optimizer": "adam", "d_steps": 2, "weight_clip": 0.0}
    t = Trainer(*pair(), "wgan", Config.from_flags(steps=2, compile="off", **options), latent_shape=(4,))
    t.fit(batches())
    assert isinstance(t.state.updates["generator"].optimizer, torch.optim.Adam)
    assert t.state.images == 2 * 2 * 8
    assert largest(t.discriminator) > 0.1
