"""The layouts of public checkpoints: by which names of weights each is recognized, and what makes its network."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastgan._util.schema import shown_name
from fastgan.errors import DataError
from fastgan.models.checkpoints.contents import State


@dataclass(frozen=True)
class Layout:
    """A kind of network in files.

    name: of the layout, as `fastgan.models.save` takes it. kind: what the network is. keys: patterns, each of which
    fits the name of one of its weights; together they fit no other layout. module: below fastgan.models.checkpoints,
    with the functions facts(state) → dict and build(state) → network; "" where there is no such network here.
    """

    name: str
    kind: str
    keys: tuple[str, ...]
    module: str = ""

    def fits(self, state: State) -> bool:
        return all(any(re.fullmatch(key, name) for name in state.tensors) for key in self.keys)

    def facts(self, state: State) -> dict[str, Any]:
        """Sizes for a reader: resolution, channels, z, classes, ... Raises DataError where weights are missing."""
        return self._own().facts(state) if self.module else {}

    def build(self, state: State) -> nn.Module:
        """The network, in eval mode, float32, on the CPU. Raises DataError where weights are missing or differ."""
        if not self.module:
            raise DataError(f"is a {self.kind} of {self.name}, a layout that is recognized but has no network here")
        return self._own().build(state).eval()

    def _own(self) -> Any:
        return importlib.import_module(f"fastgan.models.checkpoints.{self.module}")


GENERATOR, DISCRIMINATOR, UPSCALER, TRANSLATOR = "generator", "discriminator", "upscaler", "image translator"
AUTOENCODER = "autoencoder"
#: Of taming-transformers and latent diffusion.
TAMING = "taming"
#: Of pytorch-CycleGAN-and-pix2pix, whose networks serve both papers.
CYCLEGAN = "cyclegan-pix2pix"
#: The first that fits is it.
LAYOUTS = (
    Layout("stylegan2", GENERATOR, (r"synthesis\.b4\.const", r"mapping\.fc0\.weight"), "stylegan"),
    Layout("stylegan2", DISCRIMINATOR, (r"b\d+\.fromrgb\.weight", r"b4\.out\.weight"), "stylegan"),
    Layout("stylegan3", GENERATOR, (r"synthesis\.input\.freqs", r"synthesis\.L0_\d+_\d+\.weight"), "stylegan"),
    Layout("rosinality", GENERATOR, (r"conv1\.conv\.weight", r"to_rgb1\.conv\.weight"), "rosinality"),
    Layout("rosinality", DISCRIMINATOR, (r"convs\.0\.0\.weight", r"final_conv\.0\.weight"), "rosinality"),
    Layout("r3gan", GENERATOR, (r"MainLayers\.0\.Layers\.0\.Basis", r"AggregationLayer\.Layer\.weight"), "r3gan"),
    Layout("r3gan", DISCRIMINATOR, (r"ExtractionLayer\.Layer\.weight", r"MainLayers\.0\..*"), "r3gan"),
    Layout("biggan-pytorch", GENERATOR, (r"blocks\.0\.0\.conv1\.weight", r"output_layer\.2\.weight"), "biggan"),
    Layout("biggan-pytorch", DISCRIMINATOR, (r"blocks\.0\.0\.conv1\.weight", r"linear\.weight"), "biggan"),
    Layout("basicsr", UPSCALER, (r"(conv_first|model\.0)\.weight", r"(body|RRDB_trunk|model\.1\.sub)\.0.*"), "basicsr"),
    Layout("basicsr", UPSCALER, (r"body\.0\.weight", r"body\.1\.weight"), "basicsr"),
    Layout("basicsr", DISCRIMINATOR, (r"conv0\.weight", r"conv1\.weight_orig", r"conv9\.weight"), "basicsr"),
    Layout("basicsr", DISCRIMINATOR, (r"conv0_0\.weight", r"bn0_1\.weight", r"linear1\.weight"), "basicsr"),
    Layout(CYCLEGAN, TRANSLATOR, (r"model\.1\.weight", r"model\.10\.conv_block\.\d\.weight"), "translation"),
    Layout(CYCLEGAN, TRANSLATOR, (r"model\.model\.0\.weight", r"model\.model\.1\.model\.1\.weight"), "translation"),
    Layout(CYCLEGAN, DISCRIMINATOR, (r"model\.0\.weight", r"model\.2\.weight", r"model\.5\.weight"), "translation"),
    Layout(CYCLEGAN, DISCRIMINATOR, (r"net\.0\.weight", r"net\.2\.weight", r"net\.5\.weight"), "translation"),
    Layout("pix2pixhd", TRANSLATOR, (r"model\.1\.weight", r"model\.\d+\.conv_block\.\d\.weight"), "translation"),
    Layout("pix2pixhd", DISCRIMINATOR, (r"(scale0_)?layer0\.0\.weight", r"(scale0_)?layer[01]\..*"), "translation"),
    Layout("hifi-gan", "vocoder", (r"conv_pre\.weight_g|conv_pre\.parametrizations.*", r"ups\.0\..*")),
    Layout(TAMING, AUTOENCODER, (r"encoder\.conv_in\.weight", r"post_quant_conv\.weight"), "taming"),
)  # fmt: skip


def layout_of(state: State) -> Layout | None:
    """The layout of the weights of a network; None if it is unknown."""
    return next((layout for layout in LAYOUTS if layout.fits(state)), None)


def known_layout(state: State) -> Layout:
    """The same; raises DataError with the first names where it is unknown."""
    if (layout := layout_of(state)) is None:
        first = ", ".join(map(shown_name, list(state.tensors)[:3])) or "none"
        names = ", ".join(dict.fromkeys(one.name for one in LAYOUTS))
        raise DataError(f"has weights of no known layout ({names}); the first keys are: {first}")
    return layout
