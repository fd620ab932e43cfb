"""The memory of a step is known before it is taken, and a run that may lack it says so."""

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.train import step_memory
from fastgan.train.step import TaskSteps

N, SIDE = 8, 64


class Branching(nn.Module):
    """Looks at a value, which fake tensors do not have."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 1))

    def forward(self, x):
        y = self.net(x)
        return y if y.mean().item() > -1e9 else -y


def trainer(discriminator=None, **options):
    torch.manual_seed(0)
    networks = models.build("dcgan", resolution=SIDE, channels=3, latent=8, width=8, d_norm="spectral")
    config = Config.from_flags(batch=N, steps=2, compile="off", loss="hinge", **options)
    return Trainer(networks[0], discriminator or networks[1], "hinge", config)


def given(t):
    batch = {"real": torch.rand(N, 3, SIDE, SIDE) * 2 - 1}
    return batch, {name: t.state.draw(name, batch) for name in ("discriminator", "generator")}


def needed(t):
    return step_memory.of_steps(TaskSteps(t.task), *given(t))


def test_the_peak_of_known_layers():
    """The discriminator's step on real and fake images as one batch: the batch, and the product like it."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, SIDE, SIDE))

        def forward(self, x):
            return (x * self.scale).flatten(1).sum(1)

    t = trainer(Scaled())
    batch, noise = given(t)
    found = step_memory.of_steps(TaskSteps(t.task), batch, {"discriminator": noise["discriminator"]})
    assert found == pytest.approx(4 * N * 3 * SIDE**2 * 4, rel=0.01)


def test_twice_the_batch_and_a_penalty_take_more():
    plain, penalized = needed(trainer()), needed(trainer(r1_weight=1.0))
    assert 1.2 * plain < penalized < 4 * plain
    t = trainer()
    batch = {"real": torch.rand(2 * N, 3, SIDE, SIDE)}
    noise = {name: t.state.draw(name, batch) for name in ("discriminator", "generator")}
    assert 1.7 * plain < step_memory.of_steps(TaskSteps(t.task), batch, noise) < 2.1 * plain


def test_measuring_changes_nothing_and_computes_nothing():
    t = trainer(r1_weight=1.0)
    batch, noise = given(t)
    tensors = [v for n in (t.generator, t.discriminator) for v in n.state_dict().values()]
    before, random = [v.clone() for v in tensors], torch.get_rng_state()
    assert step_memory.of_steps(TaskSteps(t.task), batch, noise) > 0
    assert all(map(torch.equal, tensors, before))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in t.discriminator.parameters())


@pytest.mark.parametrize("free", [10**6, 10**12])
def test_a_run_with_too_little_memory_says_so_before_its_first_step(free, monkeypatch, caplog):
    monkeypatch.setattr(step_memory, "free_memory", lambda device: free)
    t = trainer()
    t.fit(iter([torch.rand(N, 3, SIDE, SIDE) * 2 - 1] * 2))
    said = [line for line in caplog.messages if "of memory" in line]
    if free > 10**9:
        assert said == []
        return
    amount = (needed(t) + 0) / 1e6
    (line,) = said
    assert line.startswith("a step with 8 images of 3 × 64 × 64 takes at least ")
    assert float(line.split("at least ")[1].split(" MB")[0]) > amount  # and Adam's moments
    assert "of memory, and 1.0 MB are free on cpu; give batch=4 with accumulate=2, or a smaller" in line
    assert caplog.messages.index(line) == 0


def test_networks_that_look_at_their_values_are_not_measured(monkeypatch, caplog):
    monkeypatch.setattr(step_memory, "free_memory", lambda device: 10**6)
    t = trainer(Branching())
    assert needed(t) is None
    t.fit(iter([torch.rand(N, 3, SIDE, SIDE) * 2 - 1] * 2))
    assert "of memory" not in caplog.text
