"""w_avg and magnitude_ema move once in an iteration: at the images of the generator's step."""

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.nn.moving_averages import averages_kept, moving_averages


def trained(family, steps, **options):
    torch.manual_seed(0)
    generator, discriminator = models.build(family, resolution=16, channels=3, latent=8, width=8)
    config = Config.from_flags(
        batch=4, steps=steps, compile="off", style_mixing=1.0, path_length=2.0, path_length_interval=1, d_steps=2,
        **options,
    )  # fmt: skip
    trainer, seen = Trainer(generator, discriminator, config=config), []
    generator.mapping.register_forward_hook(
        lambda mapping, given, w: seen.append((mapping.moves_averages, given[0], w[:, 0].detach().mean(0)))
    )
    if family == "stylegan3":
        layer = generator.synthesis.get_submodule(generator.synthesis.layers[2])
        layer.squares = []

        def note(layer, given, y):
            if layer.moves_averages:
                layer.squares.append(given[0].detach().square().mean())

        layer.register_forward_hook(note)
    before = [t.clone() for t in moving_averages(generator)]
    trainer.fit(iter([torch.rand(4, 3, 16, 16) * 2 - 1] * steps * 3))
    return trainer, seen, before


def test_w_avg_moves_once_in_an_iteration_toward_the_mean_of_the_batch():
    steps = 3
    trainer, seen, _ = trained("stylegan2", steps)
    moved = [mean for moves, _, mean in seen if moves][-steps:]  # checks before the first step restore the buffers
    wanted = torch.zeros(8)
    for mean in moved:
        wanted = 0.998 * wanted + 0.002 * mean
    torch.testing.assert_close(trainer.generator.mapping.w_avg, wanted)
    # Of the generator's own latents, not of those that are mixed in or whose path lengths are taken.
    last = [z for moves, z, _ in seen if moves][-1]
    assert torch.equal(last, trainer.state.noise["generator"]["z"])
    # In each step of the discriminator and of the generator two mappings, and one of path lengths.
    assert len(seen) >= steps * (2 * 2 + 2 + 1)


def test_magnitude_ema_moves_once_in_an_iteration():
    steps = 2
    trainer, _, before = trained("stylegan3", steps)
    layers = trainer.generator.synthesis
    layer = layers.get_submodule(layers.layers[2])
    wanted = torch.ones(())
    for square in layer.squares[-steps:]:
        wanted = 0.999 * wanted + 0.001 * square
    torch.testing.assert_close(layer.magnitude_ema, wanted)
    assert len(before) == len(moving_averages(trainer.generator)) == 1 + len(layers.layers)


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_averages_are_kept_in_the_context_and_move_again_after_an_error(family):
    generator, _ = models.build(family, resolution=16, channels=3, latent=8, width=8)
    before = [t.clone() for t in moving_averages(generator.train())]
    with averages_kept(generator):
        generator(torch.randn(2, 8))
    with pytest.raises(UsageError), averages_kept(generator):
        generator(torch.randn(2, 8), noise_mode="unknown")
    assert all(map(torch.equal, moving_averages(generator), before))
    generator(torch.randn(2, 8))
    assert not any(map(torch.equal, moving_averages(generator), before))
