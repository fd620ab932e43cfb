"""Compiled training of StyleGAN equals eager: lazy R1 and path length, style mixing, moving averages, noise."""

import pytest
import torch

from fastgan import Config, Trainer, models


def trained(family, compile, **options):
    torch.manual_seed(0)
    sizes = {"resolution": 16, "channels": 3, "latent": 8, "width": 8}
    config = Config.from_flags(
        batch=4, steps=6, log_every=6, compile=compile, r1_weight=1.0, penalty_interval=2, path_length=2.0,
        path_length_interval=2, style_mixing=0.9, ema_rampup=0.05, lr_g=1e-4, lr_d=1e-4, **options,
    )  # fmt: skip
    trainer = Trainer(*models.build(family, **sizes, **({"mapping_layers": 2} if family == "stylegan2" else {})),
                      config=config)  # fmt: skip
    images = torch.Generator().manual_seed(0)
    last = trainer.fit(torch.rand(4, 3, 16, 16, generator=images) * 2 - 1 for _ in range(6))
    return trainer, last


@pytest.mark.parametrize(
    "family", [pytest.param("stylegan2", marks=pytest.mark.slow), pytest.param("stylegan3", marks=pytest.mark.slow)]
)
def test_compiled_training_equals_eager_training(family):
    (compiled, last), (eager, wanted) = (trained(family, compile) for compile in ("on", "off"))
    for step in (compiled.steps.discriminator, compiled.steps.generator):
        assert step.how == ["Dynamo", "Dynamo"]  # with and without the lazy term, whole
        assert step.why_eager == ""
    names = "loss/generator", "loss/discriminator", "penalty/r1", "penalty/path_length", "path_length/mean"
    assert {n: last[n] for n in names} == pytest.approx({n: wanted[n] for n in names}, rel=1e-4)
    for part, network in compiled.state.networks.items():
        other = eager.state.networks[part].state_dict()
        for name, tensor in network.state_dict().items():
            # Adam divides by the gradient's size: where that is rounding, weights move by the whole rate.
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=2e-4, msg=lambda t, n=name: f"{n}: {t}")
    moved = compiled.generator.mapping.w_avg
    torch.testing.assert_close(moved, eager.generator.mapping.w_avg, rtol=1e-4, atol=1e-7)
    assert moved.abs().max() > 0
