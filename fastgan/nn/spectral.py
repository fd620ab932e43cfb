"""Spectral normalization (Miyato et al. 2018, arXiv:1802.05957) of one layer, as the layer carries it.

The state dicts are those of PyTorch's two kinds, the parametrization (`SpectralNorm`) and the older hook
(`HookedSpectralNorm`). Read on its own, `layer.weight` is normalized on its own; in a network a group does it for all
layers at once (spectral_group.py) and leaves each weight in its norm's slot.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.utils
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm as TorchParametrization

from fastgan.errors import UsageError
from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.ops import power_iteration, spectral_scale

TorchHook = sys.modules["torch.nn.utils.spectral_norm"].SpectralNorm  # the function of the same name hides the module

EVERY = ("forward", "step")


class Slot:
    """What a group has ready for a norm, and what the norm has taken and not yet written into its buffers."""

    def __init__(self) -> None:
        self.ready: tuple[Tensor, Tensor, Tensor] | None = None  # the normalized weight, u, v
        self.taken: tuple[Tensor, Tensor] | None = None  # u, v
        self.fresh = False  # every="step": iterated since the optimizer's last step

    def __getstate__(self) -> dict[str, bool]:
        # A copy, or a pickle, starts between two runs: what is ready belongs to the original's.
        return {"fresh": self.fresh}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__()  # type: ignore[misc]
        self.fresh = state["fresh"]


@dataclass(frozen=True)
class Options:
    """What all norms of a group agree on. every: "forward" or "step". v_first: the order of the older hook."""

    n_power_iterations: int
    eps: float
    every: str = "forward"
    v_first: bool = False

    def due(self, slots: list[Slot]) -> int:
        """How many iterations these norms need before they are used in training; they then have had them."""
        if self.every == "forward":
            return self.n_power_iterations
        due = 0 if all(slot.fresh for slot in slots) else self.n_power_iterations
        for slot in slots:
            slot.fresh = True
        return due


def normalize(
    names: list[str], weights: list[Tensor], vectors: list[Tensor], dims: list[int], iterations: int, options: Options
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(weight / sigma, u, v) for each. RuntimeError naming the layer whose weight cannot be normalized."""
    if not all(is_plain_tensor(weight) for weight in weights):
        return [
            _plainly(*one, iterations, options) for one in zip(weights, vectors[::2], vectors[1::2], dims, strict=True)
        ]
    uv, sigma = power_iteration(
        weights, torch.cat(vectors), dims, iterations=iterations, v_first=options.v_first, eps=options.eps
    )
    # On a GPU this would wait for the device; there NaN goes on into the loss, and the buffers keep their values too.
    if sigma.device.type == "cpu" and not torch.compiler.is_compiling():
        _check(names, sigma)
    parts = uv.split([len(vector) for vector in vectors])
    return list(zip(spectral_scale(weights, uv, sigma, dims), parts[::2], parts[1::2], strict=True))


def _plainly(
    weight: Tensor, u: Tensor, v: Tensor, dim: int, iterations: int, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch, for what our ops cannot take: the transforms of torch.func, torch.jit.trace."""
    matrix = weight.movedim(dim, 0).flatten(1)
    with torch.no_grad():
        for i in range(2 * iterations):
            if (i % 2 == 0) is options.v_first:
                v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=options.eps)
            else:
                u = F.normalize(torch.mv(matrix, v), dim=0, eps=options.eps)
    return weight / torch.dot(u, torch.mv(matrix, v)), u, v


def _check(names: list[str], sigma: Tensor) -> None:
    good = sigma.isfinite() & (sigma != 0)
    if not good.all():
        bad = [
            f"{name} ({'zero everywhere' if s == 0 else 'NaN, infinity or too large numbers in it'})"
            for name, s, fine in zip(names, sigma.tolist(), good.tolist(), strict=True)
            if not fine
        ]
        raise RuntimeError(
            f"spectral_norm: the weight of {', '.join(bad)} has no spectral norm; "
            "the singular vectors keep their last good values"
        )


class _Norm:
    """What the two kinds of norm share: a weight comes from the slot, or is normalized alone."""

    label: str = "the layer"  # for errors; a group knows better
    dim: int
    options: Options
    slot: Slot
    group: Any = None
    """A group of one, which nothing else would keep alive; larger ones hang on their network."""

    def weight_of(self, weight: Tensor, u: Tensor, v: Tensor, iterate: bool) -> Tensor:
        slot = self.slot
        if slot.ready is not None:
            scaled, *new = slot.ready
            slot.ready, slot.taken = None, (new[0], new[1]) if iterate else None
            return scaled
        if slot.taken is not None:  # read a second time in one run: the buffers must be up to date first
            write([(u, v)], [slot.taken])
            slot.taken = None
        iterations = self.options.due([slot]) if iterate else 0
        ((scaled, *new),) = normalize([self.label], [weight], [u, v], [self.dim], iterations, self.options)
        if iterations:
            write([(u, v)], [(new[0], new[1])])
        return scaled


def write(buffers: list[tuple[Tensor, Tensor]], values: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        torch._foreach_copy_([b for pair in buffers for b in pair], [value for pair in values for value in pair])


class SpectralNorm(_Norm, nn.Module):
    """The parametrization: weight → weight / sigma, with one step of power iteration whenever it is read in training.

    weight: what it will normalize, two dimensions or more. n_power_iterations: per reading. dim: the dimension of the
    outputs. eps: least norm that a vector is divided by. every: "forward", or "step" (see `spectral_norm`).

    Buffers `_u` and `_v` as in torch.nn.utils.parametrizations.spectral_norm, to which it is equal up to rounding.
    """

    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12, every: str = "forward"
    ) -> None:
        super().__init__()
        if n_power_iterations < 1:
            raise UsageError(f"n_power_iterations: expected a whole number >= 1, got {n_power_iterations}")
        if every not in EVERY:
            raise UsageError(f"every: expected one of {', '.join(EVERY)}, got {every!r}")
        self.dim = dim
        self.options = Options(n_power_iterations, eps, every)
        self.slot = Slot()
        rows = weight.shape[dim]
        u = F.normalize(weight.new_empty(rows).normal_(), dim=0, eps=eps)
        v = F.normalize(weight.new_empty(weight.numel() // rows).normal_(), dim=0, eps=eps)
        if weight.device.type != "meta":
            uv, _ = power_iteration([weight], torch.cat([u, v]).detach(), [dim], iterations=15, eps=eps)
            u, v = uv.split([len(u), len(v)])
        self.register_buffer("_u", u.detach().clone())
        self.register_buffer("_v", v.detach().clone())

    @classmethod
    def adopt(cls, norm: TorchParametrization) -> SpectralNorm:
        """Ours in place of torch's, with its very buffers."""
        own = cls.__new__(cls)
        nn.Module.__init__(own)
        own.dim = norm.dim
        own.options = Options(norm.n_power_iterations, norm.eps)
        own.slot = Slot()
        own.register_buffer("_u", norm._u)
        own.register_buffer("_v", norm._v)
        return own.train(norm.training)

    def forward(self, weight: Tensor) -> Tensor:
        """weight / sigma, in the layout that `fastgan.ops.spectral_scale` gives."""
        return self.weight_of(weight, self._u, self._v, self.training)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Assigning to the parametrized weight assigns to the original, as in PyTorch."""
        return value

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.options.n_power_iterations}, every={self.options.every!r}"


class HookedSpectralNorm(_Norm, TorchHook):  # type: ignore[misc, valid-type]
    """In place of the hook of torch.nn.utils.spectral_norm: the same buffers, numbers and order of the iteration."""

    def __init__(self, hook: Any) -> None:
        super().__init__(hook.name, hook.n_power_iterations, hook.dim, hook.eps)
        self.options = Options(hook.n_power_iterations, hook.eps, v_first=True)
        self.slot = Slot()

    def compute_weight(self, module: nn.Module, do_power_iteration: bool) -> Tensor:
        """What the hook sets as `weight` before the layer runs."""
        weight, u, v = (getattr(module, self.name + suffix) for suffix in ("_orig", "_u", "_v"))
        return self.weight_of(weight, u, v, do_power_iteration)
