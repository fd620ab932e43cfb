"""Networks whose labels are mean features of each class's images: these are computed once, before the first step."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fastgan.data.imageset import ImageSet
from fastgan.models.class_embedding import ClassEmbedding, class_features
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Images of each class that are averaged at most.
PER_CLASS = 64


def set_class_embeddings(state: TrainState, reference: ImageSet | None) -> None:
    """Fill the class embeddings that are not trained, of all networks, from the first images of each class.

    Without labeled reference images they keep their random values, which is logged.
    """
    found = [e for network in state.networks.values() for e in _given(network)]
    backbones = getattr(state.task.discriminator, "backbones", None)
    if not found or not isinstance(backbones, nn.ModuleList):
        return
    if reference is None or reference.labels is None:
        _logger.warning(
            "class embeddings are random: those of pretrained features need fit(reference=...) with labeled images"
        )
        return
    classes, side = found[0].classes, int(state.task.discriminator.side)  # type: ignore[arg-type]
    chosen = np.concatenate([np.flatnonzero(reference.labels == label)[:PER_CLASS] for label in range(classes)])
    images = torch.from_numpy(np.ascontiguousarray(reference.images[np.sort(chosen)])).to(state.device)
    labels = torch.from_numpy(reference.labels[np.sort(chosen)]).to(state.device)
    images = F.interpolate(images.float() / 127.5 - 1, (side, side), mode="bilinear", align_corners=False)
    features = class_features(backbones[0], images, labels, classes)  # type: ignore[arg-type]
    for embedding in found:
        assert embedding.given is not None
        embedding.given.copy_(features)
    _logger.info("class embeddings: mean features of %d images of %d classes", len(images), classes)


def _given(network: nn.Module) -> list[ClassEmbedding]:
    return [m for m in network.modules() if isinstance(m, ClassEmbedding) and m.given is not None]
