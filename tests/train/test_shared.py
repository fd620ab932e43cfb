"""What the generator makes once for both steps of an iteration: the same training with fewer passes."""

import pytest
import torch
from torch import nn

import fastgan
from fastgan import models
from fastgan.models import translation
from fastgan.tasks import Paired


class Separate(Paired):
    shares = False


def batches():
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1  # noqa: E731
    return [{"source": draw(), "target": draw()} for _ in range(3)]


def trained(share, monkeypatch=None, **flags):
    """(weights of both networks, calls of the generator in training mode, the trainer) after 3 iterations."""
    torch.manual_seed(0)
    generator = translation.UNetGenerator(levels=5, width=4, norm="none", dropout=False)
    discriminator = translation.PatchDiscriminator(3, 3, width=4, norm="none", layers=2)
    config = fastgan.Config.from_flags(
        **{"l1_weight": 10.0, "steps": 3, "batch": 2, "device": "cpu", "compile": "off"} | flags
    )
    trainer = fastgan.Trainer(generator, discriminator, config=config)
    if not share:
        trainer.task.__class__ = Separate
    calls = []
    # Not counted: the runs on fake tensors and those that decide how steps are computed.
    trainer.state.updates["generator"].apply = counted(trainer, calls)
    generator.register_forward_hook(lambda network, *_: calls.append(network.training))
    trainer.fit(batches())
    weights = [w.detach().clone() for n in (generator, discriminator) for w in n.parameters()]
    return weights, trainer


def counted(trainer, calls):
    apply = trainer.state.updates["generator"].apply
    trainer.passes = []

    def run(*args, **kwargs):
        trainer.passes.append(len(calls))
        calls.clear()
        return apply(*args, **kwargs)

    return run


@pytest.mark.parametrize("flags", [{}, {"precision": "bf16"}, {"loss": "hinge", "r1_weight": 1.0}])
def test_sharing_changes_no_bit_of_the_training(flags):
    (separate, one), (shared, other) = trained(False, **flags), trained(True, **flags)
    assert one.passes[1:] == [2, 2]
    assert other.passes[1:] == [1, 1]
    for a, b in zip(separate, shared, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("flags", [{"d_steps": 2}, {"accumulate": 2}])
def test_several_batches_in_an_iteration_are_not_shared(flags):
    _, trainer = trained(True, **flags)
    assert trainer.steps.shared is None
    assert trainer.passes[1:] == [d + 1 if (d := flags.get("d_steps", 0)) else 4] * 2


@pytest.mark.parametrize("family", ["vqgan", "vae"])
def test_an_autoencoder_is_run_once(family):
    weights = []
    for share in (False, True):
        torch.manual_seed(0)
        options = {"latent": 4, "width": 4, "multipliers": "1,2", "blocks": 1, "d_width": 4, "d_layers": 1}
        networks = models.build(family, resolution=16, channels=3, **options)
        config = fastgan.Config.from_flags(
            task="autoencoder", task_options={"perceptual": "none"}, loss="hinge", steps=3, batch=2, device="cpu",
            compile="off", lr_g=1e-3, lr_d=1e-3,
        )  # fmt: skip
        trainer = fastgan.Trainer(*networks, "hinge", config)
        assert trainer.task.shares
        trainer.task.shares = share
        # The one noise of the generator's step is that of the discriminator's where both share the latents.
        draw, kept = trainer.task.draw, {}

        def same(network, batch, random, step, draw=draw, kept=kept):
            noise = draw(network, batch, random, step)
            if network == "generator" and "latent" in noise:
                noise["latent"] = kept["latent"]
            kept |= noise
            return noise

        trainer.task.draw = same
        passes = []
        networks[0].encoder.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        trainer.fit([torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(3)])
        weights.append([w.detach().clone() for n in networks for w in n.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.full
def test_compiled_both_passes_of_what_is_shared_are_graphs():
    eager, _ = trained(True)
    compiled, trainer = trained(True, compile="on")
    assert trainer.steps.mode == "on"
    assert trainer.steps.shared.why_eager == ""
    for a, b in zip(eager, compiled, strict=True):
        # Adam's first steps have the size of the learning rate also where a gradient is within rounding of zero.
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_a_backward_pass_that_the_compiler_fails_at_runs_eagerly():
    forward = fastgan.engine.CompiledForward(lambda x: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        forward(torch.ones(2))
    assert forward.why_eager


class Reconstruction(fastgan.Task):
    """The generator's own weight enters the loss beside what is shared; one entry is never differentiated."""

    shares = True

    def shared(self, batch, noise):
        made = self.generator(batch["real"])
        return {"made": made, "unused": made * 2, "constant": batch["real"] * 3}

    def discriminator_loss(self, batch, noise):
        assert not noise["made"].requires_grad
        return fastgan.tasks.Loss(self.discriminator(noise["made"]).mean())

    def generator_loss(self, batch, noise):
        assert not noise["constant"].requires_grad
        value = (noise["made"] * noise["constant"]).sum() + self.generator.weight.square().sum()
        return fastgan.tasks.Loss(value)


def test_gradients_through_what_is_shared_and_beside_it_add_up():
    from fastgan.train.step import Shared, TaskSteps

    task = Reconstruction(nn.Linear(3, 3), nn.Linear(3, 1))
    steps, batch = TaskSteps(task), {"real": torch.randn(4, 3)}
    shared = Shared(steps.shared(batch, {}))
    _, found = steps.generator(batch, shared.leaves)
    weight, bias = shared.gradients(found, task.generator)
    x = batch["real"]
    torch.testing.assert_close(weight, (3 * x).T @ x + 2 * task.generator.weight.detach())
    torch.testing.assert_close(bias, (3 * x).sum(0))
