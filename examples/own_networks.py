"""Train two modules of your own on an iterator of your own, then export the generator to ONNX.

    python examples/own_networks.py [STEPS]

The images are made here: gray discs at random positions, of random size, 16×16.
"""

import sys

import torch
from torch import nn

import fastgan
from fastgan.export import export
from fastgan.report.images import save_grid
from fastgan.runtime import Session
from fastgan.runtime.session import latents


def discs(batch=64):
    """Endless batches [batch, 1, 16, 16] in [-1, 1]."""
    axis = torch.arange(16.0)
    while True:
        center, radius = torch.rand(batch, 2, 1, 1) * 8 + 4, torch.rand(batch, 1, 1) * 3 + 2
        distance = ((axis[:, None] - center[:, 0]) ** 2 + (axis[None, :] - center[:, 1]) ** 2).sqrt()
        yield torch.tanh(radius - distance)[:, None]


generator = nn.Sequential(
    nn.Linear(16, 64 * 16), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
    nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
    nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
)  # fmt: skip
discriminator = nn.Sequential(
    nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Flatten(), nn.Linear(64 * 16, 1),
)  # fmt: skip

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
config = fastgan.Config.from_flags(steps=steps, latent=16, d_steps=2, beta1=0.0, beta2=0.9, lr_g=5e-4, lr_d=5e-4)
trainer = fastgan.Trainer(generator, discriminator, "wgan-gp", config)
trainer.fit(discs())

export(trainer.ema.module, "discs.onnx", latent_shape=(16,))
print(save_grid(Session("discs.onnx")(latents(64, (16,), seed=0)), "discs.png", scale=4))
