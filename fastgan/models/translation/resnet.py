"""The generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593), after Johnson et al. 2016 (arXiv:1603.08155).

The global generator of pix2pixHD (Wang et al. 2018, arXiv:1711.11585) is the same with more halvings.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.models.translation.layers import check, has_bias, initialize, norm_layer
from fastgan.nn import fuse
from fastgan.nn.fusion.chain import force, run_next

PADDINGS = ("reflect", "replicate", "zeros")
DROPOUT = 0.5


class ResidualBlock(nn.Module):
    """[N, C, H, W] → x + (convolution, norm, ReLU, convolution, norm)."""

    def __init__(self, channels: int, norm: str, padding: str, dropout: bool, bias: bool):
        super().__init__()

        def convolution() -> list[nn.Module]:
            pad, zeros = _padding(padding, 1)
            return [*pad, nn.Conv2d(channels, channels, 3, padding=zeros, bias=bias), norm_layer(norm, channels)]

        between = [nn.ReLU(inplace=True), *([nn.Dropout(DROPOUT)] if dropout else [])]
        self.conv_block = nn.Sequential(*convolution(), *between, *convolution())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """Images [N, channels, H, W] → [N, out_channels, H, W] in [-1, 1]; H and W are multiples of 2^downsamplings.

    blocks: residual blocks at the lowest resolution: 9 (6 for images of 128×128 in the paper). width: feature maps at
    the full resolution. norm: "instance" (CycleGAN), "batch" or "none". dropout: inside of the blocks, in training
    mode. padding: of the blocks, "reflect" (the papers), "replicate" or "zeros". downsamplings: halvings of the image,
    2; 3 or 4 in pix2pixHD. bias: of convolutions before a norm; None means that of CycleGAN's networks, before instance
    norm only; those of pix2pixHD have one everywhere.
    """

    scale = 1
    range = (-1.0, 1.0)

    def __init__(
        self,
        channels: int = 3,
        out_channels: int = 3,
        blocks: int = 9,
        width: int = 64,
        norm: str = "instance",
        dropout: bool = False,
        padding: str = "reflect",
        downsamplings: int = 2,
        bias: bool | None = None,
    ):
        super().__init__()
        sizes = {"channels": channels, "out_channels": out_channels, "width": width}
        check(norm, **sizes, blocks=blocks, downsamplings=downsamplings)
        if padding not in PADDINGS:
            raise UsageError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
        bias = has_bias(norm) if bias is None else bias
        self.arguments: dict[str, Any] = {
            "channels": channels, "out_channels": out_channels, "blocks": blocks, "width": width, "norm": norm,
            "dropout": dropout, "padding": padding, "downsamplings": downsamplings, "bias": bias,
        }  # fmt: skip
        self.channels = self.source_channels = channels
        self.out_channels, self.multiple = out_channels, 1 << downsamplings
        widths = [width << i for i in range(downsamplings + 1)]
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7, bias=bias)]
        layers += [norm_layer(norm, width), nn.ReLU(inplace=True)]
        for outputs in widths[1:]:
            layers += [
                nn.Conv2d(outputs // 2, outputs, 3, 2, 1, bias=bias),
                norm_layer(norm, outputs),
                nn.ReLU(inplace=True),
            ]
        layers += [ResidualBlock(widths[-1], norm, padding, dropout, bias) for _ in range(blocks)]
        for outputs in widths[-2::-1]:
            up = nn.ConvTranspose2d(2 * outputs, outputs, 3, 2, 1, output_padding=1, bias=bias)
            layers += [up, norm_layer(norm, outputs), nn.ReLU(inplace=True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.apply(initialize)
        fuse(self)

    def forward(self, source: Tensor) -> Tensor:
        return self.model(source)

    @property
    def feature_layers(self) -> list[int]:
        """The layers whose outputs `features` returns: the convolutions that halve, the first and the fifth block."""
        downsamplings = self.arguments["downsamplings"]
        first = 4 + 3 * downsamplings
        blocks = {first, first + min(4, self.arguments["blocks"] - 1)}
        return [4 + 3 * i for i in range(downsamplings)] + sorted(blocks)

    @property
    def feature_channels(self) -> list[int]:
        """The channels of the features: of the source, and of the outputs of `feature_layers`."""
        width, downsamplings = self.arguments["width"], self.arguments["downsamplings"]
        widths = [width << min(i + 1, downsamplings) for i in range(len(self.feature_layers))]
        return [self.channels, *widths]

    def feature_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of the features of a source of this size."""
        halvings = [0, *(min(i + 1, self.arguments["downsamplings"]) for i in range(len(self.feature_layers)))]
        return [(height >> times, width >> times) for times in halvings]

    def features(self, source: Tensor, image: bool = False) -> tuple[Tensor | None, list[Tensor]]:
        """The image of a source, or None where it is not wanted, and the features on the way to it, whose patches
        contrastive losses compare (Park et al. 2020): the source itself and the outputs of `feature_layers`.
        """
        x: Any = source
        found, wanted = [source], self.feature_layers
        for i, layer in enumerate(self.model):
            x = run_next(layer, x)  # a norm and the activation after it as one op
            if i in wanted:
                x = force(x)
                found.append(x)
            if i == wanted[-1] and not image:
                return None, found
        return force(x), found


def _padding(kind: str, size: int) -> tuple[list[nn.Module], int]:
    """The layers before a convolution, and the zeros that it adds itself."""
    if kind == "zeros":
        return [], size
    return [nn.ReflectionPad2d(size) if kind == "reflect" else nn.ReplicationPad2d(size)], 0
