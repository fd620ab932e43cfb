"""The step of each network returns its gradients and its log, and changes nothing."""

import pytest
import torch
from task_steps import d_step, draws, trainer

from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.train.step import TaskSteps


def snapshot(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(network, before):
    return [not torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]


@pytest.mark.parametrize("loss", list(ADVERSARIAL))
def test_each_step_moves_its_own_network_only(loss):
    t = trainer(loss)
    g_before, d_before = snapshot(t.generator), snapshot(t.discriminator)
    batch, noise = draws(t)
    result, gradients = d_step(t, batch, noise)
    assert not any(moved(t.discriminator, d_before))  # a step only computes
    t.state.updates["discriminator"].add(result.log["loss/discriminator"], gradients)
    t.state.updates["discriminator"].apply()
    *rest, last_bias = moved(t.discriminator, d_before)
    assert all(rest)
    if "relativistic" not in loss:  # there it cancels but for rounding, which Adam scales up like a gradient
        assert last_bias == ADVERSARIAL[loss].labels  # else it cancels between real and fake
    assert not any(moved(t.generator, g_before))
    assert all(q.grad is None for q in t.generator.parameters())
    assert ("penalty/gradient_penalty" in result.log) == (loss == "wgan-gp")

    d_before = snapshot(t.discriminator)
    result, gradients = TaskSteps(t.task).generator(batch, noise)
    t.state.updates["generator"].add(result.log["loss/generator"], gradients)
    t.state.updates["generator"].apply()
    assert all(moved(t.generator, g_before))
    assert not any(moved(t.discriminator, d_before))
    assert all(q.grad is None for q in t.discriminator.parameters())


def test_a_network_whose_output_depends_on_no_weight_is_named():
    t = trainer()
    batch, noise = draws(t)
    t.generator.forward = lambda z: torch.zeros(len(z), 1, 28, 28)
    with pytest.raises(UsageError, match=r"generator: expected one whose output depends on its weights, got Gen"):
        TaskSteps(t.task).generator(batch, noise)
    t.discriminator.forward = lambda x: x.mean((1, 2, 3))
    with pytest.raises(UsageError, match=r"discriminator: expected one whose output depends on its weights, got Dis"):
        d_step(t, batch, noise)
