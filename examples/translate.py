"""Train on pairs of images, from an outline to the picture, as pix2pix does, then export the generator to ONNX.

    python examples/translate.py [STEPS]

The pictures are the embedded images, 28×28. outlines.png shows outlines, generated images and target images.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d

import fastgan
from fastgan.data import open_source
from fastgan.export import export
from fastgan.report.images import save_grid
from fastgan.runtime import Session


def outlines(images):
    """White where an image is much brighter than the darkest adjacent pixel, else black."""
    darkest = -max_pool2d(-images, 3, 1, 1)
    return torch.where(images - darkest > 0.5, 1.0, -1.0)


def pairs(images, batch=16):
    """Endless batches of (source, target), both [batch, 1, 28, 28] in [-1, 1]."""
    while True:
        target = images[torch.randint(len(images), (batch,))]
        yield outlines(target), target


class Generator(nn.Module):
    """A small U-Net. source_channels declares that batches are pairs; the other attributes are for export."""

    source_channels = channels = scale = 1
    multiple, range = 4, (-1, 1)

    def __init__(self, width=16):
        super().__init__()
        self.outer = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.LeakyReLU(0.2))
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2))
        self.inner = nn.Sequential(
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 4 * width, 3, 1, 1), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.up = nn.Sequential(nn.ConvTranspose2d(4 * width, width, 4, 2, 1), nn.LeakyReLU(0.2))
        self.last = nn.Sequential(nn.Conv2d(2 * width, 1, 3, 1, 1), nn.Tanh())

    def forward(self, source):
        outer = self.outer(source)
        middle = self.middle(outer)
        up = self.up(torch.cat([middle, self.inner(middle)], 1))
        return self.last(torch.cat([outer, up], 1))


class Discriminator(nn.Module):
    """Returns a logit for each patch of an image beside its source.

    Without source_channels it would be called as discriminator(image).
    """

    source_channels = 1

    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, image, source):
        return self.net(torch.cat([image, source], 1))


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
images = torch.from_numpy(open_source("embedded").images).float() / 127.5 - 1
images, target = images[:-12], images[-12:]
source = outlines(target)
config = fastgan.Config.from_flags(steps=steps, l1_weight=100.0, ema_images=2000)
trainer = fastgan.Trainer(Generator(), Discriminator(), config=config)
trainer.fit(pairs(images), held_out=(source, target))

export(trainer.ema.module, "outlines.onnx")
generated = Session("outlines.onnx")(source.numpy())
print(save_grid(np.concatenate([source, generated, target]), "outlines.png", columns=12, scale=2))
