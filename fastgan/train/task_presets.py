"""Presets of tasks whose generators make images of images; all are for GPUs. docs/tasks.md lists their pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgan.train.config import Config


def pix2pix() -> Config:
    """pix2pix at 256×256 as its paper trains it, with instance norm; bring --data with pairs (docs/tasks/paired.md)"""
    return Config.from_flags(
        model="pix2pix", norm="instance", resolution=286, batch=1, task="paired",
        task_options={"crop": 256, "flip": True}, l1_weight=100.0, lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999,
        lr_schedule="linear", lr_decay_from=0.5, steps=80_000, ema_images=0,
    )  # fmt: skip


def cyclegan() -> Config:
    """CycleGAN at 256×256 as its paper trains it; bring --data with two sets of images (docs/tasks/unpaired.md)"""
    return Config.from_flags(
        model="cyclegan", resolution=286, task="unpaired", task_options={"crop": 256}, steps=240_000, **_UNPAIRED
    )


def cut() -> Config:
    """CUT at 256×256 as its paper trains it, from the first set of images to the second alone; bring --data"""
    return Config.from_flags(
        model="cut", resolution=286, task="contrastive", task_options={"crop": 256}, steps=400_000, **_UNPAIRED
    )


def fastcut() -> Config:
    """FastCUT: CUT without its identity loss, for half as many steps, at 256×256; bring --data"""
    options = {"crop": 256, "nce_weight": 10.0, "identity": False, "equivariance": True}
    return Config.from_flags(
        model="cut", resolution=286, task="contrastive", task_options=options, steps=200_000,
        **_UNPAIRED | {"lr_decay_from": 0.75},
    )  # fmt: skip


def pix2pixhd() -> Config:
    """pix2pixHD's global generator, discriminators at three scales, feature matching; bring --data with pairs"""
    # Least squares here have the factor ½, and the paper's weight of 10 is of those without.
    return Config.from_flags(
        model="pix2pixhd", resolution=512, batch=1, task="paired", task_options={"flip": True, "layer_matching": 5.0},
        loss="least-squares",
        lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999, lr_schedule="linear", lr_decay_from=0.5, steps=600_000,
        ema_images=0,
    )  # fmt: skip


#: Of arXiv:1703.10593 and arXiv:2007.15651: batches of one image, the rate lowered to zero in the second half.
_UNPAIRED: dict[str, Any] = {
    "batch": 1, "loss": "least-squares", "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999,
    "lr_schedule": "linear", "lr_decay_from": 0.5, "ema_images": 0,
}  # fmt: skip


def variation() -> Config:
    """varies images within their class, for fastgan augment; bring labeled --data (docs/tasks/augmentation.md)"""
    return Config.from_flags(
        task="variation", task_options={"shift": 2, "diversity": 0.2}, model="variation", condition="projection",
        width=16, latent=32, batch=32, d_norm="spectral", r1_weight=0.1, penalty_interval=4, lr_g=8e-4, lr_d=8e-4,
        steps=10_000,
    )  # fmt: skip


def vqgan() -> Config:
    """VQGAN at 256×256 with 16×16 codes, as in its paper; bring --data and a GPU"""
    return Config.from_flags(
        model="vqgan", resolution=256, width=128, latent=256, multipliers="1,1,2,2,4", attention="4", codes=1024,
        codebook="gradient", d_norm="batch", d_layers=3, batch=8, loss="hinge", lr_g=3.6e-5, lr_d=3.6e-5, beta1=0.5,
        beta2=0.9, task="autoencoder", task_options={"start": 30_000}, steps=300_000, **_AUTOENCODER,
    )  # fmt: skip


def vae() -> Config:
    """the autoencoder of latent diffusion at 256×256 with latents of 32×32×4; bring --data and a GPU"""
    return Config.from_flags(
        model="vae", resolution=256, width=128, latent=4, multipliers="1,2,4,4", d_norm="batch", d_layers=3, batch=12,
        loss="hinge", lr_g=5.4e-5, lr_d=5.4e-5, beta1=0.5, beta2=0.9, task="autoencoder",
        task_options={"start": 50_000, "latent_weight": 1e-6, "adversarial_weight": 0.5}, steps=300_000,
        **_AUTOENCODER,
    )  # fmt: skip


def tiny_decoder() -> Config:
    """a tiny decoder for latents of the preset vae; bring --data and --init-from RUN"""
    return Config.from_flags(
        model="vae", resolution=256, width=128, latent=4, multipliers="1,2,4,4", decoder="tiny", freeze="encoder",
        d_layers=3, batch=16, loss="hinge", lr_g=3e-4, lr_d=3e-4, beta1=0.5, beta2=0.9, task="autoencoder",
        task_options={"start": 5_000, "adversarial_weight": 0.1, "latent_weight": 0.0}, steps=50_000, **_AUTOENCODER,
    )  # fmt: skip


def hific() -> Config:
    """HiFiC at 256×256 with 0.3 bits a pixel, narrower than its paper's; bring --data and a GPU"""
    options = {"l1": 0.0, "l2": 38.0, "adversarial_weight": 0.15, "adaptive": False, "start": 50_000}
    return Config.from_flags(
        model="hific", resolution=256, width=32, latent=128, halvings=4, blocks=9, hyper=128, d_layers=4, batch=8,
        lr_g=1e-4, lr_d=1e-4, beta1=0.9, beta2=0.999, task="compression", task_options=options, steps=300_000,
        **_AUTOENCODER,
    )  # fmt: skip


def esrgan() -> Config:
    """ESRGAN ×4 of bicubically reduced pictures: VGG discriminator, relativistic average; bring --data and a GPU"""
    options = {"crop": 128, "degradation": "bicubic", "adversarial_weight": 0.005, "warm_up": 100_000}
    return Config.from_flags(
        model="esrgan", discriminator="vgg", batch=16, loss="relativistic-average", l1_weight=0.01, steps=500_000,
        task_options=options, ema_images=11_000, **_SUPER_RESOLUTION,
    )  # fmt: skip


def real_esrgan() -> Config:
    """Real-ESRGAN ×4: second-order degradation, U-Net with spectral norms; bring --data and a GPU"""
    return Config.from_flags(
        model="esrgan", resolution=400, batch=12, steps=500_000, task_options=_REAL | {"warm_up": 100_000},
        ema_images=8_000, l1_weight=1.0, **_SUPER_RESOLUTION,
    )  # fmt: skip


def compact() -> Config:
    """Real-ESRGAN's small network for video and quick upscaling, ×4, trained like it; bring --data and a GPU"""
    return Config.from_flags(
        model="compact", resolution=400, batch=12, steps=500_000, task_options=_REAL | {"warm_up": 100_000},
        ema_images=8_000, l1_weight=1.0, **_SUPER_RESOLUTION,
    )  # fmt: skip


#: Of arXiv:2107.10833, section 4.1.
_REAL: dict[str, Any] = {
    "crop": 256, "degradation": "second-order", "pool": 180, "sharpen": True, "adversarial_weight": 0.1,
}  # fmt: skip
#: An average with a decay of 0.999 at each step has a half-life of 693 batches: `ema_images`.
_SUPER_RESOLUTION: dict[str, Any] = {
    "task": "super-resolution", "lr_g": 1e-4, "lr_d": 1e-4, "beta1": 0.9, "beta2": 0.99, "precision": "auto",
}  # fmt: skip

_AUTOENCODER: dict[str, Any] = {"held_out": 64, "precision": "auto"}

#: In the order of `fastgan presets`.
TASK_PRESETS: tuple[Callable[[], Config], ...] = (
    pix2pix, pix2pixhd, cyclegan, cut, fastcut, esrgan, real_esrgan, compact, vqgan, vae, tiny_decoder, hific,
    variation,
)  # fmt: skip
