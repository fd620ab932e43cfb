"""The sets of images that a configuration names, as its task takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastgan._util.keyword_options import option_value
from fastgan.data.imageset import ImageSet
from fastgan.data.joined import JoinedStream, PartnerStream
from fastgan.data.kinds import KINDS, open_sets
from fastgan.data.stream import BatchStream, identity, labels_of
from fastgan.errors import UsageError
from fastgan.models import registry as models
from fastgan.tasks.registry import task_class
from fastgan.train.distributed import World

if TYPE_CHECKING:
    from fastgan.train.config import Config

Stream = BatchStream | JoinedStream | PartnerStream


@dataclass(frozen=True)
class Sources:
    """Sets of images by the name of their entry in a batch.

    real: the name of the set that counts as the real images. side: of what the networks see, where that is cropped.
    labels: whether labels come with the batches. aligned: whether images of the same number belong together. partners:
    whether each image comes with another one of its class.
    """

    sets: dict[str, ImageSet]
    real: str
    side: int | None
    labels: bool
    aligned: bool
    partners: bool

    @property
    def images(self) -> ImageSet:
        """The real images."""
        return self.sets[self.real]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the real images as the networks see them."""
        height, width = self.images.resolution
        return self.images.channels, self.side or height, self.side or width

    @property
    def name(self) -> str:
        """The names of all sets."""
        return " and ".join(dict.fromkeys(images.name for images in self.sets.values()))

    def stream(self, config: Config, device: torch.device, world: World) -> Stream:
        """Batches of the sets."""
        data = config.data
        where: Any = {"rank": world.rank, "world": world.size, "held_out": data.held_out}
        if self.partners:
            return PartnerStream(self.images, data.batch, config.seed, device, **where)
        if list(self.sets) == ["real"]:
            return BatchStream(self.images, data.batch, config.seed, device, labels=self.labels, **where)
        return JoinedStream(self.sets, data.batch, config.seed, device, aligned=self.aligned, **where)

    def facts(self) -> dict[str, Any]:
        """What `config.json` says of them; by their fingerprints a resumed run knows them again."""
        found: dict[str, Any] = {
            "name": self.name, "count": len(self.images), "shape": list(self.shape), "license": self.images.license,
            "range_real": [-1.0, 1.0], **identity(self.images, self.labels),
        }  # fmt: skip
        if len(self.sets) > 1:
            found["sets"] = {
                name: {"name": images.name, "count": len(images), "license": images.license, **identity(images, False)}
                for name, images in self.sets.items()
            }
        if self.labels and self.images.class_names is not None:
            found["class_names"] = list(self.images.class_names)
        return found

    def check_same(self, before: Mapping[str, Any], run: object) -> None:
        """Raise UsageError where these are other images than those of a run. before: what its `config.json` says."""
        stored = before.get("sets", {})
        for name, images in self.sets.items():
            facts = stored.get(name, before if name == self.real else {})
            for part, value in identity(images, self.labels and name == self.real).items():
                if facts.get(part, value) != value:
                    what = "images" if part == "fingerprint" else "labels"
                    raise UsageError(
                        f"data: {images.name} has other {what} than those of {run} ({facts.get('name')});"
                        " a resumed run needs the same ones, in the same order"
                    )


def open_data(config: Config, class_names: Sequence[str] | None = None) -> tuple[Sources, Config]:
    """The images that a configuration names, and the configuration with the numbers that follow from them.

    These are the classes, and the channels of source images in families that have the option `source_channels`.
    class_names: the order of the classes in a run that is resumed; another version may have numbered them otherwise.
    """
    task, data = task_class(config.task.name or "generation"), config.data
    sets = open_sets(task.data, data.source, data.resolution, data.channels, data.options)
    real = task.real if task.real in sets else next(iter(sets))
    side = option_value(task, config.task.options, "crop") or None
    if class_names is not None:
        sets[real] = sets[real].with_classes(class_names)
    if config.model.condition != "none":
        config = _with_classes(sets[real], config)
    elif task.labeled:
        labels_of(sets[real])
    labels = task.labeled or config.model.condition != "none"
    if "source_channels" in models.option_types(config.model.family):
        source = next((images for name, images in sets.items() if name != real), sets[real])
        options = {"source_channels": source.channels} | config.model.options
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, options=options))
    kind = KINDS[task.data]
    return Sources(sets, real, side, labels, kind.aligned, kind.partners), config


def _with_classes(images: ImageSet, config: Config) -> Config:
    labels = labels_of(images)
    model = dataclasses.replace(config.model, classes=config.model.classes or images.num_classes)
    if labels.max() >= (model.classes or 0):
        raise UsageError(
            f"classes: expected a number above the labels of {images.name}, which go up to {labels.max()}, got"
            f" {model.classes}"
        )
    return dataclasses.replace(config, model=model)
