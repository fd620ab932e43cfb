"""Classifiers on a fixed budget of optimizer steps, with batches in which all classes are equally likely."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data.stream import normalize
from fastgan.metrics.classifier import Classifier

#: Largest shift of classical augmentation, as a fraction of the side.
SHIFT = 1 / 8
_RATE, _BATCH = 5e-3, 500


class _Quarters(nn.Module):
    """AdaptiveAvgPool2d(2), whose gradient on a GPU adds in an order that changes from call to call."""

    def forward(self, x: Tensor) -> Tensor:
        (height, width), rows = x.shape[2:], []
        for part in (x[:, :, : -(-height // 2)], x[:, :, height // 2 :]):
            rows.append([half.mean((2, 3)) for half in (part[..., : -(-width // 2)], part[..., width // 2 :])])
        return torch.stack([torch.stack(row, 2) for row in rows], 2)


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | None = None,
    shifts: bool = False,
    flips: bool = False,
    width: int = 16,
) -> Classifier:
    """A classifier in eval mode on `device` (None: the CPU), trained with Adam and a one-cycle schedule.

    images: uint8 [N, C, H, W]. labels: int64 [N], with at least one image of each class. Every image of a batch is of a
    class that is drawn uniformly, so that rare classes count as much as others. shifts: by up to an eighth of the side,
    the border mirrored. flips: left to right, of half of the images.

    Weights, batches, shifts and flips depend on the seed alone. PyTorch's global random numbers are not changed.
    """
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.shape[1], classes, width)
    for i, layer in enumerate(network.layers):
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            network.layers[i] = _Quarters()
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    random = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(np.array(images)).to(device)
    sorted_by_class = torch.from_numpy(labels.argsort(kind="stable"))
    counts = torch.from_numpy(np.bincount(labels, minlength=classes))
    starts = counts.cumsum(0) - counts
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(2, steps))
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for _ in range(steps):
            # All are drawn in any case, so that classifiers of one seed see the same classes in the same order.
            of = torch.randint(classes, (batch,), generator=random)
            which, moves, mirror = torch.rand(3, 2, batch, generator=random)
            rows = sorted_by_class[starts[of] + (which[0] * counts[of]).long()].to(device)
            x = normalize(pixels[rows])
            if shifts:
                x = shifted(x, moves.to(device))
            if flips:
                x = torch.where((mirror[0] < 0.5).to(device)[:, None, None, None], x.flip(3), x)
            optimizer.zero_grad()
            x = x.contiguous(memory_format=torch.channels_last)
            F.cross_entropy(network(x), of.to(device)).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def shifted(x: Tensor, u: Tensor) -> Tensor:
    """Images [N, C, H, W], each moved by up to SHIFT of its sides, the border mirrored. u: in [0, 1), [2, N]."""
    n, channels, height, width = x.shape
    most = int(height * SHIFT), int(width * SHIFT)
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), mode="reflect")
    (top, left) = ((u[i] * (2 * most[i] + 1)).long()[:, None] for i in range(2))
    rows, columns = top + torch.arange(height, device=x.device), left + torch.arange(width, device=x.device)
    images, planes = torch.arange(n, device=x.device), torch.arange(channels, device=x.device)
    return padded[
        images[:, None, None, None], planes[None, :, None, None], rows[:, None, :, None], columns[:, None, None]
    ]


@torch.no_grad()
def features(network: Classifier, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """What goes into the last layer, float32 [N, F], and class probabilities [N, classes], of uint8 [N, C, H, W]."""
    device = next(network.parameters()).device
    found = []
    for part in torch.from_numpy(np.array(images)).split(_BATCH):
        x = network.layers[:-1](normalize(part.to(device)))
        found.append((x, network.layers[-1](x).softmax(1)))
    vectors, probabilities = zip(*found, strict=True)
    return torch.cat(vectors), torch.cat(probabilities)


def accuracy(network: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the fraction of images of the class that are classified correctly."""
    right = features(network, images)[1].argmax(1).cpu().numpy() == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
