"""Spectral normalization (Miyato et al. 2018, arXiv:1802.05957) of one layer.

The state dicts are those of PyTorch's two implementations, the parametrization (`SpectralNorm`) and the older hook
(`HookedSpectralNorm`). Reading `layer.weight` of a single layer normalizes it alone. When a network runs, a group
normalizes all its layers at once (spectral_group.py) and stores each weight in its norm's slot.
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
from fastgan.ops import power_iteration, spectral_normalize

TorchHook = sys.modules["torch.nn.utils.spectral_norm"].SpectralNorm  # the function of the same name hides the module

EVERY = ("forward", "step")


class Slot:
    """The values that a group has computed for a norm, and those that were used but not yet written to the buffers."""

    def __init__(self) -> None:
        self.computed: tuple[Tensor, Tensor, Tensor] | None = None  # the normalized weight, u, v
        self.pending: tuple[Tensor, Tensor] | None = None  # u, v
        self.fresh = False  # every="step": iterated since the optimizer's last step

    def __getstate__(self) -> dict[str, bool]:
        # Computed values belong to the current run of the original, not to a copy or pickle.
        return {"fresh": self.fresh}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__()  # type: ignore[misc]
        self.fresh = state["fresh"]


@dataclass(frozen=True)
class Options:
    """Options that all norms of a group share. every: "forward" or "step". v_first: the order of the older hook."""

    n_power_iterations: int
    eps: float
    every: str = "forward"
    v_first: bool = False

    def due(self, slots: list[Slot]) -> int:
        """The number of iterations that these norms need before the next use in training. Marks them as iterated."""
        if self.every == "forward":
            return self.n_power_iterations
        due = 0 if all(slot.fresh for slot in slots) else self.n_power_iterations
        for slot in slots:
            slot.fresh = True
        return due


def normalize(
    names: list[str], weights: list[Tensor], vectors: list[Tensor], dims: list[int], iterations: int, options: Options
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(weight / sigma, u, v) for each. Raises RuntimeError naming a layer whose weight is not finite."""
    if not all(is_plain_tensor(weight) for weight in weights):
        return [
            _normalize_plain(*one, iterations, options)
            for one in zip(weights, vectors[::2], vectors[1::2], dims, strict=True)
        ]
    scaled, uv, sigma = spectral_normalize(
        weights, torch.cat(vectors), dims, iterations=iterations, v_first=options.v_first, eps=options.eps
    )
    # On a GPU this would wait for the device: there the loss becomes NaN, and the buffers keep their values too.
    if sigma.device.type == "cpu" and type(sigma) is Tensor and not torch.compiler.is_compiling():  # not a fake one
        _check(names, sigma)
    parts = uv.split([len(vector) for vector in vectors])
    return list(zip(scaled, parts[::2], parts[1::2], strict=True))


def _normalize_plain(
    weight: Tensor, u: Tensor, v: Tensor, dim: int, iterations: int, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalize` of one weight in plain PyTorch, under transforms of torch.func and torch.jit.trace."""
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
    """Base of both kinds of norm: the weight comes from the slot, or is normalized alone."""

    label: str = "the layer"  # for errors; a group sets the layer's name
    dim: int
    options: Options
    slot: Slot
    group: Any = None
    """A group of one member, which has no other reference; the hooks of a network refer to larger ones."""

    @property
    def capturable(self) -> bool:
        """Whether it does the same in each replay of a CUDA graph: not if it iterates once a step, as Python counts."""
        return self.options.every == "forward"

    def weight_of(self, weight: Tensor, u: Tensor, v: Tensor, iterate: bool) -> Tensor:
        slot = self.slot
        if slot.computed is not None:
            scaled, *new = slot.computed
            slot.computed, slot.pending = None, (new[0], new[1]) if iterate else None
            return scaled
        if slot.pending is not None:  # a second read in one run: the buffers must be updated first
            write([(u, v)], [slot.pending])
            slot.pending = None
        iterations = self.options.due([slot]) if iterate else 0
        ((scaled, *new),) = normalize([self.label], [weight], [u, v], [self.dim], iterations, self.options)
        if iterations:
            write([(u, v)], [(new[0], new[1])])
        return scaled


def write(buffers: list[tuple[Tensor, Tensor]], values: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        torch._foreach_copy_([b for pair in buffers for b in pair], [value for pair in values for value in pair])


class SpectralNorm(_Norm, nn.Module):
    """The parametrization: weight → weight / sigma, with power iteration whenever it is read in training mode.

    weight: the weight to normalize, of two or more dimensions. n_power_iterations: per read. dim: the dimension of the
    outputs. eps: the least norm that a vector is divided by. every: "forward", or "step" (see `spectral_norm`).

    Equal to torch.nn.utils.parametrizations.spectral_norm up to rounding, with the same buffers `_u` and `_v`.
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
        """fastgan's norm in place of PyTorch's, with the same buffer tensors."""
        own = cls.__new__(cls)
        nn.Module.__init__(own)
        own.dim = norm.dim
        own.options = Options(norm.n_power_iterations, norm.eps)
        own.slot = Slot()
        own.register_buffer("_u", norm._u)
        own.register_buffer("_v", norm._v)
        return own.train(norm.training)

    def forward(self, weight: Tensor) -> Tensor:
        """weight / sigma, in the layout that `fastgan.ops.spectral_normalize` gives."""
        return self.weight_of(weight, self._u, self._v, self.training)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Assigning to the parametrized weight assigns to the original, as in PyTorch."""
        return value

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.options.n_power_iterations}, every={self.options.every!r}"


class HookedSpectralNorm(_Norm, TorchHook):  # type: ignore[misc, valid-type]
    """Replaces the hook of torch.nn.utils.spectral_norm, with the same buffers, numbers and order of the iteration."""

    def __init__(self, hook: Any) -> None:
        super().__init__(hook.name, hook.n_power_iterations, hook.dim, hook.eps)
        self.options = Options(hook.n_power_iterations, hook.eps, v_first=True)
        self.slot = Slot()

    def compute_weight(self, module: nn.Module, do_power_iteration: bool) -> Tensor:
        """The normalized weight, which the hook sets as `weight` before the layer runs."""
        weight, u, v = (getattr(module, self.name + suffix) for suffix in ("_orig", "_u", "_v"))
        return self.weight_of(weight, u, v, do_power_iteration)
