"""Batch norm where a batch is spread over several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan.errors import UsageError
from fastgan.train.distributed import World


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Its derivative is the sum of the ranks' derivatives, and so on at every order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        total = x.clone(memory_format=torch.contiguous_format)
        world.sum_(total)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(dy, ctx.world), None


class _Synchronized(_BatchNorm):
    """Batch norm whose mean and variance are those of all ranks' batches, which are of one size.

    What torch's SyncBatchNorm does on GPUs only, and without a second derivative. In eval mode an ordinary batch norm.
    """

    world: World

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        wide = x.double() if x.dtype == torch.float64 else x.float()
        over = [d for d in range(x.dim()) if d != 1]
        # Every rank puts its own moments into its own row, so that one sum is all they say to each other. A sum of
        # squares would do with less, and lose the variance of a channel whose mean is large.
        own, mean = torch.var_mean(wide, over, correction=0)
        row = torch.arange(self.world.size, device=x.device)[:, None, None] == self.world.rank
        rows = _Sum.apply(torch.where(row, torch.stack([own, mean]), 0.0), self.world)  # [ranks, 2, C]
        between, mean = torch.var_mean(rows[:, 1], 0, correction=0)
        var = rows[:, 0].mean(0) + between
        self._follow(mean, var, self.world.size * x.numel() // x.shape[1])
        factor = torch.rsqrt(var + self.eps)
        factor = factor if self.weight is None else factor * self.weight
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = (wide - mean.view(shape)) * factor.view(shape)
        y = y if self.bias is None else y + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics on, as nn.BatchNorm does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), momentum)


class _Synchronized1d(_Synchronized, nn.BatchNorm1d): ...


class _Synchronized2d(_Synchronized, nn.BatchNorm2d): ...


class _Synchronized3d(_Synchronized, nn.BatchNorm3d): ...


_KINDS: dict[type[nn.Module], type[_Synchronized]] = {
    nn.BatchNorm1d: _Synchronized1d,
    nn.BatchNorm2d: _Synchronized2d,
    nn.BatchNorm3d: _Synchronized3d,
}


def synchronize(network: nn.Module, world: World) -> None:
    """Let the batch norms of a network look at all ranks' batches, in place: same parameters, same state dict.

    Raises UsageError for a batch norm of another class than torch's own.
    """
    for name, layer in network.named_modules():
        if type(layer) in _KINDS:
            # The class is replaced, not the layer, so that references to the layer stay valid.
            layer.__class__ = _KINDS[type(layer)]
            layer.world = world
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, _Synchronized | nn.SyncBatchNorm):
            raise UsageError(
                f"sync_statistics: {name or 'the network'} is a {type(layer).__name__}, which only its author can"
                " synchronize; use nn.BatchNorm1d, 2d or 3d"
            )


@contextmanager
def unsynchronized(*networks: nn.Module) -> Iterator[None]:
    """While it lasts, batch norms that were synchronized look at their own rank's batch, and wait for no other."""
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, _Synchronized)]
    worlds = [layer.world for layer in layers]
    for layer in layers:
        layer.world = World()
    try:
        yield
    finally:
        for layer, world in zip(layers, worlds, strict=True):
            layer.world = world


def running_statistics(*networks: nn.Module) -> list[Tensor]:
    """The running means and variances of all batch norms."""
    layers = (layer for network in networks for layer in network.modules() if isinstance(layer, _BatchNorm))
    return [t for layer in layers for t in (layer.running_mean, layer.running_var) if t is not None]
