"""The losses of generation against the same losses written out in plain PyTorch."""

import pytest
import torch
from task_steps import d_step, draws, trainer

from fastgan.errors import UsageError
from fastgan.losses import r1
from fastgan.train.step import TaskSteps


@pytest.mark.parametrize("joint", [False, True])
def test_the_discriminators_gradient_is_that_of_the_loss_written_out(joint):
    t = trainer(r1_weight=2.0)
    t.task.joint = joint
    batch, noise = draws(t)
    real, z = batch["real"], noise["z"]
    _, gradients = d_step(t, batch, noise, lazy=True)

    discriminator = t.discriminator
    fake = t.generator(z).detach()
    loss = -torch.sigmoid(discriminator(real)).log().mean() - (1 - torch.sigmoid(discriminator(fake))).log().mean()
    (loss + r1(discriminator, real, weight=2.0)).backward()
    for ours, plain in zip(gradients, discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours, plain.grad, rtol=1e-4, atol=1e-6)


def test_lazy_r1_is_heavier():
    t = trainer(r1_weight=1.0, penalty_interval=4)
    every = trainer(r1_weight=1.0)
    batch, noise = draws(t)
    lazy, plain = (d_step(each, batch, noise, lazy=True)[0].log for each in (t, every))
    torch.testing.assert_close(lazy["penalty/r1"], 4 * plain["penalty/r1"])
    assert "penalty/r1" not in d_step(t, batch, noise)[0].log


def test_added_penalties_are_lazy_and_the_losss_own_is_not():
    t = trainer("wgan-gp", r2_weight=1.0, dragan_weight=1.0, penalty_interval=2, steps=2)
    batch, noise = draws(t)
    always, sometimes = (d_step(t, batch, noise, lazy)[0].log.keys() for lazy in (False, True))
    assert sometimes - always == {"penalty/r2", "penalty/dragan"}
    assert "penalty/gradient_penalty" in always
    t.fit(iter([batch["real"]] * 10))  # d_steps 5, of steps 0 and 1


def test_a_paired_loss_compares_real_images_with_fakes():
    t = trainer("relativistic")
    batch, noise = draws(t)
    real, z = batch["real"], noise["z"]
    result, gradients = TaskSteps(t.task).generator(batch, noise)
    pairs = t.discriminator(t.generator(z)) - t.discriminator(real)
    loss = -torch.sigmoid(pairs).log().mean()
    torch.testing.assert_close(result.log["loss/generator"], loss.detach())
    for ours, plain in zip(gradients, torch.autograd.grad(loss, t.generator.parameters()), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-7)
    with pytest.raises(UsageError, match=r"batches: expected float tensors \[N, .* name its entries 'real'"):
        t.fit(iter([{"images": real}]))


def test_images_of_another_shape_are_refused():
    t = trainer()
    with pytest.raises(UsageError, match=r"generator: expected images like the real ones \[2, 1, 32, 32\]"):
        d_step(t, {"real": torch.rand(2, 1, 32, 32)}, {"z": torch.randn(2, 8)})
