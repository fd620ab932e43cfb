"""Inception score: does each image belong clearly to a class, and do the images fill all classes (Salimans et al. 2016,
arXiv:1606.03498)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.metrics.features import checked
from fastgan.metrics.kid import Estimate


def inception_score(logits: Tensor | np.ndarray, *, splits: int = 10, seed: int = 0) -> Estimate:
    """exp of the mean KL(p(class | image) ‖ p(class)) for logits [N, classes]: 1 to the number of classes.

    The mean over `splits` equal parts of the shuffled samples, and its standard error: papers state the spread of the
    parts, which is √splits of it. Raises UsageError for fewer than 2 samples a part.
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
