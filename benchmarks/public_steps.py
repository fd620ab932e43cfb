"""Training iterations of image tasks in plain PyTorch, in the style of the public code of their papers.

Each is one class: what is computed, in the order of the public trainer, with Adam of torch.optim. The networks are the
ones that fastgan trains, built from PyTorch's own layers (plain.py).
"""

from __future__ import annotations

import copy
import random
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


class PublicStep:
    """One iteration on a batch: `forward`, then the backward pass and the update of each network.

    options: of the losses. layout: memory format of weights and images. compiled: whether the generators run through
    torch.compile. bf16: whether forward passes run under autocast.
    """

    #: In which order the networks are updated.
    order: tuple[str, ...] = ("discriminator", "generator")
    lr, betas = 2e-4, (0.5, 0.999)
    noise: dict[str, Any] | None = None

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, options: dict[str, Any],
        layout: torch.memory_format = torch.contiguous_format, compiled: bool = False, bf16: bool = False,
    ):  # fmt: skip
        self.generator, self.discriminator = (n.to(memory_format=layout) for n in (generator, discriminator))  # type: ignore[call-overload]
        self.options, self.layout, self.bf16 = options, layout, bf16
        self.device = next(generator.parameters()).device.type
        self.run: Any = generator
        if compiled:
            children = {name: torch.compile(child) for name, child in generator.named_children()}
            self.run = children if isinstance(generator, nn.ModuleDict) else torch.compile(generator)
        self.optimizers = {
            name: torch.optim.Adam((w for w in network.parameters() if w.requires_grad), self.lr, self.betas)
            for name, network in (("generator", self.generator), ("discriminator", self.discriminator))
        }

    def iterate(self, batch: Batch) -> None:
        """One iteration."""
        self.forward(self.prepared(batch))
        for name in self.order:
            self.backward(name)
            self.optimizers[name].step()
        self.after()

    def prepared(self, batch: Batch) -> Batch:
        return {name: images.contiguous(memory_format=self.layout) for name, images in batch.items()}

    def forward(self, batch: Batch) -> None:
        """What the generator makes, for both losses."""
        self.batch = batch
        with self.autocast():
            self.made = self.run(batch["source"])

    def backward(self, name: str) -> None:
        """Fill the gradients of one network."""
        self.discriminator.requires_grad_(name == "discriminator")
        self.optimizers[name].zero_grad()
        with self.autocast():
            loss = self.discriminator_loss() if name == "discriminator" else self.generator_loss()
        loss.backward()

    def discriminator_loss(self) -> Tensor:
        raise NotImplementedError

    def generator_loss(self) -> Tensor:
        raise NotImplementedError

    def after(self) -> None:
        """What follows the updates."""

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def gradients(self, batch: Batch, noise: dict[str, Any]) -> dict[str, Tensor]:
        """The gradient of each network on a batch, as one vector, without an update. noise: of the generator's step."""
        self.noise = noise
        self.forward(self.prepared(batch))
        found = {}
        for name in self.order:
            self.backward(name)
            network = getattr(self, name)
            found[name] = torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])
        return found


def bce(logits: Tensor, real: bool) -> Tensor:
    """GANLoss("vanilla") of the public code."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class Pix2Pix(PublicStep):
    """Isola et al. 2017 (arXiv:1611.07004), as the public trainer of pix2pix and CycleGAN runs it."""

    def discriminator_loss(self) -> Tensor:
        source, target = self.batch["source"], self.batch["target"]
        fake = bce(self.discriminator(self.made.detach(), source), False)
        real = bce(self.discriminator(target, source), True)
        return (fake + real) * self.options["d_scale"]

    def generator_loss(self) -> Tensor:
        adversarial = bce(self.discriminator(self.made, self.batch["source"]), True)
        return adversarial + F.l1_loss(self.made, self.batch["target"]) * self.options["l1_weight"]


class ImagePool:
    """The image pool of the public code, of 50 images."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        found = []
        for image in images.detach().unsqueeze(1):
            if len(self.images) < 50:
                self.images.append(image)
                found.append(image)
            elif random.random() > 0.5:
                i = random.randint(0, 49)
                found.append(self.images[i].clone())
                self.images[i] = image
            else:
                found.append(image)
        return torch.cat(found)


class CycleGAN(PublicStep):
    """Zhu et al. 2017 (arXiv:1703.10593): least squares, cycle and identity losses, pools of fakes."""

    order = ("generator", "discriminator")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pools = {"a": ImagePool(), "b": ImagePool()}

    def forward(self, batch: Batch) -> None:
        self.batch = batch
        with self.autocast():
            self.fake = {"b": self.run["a_to_b"](batch["a"])}
            self.again = {"a": self.run["b_to_a"](self.fake["b"])}
            self.fake["a"] = self.run["b_to_a"](batch["b"])
            self.again["b"] = self.run["a_to_b"](self.fake["a"])

    def generator_loss(self) -> Tensor:
        judges, loss = self.discriminator, torch.zeros((), device=self.device)
        for way, to in (("a_to_b", "b"), ("b_to_a", "a")):
            same = self.run[way](self.batch[to])
            logits = judges[to](self.fake[to])  # type: ignore[index]
            loss = loss + F.mse_loss(logits, torch.ones_like(logits))
            loss = loss + 10.0 * F.l1_loss(self.again[to], self.batch[to])
            loss = loss + 10.0 * 0.5 * F.l1_loss(same, self.batch[to])
        return loss

    def discriminator_loss(self) -> Tensor:
        loss = torch.zeros((), device=self.device)
        for domain in ("a", "b"):
            discriminator = self.discriminator[domain]  # type: ignore[index]
            real, fake = discriminator(self.batch[domain]), discriminator(self.pools[domain].query(self.fake[domain]))
            loss = loss + 0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake)))
        return loss


class CUT(PublicStep):
    """Park et al. 2020 (arXiv:2007.15651) with its identity loss. heads: our `PatchHeads`, plain PyTorch."""

    def forward(self, batch: Batch) -> None:
        self.batch = batch
        with self.autocast():
            self.made, self.same = self.run["a_to_b"](torch.cat([batch["a"], batch["b"]])).split(len(batch["a"]))

    def discriminator_loss(self) -> Tensor:
        fake, real = self.discriminator(self.made.detach()), self.discriminator(self.batch["b"])
        return 0.5 * (F.mse_loss(fake, torch.zeros_like(fake)) + F.mse_loss(real, torch.ones_like(real)))

    def generator_loss(self) -> Tensor:
        logits = self.discriminator(self.made)
        adversarial = F.mse_loss(logits, torch.ones_like(logits))
        return adversarial + 0.5 * (self.nce("a", self.made) + self.nce("b", self.same))

    def nce(self, domain: str, made: Tensor) -> Tensor:
        network: Any = self.generator["a_to_b"]  # type: ignore[index]
        heads = self.generator["heads"]  # type: ignore[index]
        _, queries = network.features(made)
        _, keys = network.features(self.batch[domain])
        places = []
        for i, key in enumerate(keys):
            if self.noise is not None:
                places.append(self.noise[f"patches.{domain}.{i}"])
            else:
                found = torch.randperm(key.shape[2] * key.shape[3], device=key.device)[:256]
                places.append(found[None].expand(len(key), -1))
        total = torch.zeros((), device=self.device)
        for query, key in zip(heads(queries, places), heads(keys, places), strict=True):
            similar = query @ key.detach().transpose(1, 2) / 0.07
            own = torch.arange(similar.shape[1], device=similar.device).expand(similar.shape[:2])
            total = total + F.cross_entropy(similar.flatten(0, 1), own.flatten())
        return total / len(keys)


class VGG(nn.Module):
    """VGG-19's features of five layers before activations, as in Real-ESRGAN. weights: of torchvision's layout."""

    plan: tuple[Any, ...] = (
        64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512,
    )  # fmt: skip
    #: The places of conv1_2, conv2_2, conv3_4, conv4_4, conv5_4 among torchvision's layers, and their weights.
    layers: ClassVar[dict[int, float]] = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for size in self.plan:
            if size == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, size, 3, 1, 1), nn.ReLU()]
                channels = size
        self.features = nn.Sequential(*layers[:-1])
        self.load_state_dict(weights)
        self.requires_grad_(False)
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.layers:
                found.append(x.clone())
        return found

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        pairs = zip(self.layers.values(), self(one), self(other.detach()), strict=True)
        return sum((w * F.l1_loss(a, b) for w, a, b in pairs), torch.zeros((), device=one.device))


class RealESRGAN(PublicStep):
    """Wang et al. 2021 (arXiv:2107.10833): L1, perceptual and adversarial losses, the generator first, and its EMA.

    Images are in [0, 1].
    """

    order = ("generator", "discriminator")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        like = next(self.generator.parameters())
        self.vgg = VGG(self.options["vgg"]).to(like).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def prepared(self, batch: Batch) -> Batch:
        return super().prepared({name: (images + 1) / 2 for name, images in batch.items()})

    def generator_loss(self) -> Tensor:
        target = self.batch["target"]
        loss = F.l1_loss(self.made, target) + self.vgg.distance(self.made, target)
        return loss + 0.1 * bce(self.discriminator(self.made), True)

    def discriminator_loss(self) -> Tensor:
        real, fake = self.discriminator(self.batch["target"]), self.discriminator(self.made.detach().clone())
        return bce(real, True) + bce(fake, False)

    @torch.no_grad()
    def after(self) -> None:
        for mine, theirs in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mine.mul_(0.999).add_(theirs, alpha=0.001)


class Taming(PublicStep):
    """VQGAN (Esser et al. 2021, arXiv:2012.09841): both optimizers run the autoencoder, and the adaptive weight takes
    two gradients of the last layer before the backward pass."""

    order = ("generator", "discriminator")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        like = next(self.generator.parameters())
        self.vgg = VGG(self.options["vgg"]).to(like).to(memory_format=self.layout)  # type: ignore[call-overload]
        if self.run is not self.generator:  # `reconstruct` is the pass of training
            self.reconstruct = torch.compile(self.generator.reconstruct)  # type: ignore[arg-type]
        else:
            self.reconstruct = self.generator.reconstruct  # type: ignore[assignment]

    def forward(self, batch: Batch) -> None:
        self.batch = batch

    def generator_loss(self) -> Tensor:
        real, network = self.batch["real"], self.generator
        made = self.reconstruct(real)
        nll = (real - made.image).abs().mean() + self.vgg.distance((made.image + 1) / 2, (real + 1) / 2)
        adversarial = -self.discriminator(made.image).mean()
        last = network.last_layer
        of_nll = torch.autograd.grad(nll, last, retain_graph=True)[0]  # type: ignore[arg-type]
        of_adversarial = torch.autograd.grad(adversarial, last, retain_graph=True)[0]  # type: ignore[arg-type]
        weight = (of_nll.norm() / (of_adversarial.norm() + 1e-4)).clamp(0.0, 1e4).detach() * 0.8
        return nll + weight * adversarial + made.loss

    def discriminator_loss(self) -> Tensor:
        self.generator.requires_grad_(False)
        made = self.reconstruct(self.batch["real"]).image
        self.generator.requires_grad_(True)
        real, fake = self.discriminator(self.batch["real"]), self.discriminator(made.detach())
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) * self.options["d_scale"]
