"""The inputs and outputs of a generator: read from the network, stored in exported files. No torch."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from fastgan._util.schema import list_of, number, one_of, read_json, table, text, whole
from fastgan.errors import ExportError, UsageError

#: The key in the metadata of an exported file.
KEY = "fastgan"
#: The inputs of a model in order: images, latents, or latents and labels.
Inputs = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Spec:
    """A generator from latents, or from images to images.

    kind "latent": z float32 [N, *latent_shape], and with classes y int64 [N] from 0 to classes − 1, → images float32
    [N, C, H, W] in `range`.
    kind "image": images float32 [N, channels, H, W] → [N, channels, scale·H, scale·W], both in `range`; H and W are
    multiples of `multiple`; an output pixel depends on input pixels at most `reach` away (0: not known).
    """

    kind: Literal["latent", "image"]
    latent_shape: tuple[int, ...] = ()
    classes: int = 0
    channels: int = 3
    scale: int = 1
    multiple: int = 1
    reach: int = 0
    range: tuple[float, float] = (-1.0, 1.0)

    @classmethod
    def of(cls, network: Any, latent_shape: tuple[int, ...] | None = None) -> Spec:
        """The spec of a network, from its attributes.

        Image-to-image networks have the attributes `scale` and `channels`, and may have `multiple`, `reach` and `range`
        ([0, 1] without it); generators from latents have `latent`, or latent_shape is given, and may have `range`
        ([-1, 1] without it) and, where they are called as network(z, y), the number of `classes`. Raises UsageError for
        a network with neither.
        """
        if latent_shape is None and hasattr(network, "scale") and hasattr(network, "channels"):
            low, high = getattr(network, "range", (0.0, 1.0))
            return cls(
                "image",
                channels=int(network.channels),
                scale=int(network.scale),
                multiple=int(getattr(network, "multiple", 1)),
                reach=int(getattr(network, "reach", 0)),
                range=(float(low), float(high)),
            )
        if latent_shape is None and hasattr(network, "latent"):
            latent_shape = (int(network.latent),)
        if latent_shape is None:
            raise UsageError(
                "network: expected one with the attribute `latent`, or `scale` and `channels`, or a given latent_shape,"
                f" got {type(network).__name__} with none of them"
            )
        low, high = getattr(network, "range", (-1.0, 1.0))
        classes = getattr(network, "classes", 0)
        if not hasattr(classes, "__index__") or (classes := operator.index(classes)) < 0:
            raise UsageError(f"network: expected a whole number >= 0 as its attribute `classes`, got {classes!r}")
        return cls("latent", tuple(int(n) for n in latent_shape), classes, range=(float(low), float(high)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of an exported file's inputs, in order."""
        return ("images",) if self.kind == "image" else ("z", "y") if self.classes else ("z",)

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
        if self.kind == "latent" and not 1 <= prod(self.latent_shape, start=bool(self.latent_shape)) <= MOST_LATENTS:
            raise ValueError(f"latent_shape: expected 1 to {MOST_LATENTS:,} numbers, got {list(self.latent_shape)}")


#: Numbers in one z.
MOST_LATENTS = 1 << 24
_SCHEMA = table(
    {
        "kind": one_of("latent", "image"),
        "latent_shape": list_of(whole(1, MOST_LATENTS), 0, 8),
        "classes": whole(0, 1_000_000),
        "channels": whole(1, 1024),
        "scale": whole(1, 64),
        "multiple": whole(1, 4096),
        "reach": whole(0, 1 << 20),
        "range": list_of(number(-1e6, 1e6), 2, 2),
        "precision": text(100),
    }
)
