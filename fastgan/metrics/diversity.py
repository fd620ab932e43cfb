"""How different two samples are on average, seen at several depths of an extractor, as LPIPS sees (Zhang et al. 2018,
arXiv:1801.03924) but without its learnt weights: figures of another network or of LPIPS itself do not compare."""

from __future__ import annotations

import numpy as np
import torch

from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor
from fastgan.metrics.kid import Estimate


def pair_diversity(extractor: Extractor, images: np.ndarray, *, pairs: int = 1000, seed: int = 0) -> Estimate:
    """Mean distance of random pairs of uint8 images [N, C, H, W], N at least 4; no image is in two pairs.

    The distance of a pair: activations of each depth are scaled to unit length in every place; squared differences are
    summed over channels, averaged over places and summed over depths.
    """
    if len(images) < 4:
        raise UsageError(f"images: expected at least 4 for pairs, got {len(images)}")
    order = np.random.default_rng(seed).permutation(len(images))
    pairs = min(pairs, len(images) // 2)
    first, second = np.sort(order[:pairs]), order[pairs : 2 * pairs]
    found = []
    for one, other in zip(extractor.taps(images[first]), extractor.taps(images[second]), strict=True):
        distance = torch.zeros(len(one[0]), device=one[0].device)
        for a, b in zip(one, other, strict=True):
            a, b = (t / t.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10) for t in (a, b))
            distance += (a - b).square().sum(1).mean((1, 2))
        found.append(distance.cpu())
    all_pairs = torch.cat(found).double()
    return Estimate(float(all_pairs.mean()), float(all_pairs.std() / pairs**0.5))
