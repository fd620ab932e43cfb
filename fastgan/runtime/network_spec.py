"""Finds the spec of a torch module: from its attributes, and by running it without data where they leave it open."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastgan.errors import UsageError, first_line
from fastgan.runtime.dry_run import Blank, blanks, dry_run
from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Attributes in which public networks state the length of z, and the number of classes or the length of their vector.
_LATENTS = ("latent", "latent_dim", "z_dim", "dim_z", "noise_dim", "nz")
_CLASSES = ("classes", "c_dim", "n_classes", "num_classes", "label_dim")
#: Multiples to try for height, width and length.
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Sizes with which the channels are found; a network that takes none of them is refused.
_SIDES = (256, 512, 64, 32)
#: The most combinations of inputs that are tried.
_TRIES = 300
#: A convolution of more channels than this may read latents [N, C, 1, 1].
_COLORS = 4


def spec_of(network: Any, latent_shape: tuple[int, ...] | None = None) -> Spec:
    """The spec of a network.

    What its attributes state (`Spec.of`) is believed. A module without them is run on tensors without data: with the
    input sizes of its layers as latents, images and signals, and with labels where its forward() takes a second
    argument. Raises UsageError, with the attributes to set, where nothing fits.
    """
    torch = __import__("sys").modules.get("torch")
    if not (torch and isinstance(network, torch.nn.Module)) or _is_stated(network, latent_shape):
        return Spec.of(network, latent_shape)
    return _Search(network, latent_shape).found()


def without_unused_labels(network: nn.Module) -> nn.Module:
    """A module that may be called with one input: of a network whose second argument must be given although it states
    0 classes (StyleGAN's `G(z, c)` with c_dim 0), one that passes None. Other networks as they are."""
    from torch import nn

    if 0 not in _numbers(network, _CLASSES) or _arguments(network)[0] < 2:
        return network

    class WithoutLabels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Any:
            return self.network(x, None)

    return WithoutLabels().train(network.training)


def _is_stated(network: nn.Module, latent_shape: tuple[int, ...] | None) -> bool:
    if isinstance(getattr(network, "spec", None), Spec):
        return True
    kind = latent_shape is not None or hasattr(network, "latent")
    kind = kind or (hasattr(network, "scale") and hasattr(network, "channels"))
    return kind and (hasattr(network, "classes") or _arguments(network)[0] <= 1)


def _arguments(network: nn.Module) -> tuple[int, int]:
    """How many positional arguments forward() must be given, and how many it accepts."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # a forward() in C
        return 1, 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(p.default is p.empty for p in positional), 2 if many else len(positional)


@dataclass(frozen=True)
class _Layer:
    """What a layer reads. kind: of the network if this is its first layer; size: channels or features."""

    kind: str
    size: int


class _Search:
    """Tries inputs until one fits."""

    def __init__(self, network: nn.Module, latent_shape: tuple[int, ...] | None):
        from fastgan.nn import fold

        self._given = network
        self._network = fold(network)  # running it leaves no trace in the user's module
        self._latent_shape = latent_shape
        self._problem = ""
        self._layers = list(dict.fromkeys(_layers_of(self._network)))
        self._outputs = _output_channels(self._network)

    def found(self) -> Spec:
        required, accepted = _arguments(self._network)
        name = type(self._given).__name__
        if required > 2:
            raise UsageError(
                f"network: {name}.forward() takes {required} arguments; expected one of images, latents or signals, and"
                " at most one of labels. Export a module whose forward() sets the others"
            )
        for spec in itertools.islice(self._candidates(required, accepted), _TRIES):
            if (fitting := self._fit(spec)) is not None:
                return fitting
        tried = f" ({self._problem})" if self._problem else ""
        raise UsageError(
            f"network: the inputs of {name} cannot be found by running it at several sizes{tried}. Set the attributes"
            " `channels` and `scale` of a network from images to images, or `latent` of one from latents (or give"
            " latent_shape), and `classes` where it takes labels"
        )

    def _candidates(self, required: int, accepted: int) -> Iterator[Spec]:
        for classes, vectors, less in self._labels(required, accepted):
            for spec in self._firsts(less):
                yield replace(spec, classes=classes, label_vectors=vectors)

    def _labels(self, required: int, accepted: int) -> Iterator[tuple[int, bool, tuple[int, ...]]]:
        """Classes, whether as vectors, and how many channels of the first layer the labels may take."""
        stated = _numbers(self._given, _CLASSES)
        if required < 2 or 0 in stated:
            yield 0, False, (0,)
        if accepted < 2 or 0 in stated:
            return
        embeddings = list(_embeddings_of(self._network))
        widths = tuple(dict.fromkeys((0, *(width for _, width in embeddings))))
        for classes in dict.fromkeys((*stated, *(count for count, _ in embeddings))):
            yield classes, False, widths
        rest = [layer.size - n for layer in self._layers for n in self._outputs if layer.kind != "latent"]
        linear = [layer.size for layer in self._layers if layer.kind == "latent"]
        for length in dict.fromkeys((*stated, *(n for n in rest if n > 0), *linear)):
            yield length, True, (0, length)

    def _firsts(self, less: tuple[int, ...]) -> Iterator[Spec]:
        """Specs of the first input, without scale and multiple."""
        if self._latent_shape is not None:
            yield Spec("latent", tuple(int(n) for n in self._latent_shape))
            return
        channels = _numbers(self._given, ("channels",))
        for latent in _numbers(self._given, _LATENTS):
            yield Spec("latent", (latent,))
            yield Spec("latent", (latent, 1, 1))
        for layer, taken in itertools.product(self._layers, less):
            size = layer.size - taken
            if size < 1:
                continue
            if layer.kind == "latent":
                yield Spec("latent", (size,))
            elif layer.kind == "transposed":
                yield Spec("latent", (size, 1, 1))
            else:
                yield Spec(layer.kind, channels=size)  # type: ignore[arg-type]
        for size in channels:  # stated without a scale
            yield Spec("image", channels=size)
        for layer in self._layers:
            if layer.kind == "image" and layer.size > _COLORS:
                yield Spec("latent", (layer.size, 1, 1))

    def _fit(self, spec: Spec) -> Spec | None:
        """The spec with scale and multiple, or None where the network does not run on such inputs."""
        if spec.kind == "latent":
            shape = self._shape(spec, (2, *spec.latent_shape))
            if shape is None or len(shape) != 4 or shape[0] != 2:
                self._note(shape, spec)
                return None
            return replace(spec, channels=shape[1], range=self._range((-1.0, 1.0)))
        if all(self._scaled(spec, (2 * side, side)) is None for side in _SIDES):
            return None
        for multiple in MULTIPLES:
            odd = max(17 // multiple, 1) | 1
            sizes = [(odd * multiple, (odd + 2) * multiple), ((odd + 4) * multiple, (odd + 2) * multiple)]
            results = {self._scaled(spec, size) for size in sizes}
            if len(results) == 1 and (result := results.pop()):
                channels, scale = result
                limits = (0.0, 1.0) if spec.kind == "image" and scale > 1 else (-1.0, 1.0)
                return replace(spec, out_channels=channels, scale=scale, multiple=multiple, range=self._range(limits))
        self._problem = f"it runs on inputs {spec.wanted} of some sizes only"
        return None

    def _scaled(self, spec: Spec, sizes: tuple[int, int]) -> tuple[int, int] | None:
        """Channels and scale of the output for images or signals of that size."""
        given = sizes[-len(spec.sizes) :]
        shape = self._shape(spec, (2, spec.channels, *given))
        if shape is None:
            return None
        scale = shape[2] // given[0] if len(shape) == len(given) + 2 else 0
        if scale and shape[0] == 2 and shape[2:] == tuple(scale * n for n in given):
            return shape[1], scale
        self._note(shape, spec)
        return None

    def _shape(self, spec: Spec, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the output, or None where it does not run or returns no tensor."""
        import torch

        inputs: list[Blank | None] = [*blanks(spec, shape)]
        if not spec.classes and _arguments(self._network)[0] > 1:
            inputs.append(None)
        try:
            result, _ = dry_run(self._network, inputs)
        except Exception as error:  # the network is the user's code
            self._problem = self._problem or f"for {list(shape)}: {first_line(error)}"
            return None
        if not isinstance(result, torch.Tensor):
            of = f" of {len(result)}" if isinstance(result, (tuple, list, dict)) else ""
            self._problem = f"for {list(shape)} it returns a {type(result).__name__}{of}, expected one tensor"
            return None
        return tuple(result.shape)

    def _note(self, shape: tuple[int, ...] | None, spec: Spec) -> None:
        if shape is not None:
            self._problem = f"for {spec.wanted} it returns {list(shape)}"

    def _range(self, otherwise: tuple[float, float]) -> tuple[float, float]:
        if hasattr(self._given, "range"):
            low, high = self._given.range  # type: ignore[misc]
            return float(low), float(high)
        from torch import nn

        last = [module for module in self._network.modules() if isinstance(module, (nn.Tanh, nn.Sigmoid))]
        return otherwise if not last else (-1.0, 1.0) if isinstance(last[-1], nn.Tanh) else (0.0, 1.0)


def _numbers(network: Any, names: tuple[str, ...]) -> list[int]:
    values = [getattr(network, name, None) for name in names]
    return list(dict.fromkeys(value for value in values if isinstance(value, int) and not isinstance(value, bool)))


def _layers_of(network: nn.Module) -> Iterator[_Layer]:
    """The layers in the order in which they were made; that of the first use is nearly always the same."""
    from torch import Tensor, nn

    kinds = {2: "latent", 3: "signal", 4: "image"}
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.ConvTranspose2d):
            yield _Layer("transposed", module.in_channels)
            yield _Layer("image", module.in_channels)
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            yield _Layer("signal", module.in_channels)
        elif isinstance(module, nn.Conv2d):
            yield _Layer("image", module.in_channels)
        elif isinstance(module, nn.Linear):
            yield _Layer("latent", module.in_features)
        elif isinstance(weight, Tensor) and not isinstance(module, nn.Embedding) and weight.ndim in kinds:
            yield _Layer(kinds[weight.ndim], weight.shape[1])  # a layer of the user's own


def _embeddings_of(network: nn.Module) -> Iterator[tuple[int, int]]:
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Embedding):
            yield module.num_embeddings, module.embedding_dim


def _output_channels(network: nn.Module) -> list[int]:
    """The channels that convolutions give, the last one's first."""
    from torch import nn

    convolutions = [module for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    return list(dict.fromkeys(module.out_channels for module in reversed(convolutions[-1:])))
