"""Labels as vectors: a trained embedding, or the mean features of each class's images, which are not trained.

The latter are StyleGAN-XL's (Sauer et al. 2022, arXiv:2202.00273, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.models.backbones import FrozenBackbone
from fastgan.models.labels import one_hot


class ClassEmbedding(nn.Module):
    """Labels c, int64 [N] or rows [N, classes], → [N, features].

    given: [classes, features], kept as they are in a buffer; None for an embedding that is trained.
    """

    given: Tensor | None

    def __init__(self, classes: int, given: Tensor | None = None, features: int = 64):
        super().__init__()
        self.classes = classes
        self.trained = nn.Parameter(torch.randn(classes, features)) if given is None else None
        self.register_buffer("given", given)
        self.features = features if given is None else given.shape[1]

    def forward(self, c: Tensor | None, like: Tensor) -> Tensor:
        """like: of the result's dtype. Raises UsageError for other labels."""
        table = self.given if self.trained is None else self.trained
        assert table is not None
        if c is not None and c.is_floating_point() and c.dim() == 2 and c.shape[1] == self.classes:
            rows = c.to(like.dtype)
        else:
            rows = one_hot(c, self.classes, like, "c")
        return rows @ table.to(like.dtype)


@torch.no_grad()
def class_features(backbone: FrozenBackbone, images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean of the last feature map over pixels and images of each class, float32 [classes, channels].

    images: float [N, 1 or 3, H, W] in [-1, 1] with labels int64 [N]. The rows are centered and have the mean square 1
    together, so that they differ by what distinguishes the classes; a class without images has zeros.
    """
    sums = images.new_zeros(classes, backbone.channels[-1], dtype=torch.float64)
    for part, own in zip(images.split(32), labels.split(32), strict=True):
        sums.index_add_(0, own, backbone(part)[-1].mean((2, 3)).double())
    counts = torch.bincount(labels, minlength=classes).view(-1, 1)
    means = sums / counts.clamp(min=1)
    seen = counts > 0
    if int(seen.sum()) > 1:
        means = (means - sums.sum(0) / counts.sum().clamp(min=1)) * seen
    return (means / means[seen[:, 0]].square().mean().sqrt().clamp(min=1e-8)).float()
