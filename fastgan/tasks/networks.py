"""How tasks call a discriminator: with labels or sources or without, real and fake apart or as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.losses import FeatureDistance, PerceptualLoss, perceptual_loss
from fastgan.nn import MinibatchDiscrimination, MinibatchStdDev
from fastgan.regularization.features import collected_features

#: Layers whose output for one sample depends on the other samples of the batch, or on random numbers: in training mode,
#: and always. The latter depend on the batch hardly at all before they are trained, so that running them does not show.
COUPLED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
COMPARING = (MinibatchDiscrimination, MinibatchStdDev)


class Output(NamedTuple):
    """What a discriminator returns.

    logits: of any shape; of several scales [N, all of them], one scale after the other. classes: class logits
    [N, classes] of an auxiliary classifier, or None. scales: how many logits each scale has, where there are several.
    """

    logits: Tensor
    classes: Tensor | None
    scales: tuple[int, ...] = ()


def discriminate(
    network: nn.Module, images: Tensor, condition: Tensor | None = None, weights: Mapping[str, Tensor] | None = None
) -> Output:
    """What a discriminator returns for images [N, ...] with labels int64 [N] or sources, or None for neither.

    A list of tensors [N, ...] is logits at several scales, of each of which the loss is taken by itself.
    weights: in place of the network's own, by name; its buffers then stay as they are.
    """
    args = (images,) if condition is None or getattr(network, "auxiliary", False) else (images, condition)
    if weights is None:
        output: Any = network(*args)
    else:
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        output = torch.func.functional_call(network, {**weights, **buffers}, args)
    if isinstance(output, Tensor):
        return Output(output, None)
    if isinstance(output, tuple) and len(output) == 2 and getattr(network, "auxiliary", False):
        return Output(*output)
    if isinstance(output, list) and output and all(isinstance(each, Tensor) and each.dim() > 1 for each in output):
        return of_scales(output)
    kind = f"{len(output)} outputs in a {type(output).__name__}" if isinstance(output, Sized) else type(output).__name__
    raise UsageError(
        f"discriminator: expected a tensor of logits, or a list of tensors [N, ...] at several scales, got {kind};"
        " set its attribute `auxiliary` where the second of two are class logits, or write a task of your own"
    )


def of_scales(logits: Sequence[Tensor]) -> Output:
    """Logits [N, ...] at one or several scales."""
    if len(logits) == 1:
        return Output(logits[0], None)
    flat = [each.flatten(1) for each in logits]
    return Output(torch.cat(flat, 1), None, tuple(each.shape[1] for each in flat))


def discriminate_with_layers(
    network: nn.Module, images: Tensor, condition: Tensor | None
) -> tuple[Output, list[list[Tensor]]]:
    """As `discriminate`, and the outputs of all layers at each scale, of a discriminator with a method `features`."""
    found = network.features(*((images,) if condition is None else (images, condition)))  # type: ignore[operator]
    return of_scales([layers[-1] for layers in found]), found


def discriminate_with_features(
    network: nn.Module, images: Tensor, condition: Tensor | None, weights: Mapping[str, Tensor] | None, wanted: bool
) -> tuple[Output, Any]:
    """As `discriminate`, and the features that go into the last layer, or None where they are not wanted."""
    if not wanted:
        return discriminate(network, images, condition, weights), None
    with collected_features(network) as found:
        output = discriminate(network, images, condition, weights)
    return output, found[0]


def discriminate_jointly(
    network: nn.Module, real: Tensor, condition: Tensor | None, fake: Tensor, fake_condition: Tensor | None
) -> tuple[Output, Output]:
    """The outputs for real and for fake images, which go through the network as one batch."""
    conditions = None if condition is None or fake_condition is None else torch.cat([condition, fake_condition])
    logits, classes, scales = discriminate(network, torch.cat([real, fake.to(real.dtype)]), conditions)
    of_real, of_fake = logits.chunk(2)
    if classes is None:
        return Output(of_real, None, scales), Output(of_fake, None, scales)
    return tuple(map(Output, (of_real, of_fake), classes.chunk(2)))  # type: ignore[return-value]


def coupling_layer(network: nn.Module) -> str:
    """The first layer known to couple the samples of a batch: "blocks.1.norm (BatchNorm2d)", or ""."""
    for name, layer in network.named_modules():
        if isinstance(layer, COMPARING) or (isinstance(layer, COUPLED) and layer.training):
            return f"{name or 'the discriminator'} ({type(layer).__name__})"
    return ""


def source_channels(network: nn.Module) -> int:
    """Channels of the source images that a network takes; 0 where it takes none."""
    return int(getattr(network, "source_channels", 0))


def takes_images(network: nn.Module) -> bool:
    """Whether a generator states that it makes images from images, and not from latents."""
    return source_channels(network) > 0 or (hasattr(network, "channels") and hasattr(network, "scale"))


def perceptual_for(
    name: str, generator: nn.Module, span: tuple[float, float]
) -> PerceptualLoss | FeatureDistance | None:
    """The `fastgan.losses.perceptual_loss` of this name for images of a generator in a range, on its device.

    None of "none". Raises UsageError and DataError as that does.
    """
    return None if name == "none" else perceptual_loss(name, range=span).to(next(generator.parameters()).device)


def declared_range(network: nn.Module) -> tuple[float, float] | None:
    """The range of a network's images as its attribute `range` states it, (low, high); None without one."""
    stated = getattr(network, "range", None)
    if (
        not isinstance(stated, tuple | list)
        or len(stated) != 2
        or not all(isinstance(each, int | float) for each in stated)
    ):
        return None
    low, high = map(float, stated)
    return (low, high) if low < high else None


def dtype_of(network: nn.Module) -> torch.dtype:
    """Of a network's weights, and so of the images that it takes; float32 for one without any."""
    return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), torch.float32)
