"""Scores of generated images without real ones: the inception score and the mean distance of random pairs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.features import Extractor, checked
from fastgan.metrics.kid import Estimate


def inception_score(logits: Tensor | np.ndarray, *, splits: int = 10, seed: int = 0) -> Estimate:
    """The inception score (Salimans et al. 2016, arXiv:1606.03498) of logits [N, classes] and its standard error.

    exp of the mean KL(p(class | image) ‖ p(class)), from 1 to the number of classes: high if every image is classified
    with confidence and all classes occur equally often. The mean over `splits` equal parts of the shuffled samples.
    Papers report the standard deviation of the parts, which is √splits times the error returned here. Raises UsageError
    for fewer than 2 samples a part.
    """
    x = checked(logits, "logits")
    if splits < 2 or len(x) < 2 * splits:
        raise UsageError(f"splits: expected from 2 to {len(x) // 2} for {len(x)} samples, got {splits}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))).to(x.device)
    log_p = x.double().log_softmax(1)[order]
    scores = []
    for part in log_p.tensor_split(splits):
        log_marginal = part.logsumexp(0) - np.log(len(part))
        scores.append((part.exp() * (part - log_marginal)).sum(1).mean().exp())
    found = torch.stack(scores)
    return Estimate(float(found.mean()), float(found.std() / splits**0.5))


def pair_diversity(extractor: Extractor, images: np.ndarray, *, pairs: int = 1000, seed: int = 0) -> Estimate:
    """Mean distance of random pairs of uint8 images [N, C, H, W], N at least 4, and its standard error.

    The distance is computed as LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its trained weights: activations at
    several depths of the extractor are normalized to unit length at each pixel; squared differences are summed over
    channels, averaged over pixels and summed over depths. Values of different extractors, or of LPIPS, cannot be
    compared. No image is in two pairs. Raises UsageError for fewer than 4 images.
    """
    if len(images) < 4:
        raise UsageError(f"images: expected at least 4 for pairs, got {len(images)}")
    order = np.random.default_rng(seed).permutation(len(images))
    pairs = min(pairs, len(images) // 2)
    first, second = np.sort(order[:pairs]), order[pairs : 2 * pairs]
    found = []
    for one, other in zip(extractor.activations(images[first]), extractor.activations(images[second]), strict=True):
        distance = torch.zeros(len(one[0]), device=one[0].device)
        for a, b in zip(one, other, strict=True):
            a, b = (t / t.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10) for t in (a, b))
            distance += (a - b).square().sum(1).mean((1, 2))
        found.append(distance.cpu())
    all_pairs = torch.cat(found).double()
    return Estimate(float(all_pairs.mean()), float(all_pairs.std() / pairs**0.5))
