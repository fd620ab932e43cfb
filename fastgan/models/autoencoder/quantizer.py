"""Vector quantization (van den Oord et al. 2017, arXiv:1711.00937): a codebook learned by gradients or by averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError

CODEBOOKS = ("gradient", "average")
#: Added to the shares of codes, so that one that is never used is not divided by zero.
EPSILON = 1e-5
#: By how much both halves of a split code move apart: their vector is multiplied by 1 ± SPLIT.
SPLIT = 0.01


class Quantized(NamedTuple):
    """vectors: the nearest codes, [N, D, h, w], with the gradient of what was quantized. loss: a scalar. indices: of
    the codes, int64 [N, h, w]. log: scalars. outputs: what `VectorQuantizer.after_update` takes."""

    vectors: Tensor
    loss: Tensor
    indices: Tensor
    log: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Codes(nn.Module):
    """The codebook: weight [codes, D]. cluster_size [codes], embed_avg [codes, D]: averages over time of how large a
    share of all vectors a code is nearest to, and of their sum, where they are learned so."""

    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(self, codes: int, size: int, averaged: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codes, size).uniform_(-1 / codes, 1 / codes))
        if averaged:
            self.weight.requires_grad_(False)
            self.register_buffer("cluster_size", torch.full((codes,), 1 / codes))
            self.register_buffer("embed_avg", self.weight.detach() / codes)


class VectorQuantizer(nn.Module):
    """Replaces each vector of [N, D, h, w] by the nearest of `codes` codes.

    codebook: "gradient", E |sg[z] − e|² + beta · E |z − sg[e]|², whose first term moves the codes (equation 3); or
    "average", in which codes are moving averages of the vectors that they are nearest to (appendix A.1), with `decay`,
    and only the second term is a loss. restart: with averages, codes that are used less than this part of an equal
    share are put beside the most used ones, whose shares both halve (the splitting of Linde, Buzo and Gray 1980); 0
    leaves them. Distances are computed in float32 (float64 for double).
    """

    def __init__(
        self,
        codes: int,
        size: int,
        beta: float = 0.25,
        codebook: str = "gradient",
        decay: float = 0.99,
        restart: float = 0.0,
    ):
        super().__init__()
        if codes < 2:
            raise UsageError(f"codes: expected a number >= 2, got {codes}")
        if codebook not in CODEBOOKS:
            raise UsageError(f"codebook: expected one of {', '.join(CODEBOOKS)}, got {codebook!r}")
        if not 0 <= decay < 1:
            raise UsageError(f"decay: expected a number from 0 to below 1, got {decay}")
        if not 0 <= restart < 1 or (restart and codebook != "average"):
            raise UsageError(f"restart: expected a part from 0 to below 1 with codebook average, got {restart}")
        if beta < 0:
            raise UsageError(f"beta: expected a number >= 0, got {beta}")
        self.codes, self.beta, self.codebook, self.decay, self.restart = codes, beta, codebook, decay, restart
        self.embedding = Codes(codes, size, codebook == "average")

    def nearest(self, z: Tensor) -> Tensor:
        """The numbers of the codes nearest to the vectors of z [N, D, h, w]: int64 [N, h, w]."""
        z = z.detach() if z.dtype == torch.float64 else z.detach().float()
        flat, codes = z.movedim(1, -1).flatten(0, -2), self.embedding.weight.detach().to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            distances = codes.square().sum(1) - 2 * flat @ codes.T  # |z|² is the same for all codes
        return distances.argmin(1).view(z.shape[0], *z.shape[2:])  # len() would fix the batch in exports

    def vectors(self, indices: Tensor) -> Tensor:
        """The codes of numbers int64 [N, h, w]: [N, D, h, w]."""
        return F.embedding(indices, self.embedding.weight).movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantized:
        z = z if z.dtype == torch.float64 else z.float()
        indices = self.nearest(z)
        codes = self.vectors(indices).to(z.dtype)
        loss = self.beta * (z - codes.detach()).square().mean()
        averaged = self.codebook == "average"
        if not averaged:
            loss = loss + (z.detach() - codes).square().mean()
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            hot = torch.zeros(indices.numel(), self.codes, device=z.device, dtype=z.dtype)
            hot = hot.scatter_(1, indices.view(-1, 1), 1.0)
            shares = hot.mean(0)
            log = {
                "codebook/usage": (shares > 0).to(z.dtype).mean(),
                "codebook/perplexity": (-torch.xlogy(shares, shares).sum()).exp(),
            }
            outputs = {"shares": shares, "sums": hot.T @ z.movedim(1, -1).flatten(0, -2) / len(hot)} if averaged else {}
        return Quantized(z + (codes - z).detach(), loss, indices, log, outputs)

    @torch.no_grad()
    def after_update(self, outputs: Mapping[str, Tensor]) -> None:
        """Move the codes toward the means of their vectors. outputs: of `forward`, averaged over batches and ranks.

        What is not finite belongs to an update that is skipped, and moves nothing.
        """
        if self.codebook != "average":
            return
        book, found = self.embedding, outputs["sums"].isfinite().all()
        shares = torch.lerp(outputs["shares"].to(book.cluster_size), book.cluster_size, self.decay)
        sums = torch.lerp(outputs["sums"].to(book.embed_avg), book.embed_avg, self.decay)
        if self.restart:
            shares, sums = self._split(shares, sums)
        # Laplace smoothing, as in the appendix.
        smoothed = (shares + EPSILON / self.codes) / (shares.sum() + EPSILON) * shares.sum()
        for old, new in ((book.cluster_size, shares), (book.embed_avg, sums), (book.weight, sums / smoothed[:, None])):
            old.copy_(torch.where(found, new, old))

    def _split(self, shares: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The i-th least used code takes half of the i-th most used one, where it is used too little."""
        order, half = shares.argsort(descending=True, stable=True), self.codes // 2
        most, least = order[:half], order.flip(0)[:half]
        dead = shares[least] < self.restart / self.codes
        moved = shares[most] / 2, sums[most] / 2
        shares, sums = shares.clone(), sums.clone()
        sums[least] = torch.where(dead[:, None], moved[1] * (1 + SPLIT), sums[least])
        sums[most] = torch.where(dead[:, None], moved[1] * (1 - SPLIT), sums[most])
        shares[least] = torch.where(dead, moved[0], shares[least])
        shares[most] = torch.where(dead, moved[0], shares[most])
        return shares, sums
