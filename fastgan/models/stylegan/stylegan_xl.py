"""StyleGAN-XL (Sauer et al. 2022, arXiv:2202.00273): StyleGAN3's generator, small z, features of classes, growth in
stages, and projected discriminators on two backbones.

A network of several stages has the layers of the smaller ones, but for their last, critically sampled layers and the
layer to colors, and new layers behind them. The smaller stages are not trained any more: their weights are those of a
run of one stage less. Neither network has attention, as in the paper. The paper's guidance by a classifier is not
implemented: it needs images labeled with the classes of a pretrained classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.class_embedding import ClassEmbedding
from fastgan.models.labels import Labels
from fastgan.models.projected import ProjectedDiscriminator, side_of
from fastgan.models.stylegan.generator import StyleGenerator
from fastgan.models.stylegan.mapping import Mapping
from fastgan.models.stylegan.stylegan3 import FourierInput, Layer, Synthesis, bands_of

FEATURES = 320  # channels of the backbones' last feature maps
#: As in StyleGAN3: critically sampled layers, the first cutoff and stopband, the last stopband, margin, filter taps per
#: factor, factor at the nonlinearities, decay of the input's magnitude.
_CRITICAL, _FIRST, _LAST, _MARGIN, _TAPS, _UPSAMPLING, _BETA = 2, (2.0, 2**2.1), 2**0.3, 10, 6, 2, 0.999


class StagedSynthesis(Synthesis):
    """w [N, num_ws, w_dim] → images [N, img_channels, R, R].

    stages: the first one makes images of R / 2^(stages − 1) pixels a side, each following one twice that. first_layers:
    of the first stage, without the layer to colors. added_layers: of each other one, behind the layers of the stage
    before without its last two. The layers are in children named after the resolution of their stage (b16, b32, ...);
    all but the last stage's are frozen. The other arguments are those of StyleGAN3's `Synthesis`.
    """

    def __init__(
        self, w_dim: int, img_resolution: int, img_channels: int, channel_base: int = 32768, channel_max: int = 512,
        stages: int = 1, first_layers: int = 10, added_layers: int = 7, num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
    ):  # fmt: skip
        nn.Module.__init__(self)
        side = img_resolution >> max(stages - 1, 0)
        if stages < 1 or side < 16 or side << (stages - 1) != img_resolution:
            raise UsageError(
                f"stages: expected a number from 1 by which a first stage of 16×16 or larger becomes"
                f" {img_resolution}×{img_resolution} in doublings, got {stages}"
            )
        if min(first_layers, added_layers) <= _CRITICAL:
            fewest = min(first_layers, added_layers)
            raise UsageError(f"layers: expected more than {_CRITICAL} in a stage, got {fewest}")
        self.output_scale, self.num_critical = 0.25, _CRITICAL
        self.layers: list[str] = []
        self.in_half: list[bool] = []
        sizes = (_LAST, _MARGIN, channel_base, channel_max)
        for stage in range(stages):
            if stage == 0:
                bands = bands_of(side, first_layers, _CRITICAL, _FIRST, *sizes)
                self.input = FourierInput(w_dim, bands[0])
                inputs = bands[0]
            else:
                # The band before the cut is the first one, and is there already.
                start = (inputs.cutoff, inputs.stopband)
                bands = bands_of(side << stage, added_layers + 1, _CRITICAL, start, *sizes)[1:]
            last = stage == stages - 1
            block = nn.Module()
            for i, outputs in enumerate(bands if last else bands[: -_CRITICAL - 1]):
                colors = img_channels if i == len(bands) - 1 else 0
                layer = Layer(
                    inputs, outputs, w_dim, colors=colors, kernel=1 if colors else 3, filter_size=_TAPS,
                    upsampling=1 if colors else _UPSAMPLING, radial=False, clamp=conv_clamp, beta=_BETA,
                )  # fmt: skip
                name = f"L{i}_{outputs.size}_{colors or outputs.channels}"
                block.add_module(name, layer)
                self.layers.append(f"b{side << stage}.{name}")
                self.in_half.append(outputs.rate << num_fp16_res > img_resolution)
                inputs = outputs
            self.add_module(f"b{side << stage}", block)
            if not last:
                self.input.requires_grad_(False)
                block.requires_grad_(False)
        self.num_ws = len(self.layers) + 1


class ClassMapping(Mapping):
    """A mapping network whose labels are vectors of features, `embedding.given` [c_dim, FEATURES].

    They are random until `fastgan.train` sets them to the mean features of each class's images.
    """

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, **options: Any):
        features = FEATURES if c_dim else 0
        super().__init__(z_dim, features, w_dim, num_ws, embed_features=z_dim, **options)
        self.embedding = ClassEmbedding(c_dim, torch.randn(c_dim, FEATURES)) if c_dim else None

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float | Tensor = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        if self.embedding is not None:
            c = self.embedding(c, self.embed.weight)
        return super().forward(z, c, truncation_psi, truncation_cutoff)


class GeneratorXL(StyleGenerator):
    """StyleGAN-XL's generator, see `StyleGenerator`; synthesis_kwargs are those of `StagedSynthesis`."""

    synthesis_class = StagedSynthesis
    mapping_class = ClassMapping
    mapping_layers = 2

    @property
    def continues(self) -> bool:
        """Whether its frozen layers need the weights of a run of one stage less."""
        return bool(self.arguments.get("stages", 1) > 1)


def build(
    resolution: int, channels: int, latent: int, width: int, classes: int, d_norm: str, *, stages: int = 1,
    first_layers: int = 10, added_layers: int = 7, channel_base: int | None = None, num_fp16_res: int = 4,
    conv_clamp: float | None = 256.0, backbone: str = "efficientnet+mobilenet", side: int | None = None,
    d_width: int = 64, condition: str | None = None,
) -> tuple[GeneratorXL, ProjectedDiscriminator]:  # fmt: skip
    """StyleGAN-XL's generator, and projected discriminators.

    latent: of z (64 in the paper). width: channels of the generator at low resolutions, and size of w (512 in the
    paper). channel_base: None means 64 · width. stages, first_layers, added_layers, num_fp16_res, conv_clamp: see
    `StagedSynthesis`. backbone, side, d_width: see `projected.build`. condition: "projection", the only one supported.
    Raises UsageError for unsupported values.
    """
    if d_norm != "none":
        raise UsageError(f"d_norm: projected discriminators have spectral and batch norms, got {d_norm!r}; use none")
    Labels.create("stylegan-xl", classes, condition, ("projection",))
    generator = GeneratorXL(
        latent, classes, width, resolution, channels, channel_base=64 * width if channel_base is None else channel_base,
        channel_max=width, stages=stages, first_layers=first_layers, added_layers=added_layers,
        num_fp16_res=num_fp16_res, conv_clamp=conv_clamp,
    )  # fmt: skip
    features = torch.randn(classes, FEATURES) if classes else None
    sizes = (channels, side_of(resolution, side), backbone, d_width, classes, features)
    return generator, ProjectedDiscriminator(*sizes)
