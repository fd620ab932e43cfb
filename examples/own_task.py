"""A task of one's own: one generator, two discriminators, and batches that are dictionaries.

    python examples/own_task.py [STEPS]

The generator draws a disc of a given radius. One discriminator sees the image and the radius, the other sees the radius
and the image at half the resolution, as in pix2pixHD (Wang et al. 2018, arXiv:1711.11585, section 3.2). Their hinge
losses are added.
The images are made here: gray discs at random positions, 16×16. discs_by_radius.png shows one row for each radius.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

import fastgan
from fastgan.report.images import save_grid
from fastgan.tasks import Loss


def batches(size=64):
    """Endless batches: "image", float [size, 1, 16, 16] in [-1, 1], and "radius", float [size, 1] in [2, 5]."""
    axis = torch.arange(16.0)
    while True:
        center, radius = torch.rand(size, 2, 1, 1) * 6 + 5, torch.rand(size, 1, 1) * 3 + 2
        distance = ((axis[:, None] - center[:, 0]) ** 2 + (axis[None, :] - center[:, 1]) ** 2).sqrt()
        yield {"image": torch.tanh(radius - distance)[:, None], "radius": radius[:, 0]}


class Generator(nn.Module):
    """z [N, 16] and radius [N, 1] → images [N, 1, 16, 16]."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(17, 64 * 16), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z, radius):
        return self.net(torch.cat([z, radius], 1))


class Discriminator(nn.Module):
    """Images [N, 1, side, side] and radius [N, 1], which enters as a second channel → logits [N, 1]."""

    def __init__(self, side):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 32, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 1),
        )  # fmt: skip

    def forward(self, image, radius):
        plane = (radius / 5)[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return self.net(torch.cat([image, plane], 1))


class DiscsByRadius(fastgan.Task):
    """Hinge losses (Lim and Ye 2017, arXiv:1705.02894), summed over two discriminators."""

    real = "image"  # the entry of a batch with the real images

    def draw(self, network, batch, random, step):
        return {"z": random.normal(len(batch["radius"]), 16)}

    def discriminator_loss(self, batch, noise):
        with torch.no_grad():
            fake = self.generator(noise["z"], batch["radius"])
        on_real, on_fake = self.logits(batch["image"], batch["radius"]), self.logits(fake, batch["radius"])
        losses = {
            f"loss/discriminator_{name}": relu(1 - on_real[name]).mean() + relu(1 + on_fake[name]).mean()
            for name in on_real
        }
        return Loss(sum(losses.values()), losses)

    def generator_loss(self, batch, noise):
        fake = self.generator(noise["z"], batch["radius"])
        return Loss(sum(-logits.mean() for logits in self.logits(fake, batch["radius"]).values()))

    def logits(self, image: Tensor, radius: Tensor) -> dict[str, Tensor]:
        """What each of the two discriminators returns for the images."""
        return {
            "fine": self.discriminator["fine"](image, radius),
            "coarse": self.discriminator["coarse"](avg_pool2d(image, 2), radius),
        }

    def samples(self, batch, held_out, step):
        z = torch.randn(len(batch["radius"]), 16, generator=torch.Generator().manual_seed(0))
        return {"fresh": self.generator(z.to(batch["radius"].device), batch["radius"])}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    discriminators = nn.ModuleDict({"fine": Discriminator(16), "coarse": Discriminator(8)})
    config = fastgan.Config.from_flags(steps=steps, lr_g=2e-4, lr_d=4e-4, beta1=0.0, beta2=0.9)
    trainer = fastgan.Trainer(Generator(), discriminators, config=config, task=DiscsByRadius)
    trainer.fit(batches())

    generator = trainer.ema.module.cpu().eval()
    radii = torch.tensor([2.0, 3.0, 4.0, 5.0]).repeat_interleave(8)[:, None]
    with torch.no_grad():
        images = generator(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), radii)
    print(save_grid(images.numpy(), "discs_by_radius.png", columns=8, scale=4))


if __name__ == "__main__":
    main()
