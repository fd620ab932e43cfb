"""The generators that deploy.py times, and their inputs: pretrained networks and photographs if they are available."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import networks
import numpy as np
import torch
from torch import nn

from fastgan.runtime.session import latents
from fastgan.runtime.spec import Spec

Build = Callable[[], tuple[nn.Module, str]]


@dataclass
class Case:
    """A network and its inputs. build: the network and a description of its weights. shape: of the input, batch first.

    pretrained: the name of ncnn's files with the same weights. halves: also in fp16, on a GPU. int8: also in int8, on a
    CPU. video: also from file to file.
    """

    name: str
    build: Build
    shape: tuple[int, ...]
    pretrained: str = ""
    halves: bool = False
    int8: bool = True
    video: bool = False
    spec: Spec = field(init=False)
    network: nn.Module = field(init=False)
    weights: str = field(init=False)

    def open(self) -> None:
        self.network, self.weights = self.build()
        self.network.eval().requires_grad_(False)
        latent = self.shape[1:] if len(self.shape) == 2 else None
        self.spec = Spec.of(self.network, latent)


def dcgan(width: int = 64) -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    network = networks.dcgan_generator(64, width)
    network(torch.randn(64, networks.LATENT))  # sets the batch norms' statistics
    return network, "random"


def srvgg(scale: int, **options: int) -> tuple[nn.Module, str]:
    from fastgan.models.esrgan import SRVGGNetCompact

    torch.manual_seed(0)
    return SRVGGNetCompact(scale=scale, **options), "random"


def rrdbnet(**options: int) -> tuple[nn.Module, str]:
    from fastgan.models.esrgan import RRDBNet

    torch.manual_seed(0)
    return RRDBNet(scale=4, **options), "random"


def trained(name: str, otherwise: Build) -> Build:
    """A function that makes the pretrained network, or one with random weights if it cannot be fetched."""

    def build() -> tuple[nn.Module, str]:
        from fastgan.errors import FastganError
        from fastgan.models import esrgan
        from fastgan.upscale import pretrained

        try:
            return esrgan.load(pretrained.fetch(name)), name
        except FastganError as error:
            return otherwise()[0], f"random ({name} cannot be fetched: {str(error)[:60]})"

    return build


def cases(options: argparse.Namespace) -> list[Case]:
    z = networks.LATENT
    if options.quick:
        little = {"width": 8, "blocks": 1}
        found = [
            Case("dcgan-64", functools.partial(dcgan, 4), (1, z), halves=True),
            Case("srvgg-x2", lambda: srvgg(2, **little), (1, 3, 24, 32), halves=True, video=True),
            Case("rrdbnet-x4", lambda: rrdbnet(width=8, growth=4, blocks=1), (1, 3, 16, 16)),
        ]
    elif options.device == "cuda":
        found = [
            Case("dcgan-64", dcgan, (1, z), halves=True),
            Case("dcgan-64", dcgan, (64, z), halves=True),
            Case("srvgg-x4", lambda: srvgg(4), (1, 3, 480, 640), halves=True),
            Case("srvgg-x2", lambda: srvgg(2), (1, 3, 720, 1280), halves=True, video=True),
        ]
    else:
        names = "realesr-animevideov3-x2", "realesr-animevideov3-x4", "realesrgan-x4plus"
        found = [
            Case("dcgan-64", dcgan, (1, z)),
            Case("dcgan-64", dcgan, (64, z)),
            # The pretrained network for ×2 is the one for ×4 followed by downsampling; this one is ×2 itself.
            Case("srvgg-x2", lambda: srvgg(2), (1, 3, 180, 320), video=True),
            Case("srvgg-x2-animevideo", trained(names[0], lambda: srvgg(2, shuffle=4)), (1, 3, 180, 320), names[0]),
            Case("srvgg-x4-animevideo", trained(names[1], lambda: srvgg(4)), (1, 3, 180, 320), names[1], video=True),
            # The int8 sensitivity analysis of 351 layers takes longer than all the rest.
            Case("rrdbnet-x4", trained(names[2], rrdbnet), (1, 3, 128, 128), names[2], int8=False),
        ]
    return [case for case in found if options.case in case.name]


def photographs(folder: Path | None) -> tuple[list[np.ndarray], str]:
    """Images uint8 [H, W, 3], and their source."""
    from PIL import Image

    if folder:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        return [np.asarray(Image.open(p).convert("RGB")) for p in files], str(folder.name)
    try:
        from skimage import data

        return [np.asarray(getattr(data, n)())[..., :3] for n in ("astronaut", "coffee", "chelsea")], "scikit-image"
    except ImportError:
        pass
    try:
        from sklearn.datasets import load_sample_images

        return list(load_sample_images().images), "scikit-learn"
    except ImportError:
        return [], "none: neither --photos, nor scikit-image, nor scikit-learn"


def crops(pictures: list[np.ndarray], shape: tuple[int, ...], count: int) -> list[np.ndarray]:
    """`count` crops uint8 [H, W, 3] of half-size images, from all images in turn."""
    from PIL import Image

    _, _, height, width = shape
    found, rng = [], np.random.default_rng(0)
    for i in range(count):
        image = Image.fromarray(pictures[i % len(pictures)])
        factor = max(0.5, height / image.height, width / image.width)
        image = image.resize((max(width, round(image.width * factor)), max(height, round(image.height * factor))))
        top, left = (int(rng.integers(0, end + 1)) for end in (image.height - height, image.width - width))
        found.append(np.asarray(image)[top : top + height, left : left + width])
    return found


def inputs(case: Case, options: argparse.Namespace) -> tuple[np.ndarray, list[np.ndarray]]:
    """The inputs that are timed and compared, and the calibration inputs of int8, which are other crops."""
    if case.spec.kind == "latent":
        return latents(case.shape[0], case.spec.latent_shape, 0), [
            latents(16, case.spec.latent_shape, i) for i in (1, 2)
        ]
    if not options.pictures:
        rng = np.random.default_rng(0)
        return rng.random(case.shape, dtype=np.float32), []
    batch = case.shape[0]
    compared, others = options.pictures[:1], options.pictures[1:] or options.pictures
    x = np.stack(crops(compared, case.shape, batch)).transpose(0, 3, 1, 2).astype(np.float32) / 255
    rest = [piece.transpose(2, 0, 1)[None].astype(np.float32) / 255 for piece in crops(others, case.shape, 16)]
    return np.ascontiguousarray(x), rest
