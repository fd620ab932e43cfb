"""Configurations by name, a small function each. The first line of its docstring is what `fastgan presets` shows, and
beside it what all its steps took on two cores (COSTS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgan._util.checks import unknown
from fastgan.errors import UsageError
from fastgan.train.config import Config
from fastgan.train.task_presets import TASK_PRESETS


def demo() -> Config:
    """DCGAN on the 10,000 embedded 28×28 images; benchmarks/demo_seeds.py measures its samples"""
    return Config.from_flags(
        width=48, d_norm="batch", batch=32, lr_g=8e-4, lr_d=8e-4, lr_schedule="linear", lr_decay_from=0.6, steps=6000,
        sample_every=600, checkpoint_every=1200,
    )  # fmt: skip


def mlp() -> Config:
    """fully connected networks on 28×28 images with R1, the smallest network here"""
    return Config.from_flags(model="mlp", width=128, r1_weight=1.0, steps=10_000)


def minimax() -> Config:
    """the original minimax loss on fully connected networks, whose generator's gradient vanishes"""
    return Config.from_flags(model="mlp", width=128, loss="minimax", steps=5_000)


def least_squares() -> Config:
    """least squares on 28×28 images, DCGAN with a batch-normalized discriminator"""
    return Config.from_flags(loss="least-squares", width=48, d_norm="batch", steps=10_000)


def wgan() -> Config:
    """Wasserstein with weight clipping on 28×28 images: RMSprop, 5 discriminator steps"""
    return Config.from_flags(loss="wgan", width=48, steps=20_000)


def relativistic() -> Config:
    """relativistic loss with R1 and R2 on 28×28 images, the loss of R3GAN on DCGAN"""
    return Config.from_flags(loss="relativistic", width=48, r1_weight=0.5, r2_weight=0.5, steps=10_000)


def few_images() -> Config:
    """for sets of some hundred to some thousand images: adaptive augmentation, R1; bring --data"""
    return Config.from_flags(
        augment="color+translation+cutout", ada_target=0.6, ada_images=200_000, r1_weight=1.0, penalty_interval=4,
        steps=20_000,
    )  # fmt: skip


def sngan_32() -> Config:
    """residual networks of SNGAN at 32×32 as its paper trains them on CIFAR-10; bring --data cifar10"""
    return Config.from_flags(
        model="resnet", resolution=32, width=128, latent=128, loss="hinge", d_norm="spectral", d_steps=5, lr_g=2e-4,
        lr_d=2e-4, beta1=0.0, beta2=0.9, steps=50_000,
    )  # fmt: skip


def r3gan_32() -> Config:
    """R3GAN's networks and loss at 32×32, narrower than its paper's; bring --data cifar10; a starting point"""
    return Config.from_flags(
        model="r3gan", resolution=32, width=96, latent=64, loss="relativistic", r1_weight=0.5, r2_weight=0.5,
        steps=50_000,
    )  # fmt: skip


def dcgan_64() -> Config:
    """DCGAN at 64×64 with a spectrally normalized discriminator; bring --data; a starting point"""
    return Config.from_flags(resolution=64, latent=100, steps=50_000, d_norm="spectral")


def hinge_64() -> Config:
    """the same with the hinge loss and two time scales, 1e-4 and 4e-4; bring --data"""
    return Config.from_flags(
        resolution=64, latent=128, loss="hinge", d_norm="spectral", lr_g=1e-4, lr_d=4e-4, beta1=0.0, beta2=0.9,
        steps=50_000,
    )  # fmt: skip


def wgan_gp_64() -> Config:
    """the same with the Wasserstein loss and gradient penalty, 5 discriminator steps; bring --data"""
    return Config.from_flags(resolution=64, latent=128, loss="wgan-gp", steps=50_000)


def progan_64() -> Config:
    """progressive growing from 4×4 to 64×64, as in its paper with wgan-gp; bring --data"""
    return Config.from_flags(
        model="progan", resolution=64, latent=128, width=128, loss="wgan-gp", d_steps=1, lr_g=1e-3, lr_d=1e-3,
        beta1=0.0, beta2=0.99, grow_images=200_000, steps=50_000,
    )  # fmt: skip


def stylegan2() -> Config:
    """StyleGAN2 at 256×256: lazy R1, path length, style mixing; bring --data and a GPU"""
    return Config.from_flags(
        model="stylegan2", resolution=256, width=512, latent=512, channel_base=16_384, batch=16, r1_weight=0.8,
        steps=500_000, **_STYLEGAN2,
    )  # fmt: skip


def stylegan2_32() -> Config:
    """StyleGAN2 at 32×32 with 128 channels, trained as the larger ones; bring --data cifar10; a starting point"""
    return Config.from_flags(
        model="stylegan2", resolution=32, width=128, latent=128, mapping_layers=2, batch=32, r1_weight=0.01,
        steps=50_000, **_STYLEGAN2,
    )  # fmt: skip


def stylegan_xl_16() -> Config:
    """StyleGAN-XL's first stage at 16×16, narrower than its paper's, with labels; bring --data; a starting point"""
    return Config.from_flags(resolution=16, steps=20_000, **_STYLEGAN_XL)


def stylegan_xl_32() -> Config:
    """its second stage at 32×32; bring --data, and --init-from a run of stylegan-xl-16"""
    return Config.from_flags(resolution=32, stages=2, steps=20_000, **_STYLEGAN_XL)


#: Of arXiv:2202.00273, with images of 64×64 before the backbones in place of 224×224.
_STYLEGAN_XL: dict[str, Any] = {
    "model": "stylegan-xl", "latent": 64, "width": 64, "side": 64, "d_width": 32, "condition": "projection",
    "batch": 16, "loss": "hinge", "augment": "color+translation+cutout", "lr_g": 0.0025, "lr_d": 0.002, "beta1": 0.0,
    "beta2": 0.99, "ema_images": 10_000, "ema_rampup": 0.05,
}  # fmt: skip

#: As in the papers (arXiv:1912.04958, arXiv:2006.06676). Their correction of Adam for lazy terms is not needed: those
#: are updates of their own there, and here part of the same step's gradient.
_STYLEGAN2: dict[str, Any] = {
    "loss": "non-saturating", "penalty_interval": 16, "path_length": 2.0, "path_length_interval": 4,
    "style_mixing": 0.9, "lr_g": 0.0025, "lr_d": 0.0025, "beta1": 0.0, "beta2": 0.99, "ema_images": 10_000,
    "ema_rampup": 0.05, "precision": "auto",
}  # fmt: skip


#: name → function; the name is the function's with dashes.
PRESETS: dict[str, Callable[[], Config]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        demo, mlp, minimax, least_squares, wgan, relativistic, few_images, sngan_32, r3gan_32, dcgan_64, hinge_64,
        wgan_gp_64, progan_64, stylegan2, stylegan2_32, stylegan_xl_16, stylegan_xl_32, *TASK_PRESETS,
    )
}  # fmt: skip


#: Hours for all steps, and megabytes of a process, on two cores with AVX2 (benchmarks/presets.py; results/presets.csv).
COSTS: dict[str, tuple[float, int]] = {
    "demo": (0.14, 472),
    "mlp": (0.11, 437),
    "minimax": (0.04, 434),
    "least-squares": (0.33, 456),
    "wgan": (1.94, 463),
    "relativistic": (0.52, 475),
    "few-images": (1.03, 483),
    "sngan-32": (351.27, 1220),
    "r3gan-32": (128.97, 3226),
    "dcgan-64": (23.49, 781),
    "hinge-64": (22.91, 766),
    "wgan-gp-64": (122.72, 792),
    "progan-64": (332.88, 2438),
    "stylegan2-32": (9.00, 964),
}
#: Presets for GPUs, whose cost on two cores is not measured.
FOR_GPUS = (
    "stylegan2", "stylegan-xl-16", "stylegan-xl-32",
    *(function.__name__.replace("_", "-") for function in TASK_PRESETS),
)  # fmt: skip


def preset(name: str) -> Config:
    """The configuration of that name. Raises UsageError with the nearest name."""
    if name not in PRESETS:
        raise UsageError(unknown("preset", name, list(PRESETS)))
    return PRESETS[name]()


def about(name: str) -> str:
    """A preset in a line."""
    return (PRESETS[name].__doc__ or "").splitlines()[0]


def costs(name: str) -> str:
    """What a preset takes on two cores: "12 min, 0.9 GB"."""
    if name in FOR_GPUS:
        return "for GPUs"
    hours, megabytes = COSTS[name]
    time = f"{hours:.0f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    return f"{time}, {megabytes / 1000:.1f} GB"
