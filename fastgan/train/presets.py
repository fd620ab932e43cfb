"""Configurations by name. Each says in its line whether it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from fastgan.errors import UsageError
from fastgan.train.config import Config, unknown


@dataclass(frozen=True)
class Preset:
    """A configuration and what to expect of it, in a line."""

    config: Config
    about: str


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        Config(width=48, d_norm="batch", lr_g=4e-4, lr_d=4e-4, steps=5000, sample_every=500, checkpoint_every=1000),
        "the first light: DCGAN on the 10,000 embedded 28×28 images; four minutes on two cores, judged in benchmarks/",
    ),
    "mlp": Preset(
        Config(model="mlp", width=128, d_norm="none", r1_weight=1.0, steps=10_000),
        "fully connected pair on 28×28 images, the smallest network here (not measured yet)",
    ),
    "dcgan-64": Preset(
        Config(resolution=64, latent=100, steps=50_000, d_norm="spectral"),
        "DCGAN at 64×64 with a spectrally normalised critic; bring --data (a starting point, not measured yet)",
    ),
    "wgan-gp-64": Preset(
        Config(
            resolution=64,
            latent=128,
            game="wgan-gp",
            d_steps=5,
            lr_g=1e-4,
            lr_d=1e-4,
            beta1=0.0,
            beta2=0.9,
            steps=50_000,
        ),
        "the same as a Wasserstein game with gradient penalty, 5 critic steps; bring --data (not measured yet)",
    ),
}


def preset(name: str) -> Config:
    """The configuration of that name. Raises UsageError with the nearest name."""
    if name not in PRESETS:
        raise UsageError(unknown("preset", name, list(PRESETS)))
    return PRESETS[name].config
