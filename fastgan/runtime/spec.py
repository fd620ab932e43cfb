"""The inputs and outputs of a generator: read from the network, stored in exported files. No torch."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from fastgan._util.schema import flag, list_of, number, one_of, read_json, table, text, whole
from fastgan.errors import ExportError, UsageError

#: The key in the metadata of an exported file.
KEY = "fastgan"
#: The inputs of a model in order: images, latents or signals, labels where it takes some, and controls.
Inputs = tuple[np.ndarray, ...]
Kind = Literal["latent", "mapping", "synthesis", "image", "signal"]
#: Names of the axes after the channels that have any size, by kind.
_SIZES: dict[str, tuple[str, ...]] = {"image": ("H", "W"), "signal": ("T",)}


@dataclass(frozen=True)
class Control:
    """A further input, a number for each sample: float32 [N], or [N, size] where size > 0. A session fills it with
    `default` where it is not given."""

    name: str
    default: float
    size: int = 0

    def values(self, n: int) -> np.ndarray:
        """The default for n samples."""
        return np.full((n, *self.shape), self.default, np.float32)

    def check(self, value: Any, n: int) -> None:
        """Raise UsageError unless value, a numpy array or torch tensor, is float32 and has the shape for n samples."""
        came = str(value.dtype).removeprefix("torch.")
        if came != "float32" or tuple(value.shape) != (n, *self.shape):
            raise UsageError(f"{self.name}: expected float32 {[n, *self.shape]}, got {came} {list(value.shape)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (self.size,) if self.size else ()


@dataclass(frozen=True)
class Spec:
    """A generator from latents, a half of one with styles, a network from images to images, or from one-dimensional
    signals to signals (a vocoder).

    kind "latent": z float32 [N, *latent_shape] → images float32 [N, channels, H, W] in `range`.
    kind "mapping": z float32 [N, *latent_shape] → styles w float32 [N, *styles], usually in `range`.
    kind "synthesis": styles w float32 [N, *latent_shape] → images float32 [N, channels, H, W] in `range`.
    kind "image": images float32 [N, channels, H, W] → [N, out_channels, scale·H, scale·W], both in `range`; H and W are
    multiples of `multiple`; an output pixel depends on input pixels at most `reach` away (0: not known).
    kind "signal": float32 [N, channels, T], a spectrogram for example, → [N, out_channels, scale·T] in `range`; T is a
    multiple of `multiple`; scale is the hop length, output samples for each input frame.
    out_channels: 0 if they are `channels`.
    classes: 0 for a generator without labels. Otherwise a second input has labels: y int64 [N] from 0 to classes − 1;
    with label_vectors c float32 [N, classes], one-hot vectors or vectors of attributes.
    controls: the inputs after these.
    """

    kind: Kind
    latent_shape: tuple[int, ...] = ()
    classes: int = 0
    label_vectors: bool = False
    channels: int = 3
    out_channels: int = 0
    scale: int = 1
    multiple: int = 1
    reach: int = 0
    range: tuple[float, float] = (-1.0, 1.0)
    styles: tuple[int, ...] = ()
    controls: tuple[Control, ...] = ()

    @classmethod
    def of(cls, network: Any, latent_shape: tuple[int, ...] | None = None) -> Spec:
        """The spec of a network, from its attributes.

        `spec`, where it is a Spec, states all of it. Image-to-image networks have the attributes `scale` and
        `channels`, and may have `out_channels` (where they are others), `multiple`, `reach`, `range` ([0, 1] without
        it) and `controls` (name, default, size of each further input); generators from latents have `latent`, or
        latent_shape is given, and may have `range` ([-1, 1] without it).
        Both may have the number of `classes`, where they are called with labels, and `label_vectors`. Raises UsageError
        for a network with neither;
        `fastgan.runtime.network_spec.spec_of` runs such a network to find out.
        """
        if isinstance(stated := getattr(network, "spec", None), cls):
            return stated
        classes = getattr(network, "classes", 0)
        if not hasattr(classes, "__index__") or (classes := operator.index(classes)) < 0:
            raise UsageError(f"network: expected a whole number >= 0 as its attribute `classes`, got {classes!r}")
        labels: dict[str, Any] = {"classes": classes, "label_vectors": bool(getattr(network, "label_vectors", False))}
        if latent_shape is None and hasattr(network, "scale") and hasattr(network, "channels"):
            low, high = getattr(network, "range", (0.0, 1.0))
            return cls(
                "image",
                **labels,
                channels=int(network.channels),
                out_channels=int(getattr(network, "out_channels", 0)),
                scale=int(network.scale),
                multiple=int(getattr(network, "multiple", 1)),
                reach=int(getattr(network, "reach", 0)),
                range=(float(low), float(high)),
                controls=tuple(Control(*control) for control in getattr(network, "controls", ())),
            )
        if latent_shape is None and hasattr(network, "latent"):
            latent_shape = (int(network.latent),)
        if latent_shape is None:
            raise UsageError(
                "network: expected one with the attribute `latent`, or `scale` and `channels`, or a given latent_shape,"
                f" got {type(network).__name__} with none of them"
            )
        low, high = getattr(network, "range", (-1.0, 1.0))
        return cls("latent", tuple(int(n) for n in latent_shape), **labels, range=(float(low), float(high)))

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of the input's axes that have any size: H and W of images, T of signals, none of latents."""
        return _SIZES.get(self.kind, ())

    @property
    def result_channels(self) -> int:
        """The channels of the output."""
        return self.out_channels or self.channels

    @property
    def wanted(self) -> str:
        """The accepted shapes of the first input, in words."""
        if not self.sizes:
            return f"[N, {', '.join(map(str, self.latent_shape))}]"
        text = f"[N, {self.channels}, {', '.join(self.sizes)}]"
        return f"{text} with {' and '.join(self.sizes)} in multiples of {self.multiple}" if self.multiple > 1 else text

    @property
    def origin(self) -> str:
        """What it generates from, in words, for errors of who expects another kind."""
        return {"mapping": "latents to styles", "synthesis": "styles"}.get(self.kind, f"{self.kind}s")

    def describe(self, size: tuple[int, int] | None = None) -> str:
        """Inputs and output in words. size: height and width where a file accepts images of one size only."""
        labels = ""
        if self.classes:
            labels = f" and {self.inputs[1]} [N] of {self.classes} classes"
            labels = f" and vectors c [N, {self.classes}]" if self.label_vectors else labels
        labels += "".join(f", {one.name} [{', '.join(map(str, ('N', *one.shape)))}]" for one in self.controls)
        if not self.sizes:
            result = f"w [N, {', '.join(map(str, self.styles))}]" if self.kind == "mapping" else "images"
            return f"{self.inputs[0]} {self.wanted}{labels} → {result}"
        of = f" of {self.result_channels} channels" if self.result_channels != self.channels else ""
        if self.kind == "signal":
            text = f"signals [N, {self.channels}, T]{labels} → waveforms{of}, {self.scale} samples for each frame"
            return text + (f", T in multiples of {self.multiple}" if self.multiple > 1 else "")
        h, w = size or ("H", "W")
        larger = f"{self.scale} times as large" if self.scale > 1 else "of the same size"
        text = f"images [N, {self.channels}, {h}, {w}]{labels} → {larger}{of}"
        return text + (f", sides in multiples of {self.multiple}" if self.multiple > 1 else "")

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether the first input may have that shape."""
        if 0 in shape or not shape:
            return False
        if not self.sizes:
            return shape[1:] == self.latent_shape
        sizes = shape[2:]
        return len(sizes) == len(self.sizes) and shape[1] == self.channels and not any(n % self.multiple for n in sizes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of an exported file's inputs, in order."""
        first = {"image": "images", "signal": "signal", "synthesis": "w"}.get(self.kind, "z")
        labels = ("c" if self.label_vectors else "y",) if self.classes else ()
        return (first, *labels, *(one.name for one in self.controls))

    @property
    def output(self) -> str:
        """The name of an exported file's output."""
        return {"mapping": "w", "image": "upscaled", "signal": "waveform"}.get(self.kind, "images")

    def to_json(self, **about: Any) -> str:
        """The spec and further facts as the text in a file's metadata."""
        return json.dumps({**about, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> tuple[Spec, dict[str, Any]]:
        """The inverse: spec and facts. Raises ExportError for another text, of wrong types or beyond the bounds."""
        try:
            facts = _SCHEMA(read_json(text), KEY)
            facts.setdefault("kind", "latent")  # files of version 0.1 do not name it
            own: dict[str, Any] = {name: facts.pop(name) for name in cls.__dataclass_fields__ if name in facts}
            own["controls"] = [Control(**control) for control in own.get("controls", ())]
            own |= {name: tuple(value) for name, value in own.items() if isinstance(value, list)}
            spec = cls(**own)
            spec._check()
        except ValueError as error:
            raise ExportError(f"model: its {KEY} metadata cannot be read: {error}") from error
        return spec, facts

    def _check(self) -> None:
        """Raise ValueError for fields that contradict each other."""
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range: expected an ascending one, got {list(self.range)}")
        for name in () if self.sizes else ("latent_shape", "styles") if self.kind == "mapping" else ("latent_shape",):
            shape = getattr(self, name)
            if not 1 <= prod(shape, start=bool(shape)) <= MOST_LATENTS:
                raise ValueError(f"{name}: expected 1 to {MOST_LATENTS:,} numbers, got {list(shape)}")
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"controls: expected names of their own, got {', '.join(self.inputs)}")


#: Numbers in one z.
MOST_LATENTS = 1 << 24


def _unknown(value: Any, where: str) -> Any:
    raise ValueError(f"{where}: not a field of a control")


_CONTROL = table(
    {"name": text(100), "default": number(-1e6, 1e6), "size": whole(0, MOST_LATENTS)},
    required=("name", "default", "size"),
    others=_unknown,
)
_SCHEMA = table(
    {
        "kind": one_of("latent", "mapping", "synthesis", "image", "signal"),
        "latent_shape": list_of(whole(1, MOST_LATENTS), 0, 8),
        "classes": whole(0, 1_000_000),
        "label_vectors": flag,
        "channels": whole(1, 1 << 16),
        "out_channels": whole(0, 1 << 16),
        "scale": whole(1, 1 << 16),
        "multiple": whole(1, 4096),
        "reach": whole(0, 1 << 20),
        "range": list_of(number(-1e6, 1e6), 2, 2),
        "styles": list_of(whole(1, MOST_LATENTS), 0, 8),
        "controls": list_of(_CONTROL, 0, 8),
        "precision": text(100),
    }
)
