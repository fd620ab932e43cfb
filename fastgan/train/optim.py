"""Optimizers, and the update of a network: gradients are summed, averaged over ranks, checked, clipped and applied.

Nothing waits for the device: whether an update is finite is a tensor there, and the optimizers read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.ops.adam_ema import Checked, adam_ema, check_gradients
from fastgan.regularization.average import HistoricalAverage
from fastgan.tasks.base import Noise, trainable
from fastgan.train.config import OptimConfig
from fastgan.train.distributed import World
from fastgan.train.step import Gradients

#: Consecutive finite updates after which the fp16 loss scale doubles.
GROWTH_INTERVAL = 2000
FIRST_SCALE = 2.0**14


def optimizer_of(config: OptimConfig, weights: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimizer that a settled configuration names."""
    if config.optimizer == "rmsprop":
        return RMSprop(weights, lr)
    assert config.beta1 is not None
    assert config.beta2 is not None
    return Adam(weights, lr, (config.beta1, config.beta2))


class Update:
    """From the gradients of one network to its weights.

    optimizer: Adam of this module, or one that obeys `grad_scale` and `found_inf` as PyTorch's fused ones do. clip:
    largest L2 norm of the whole gradient, 0 for none. weight_clip: largest absolute value of a weight, 0 for none
    (Arjovsky et al. 2017, algorithm 1). historical: weight of historical averaging, 0 for none. fp16: whether losses
    are scaled, by `scale`, which halves when gradients overflow and doubles after GROWTH_INTERVAL good updates. An
    update with a loss or gradient that is not finite is skipped; `skipped` counts those, `in_a_row` the last ones
    without a good one between (on the device).
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        clip: float,
        fp16: bool,
        weight_clip: float = 0.0,
        historical: float = 0.0,
    ):
        self.optimizer = optimizer
        self._network, self._world, self._clip, self._weight_clip = network, world, clip, weight_clip
        self._weights = trainable(network)
        self.names = [name for name, weight in network.named_parameters() if weight.requires_grad]
        #: Of the last update that was watched, for each weight: the norms of gradient, weight and change, [3, weights].
        self.watched: Tensor | None = None
        #: The ids of the weights whose averages the last update moved.
        self.averaged: frozenset[int] = frozenset()
        self._average = HistoricalAverage(historical, self._weights) if historical > 0 else None
        device = self._weights[0].device
        self.scale = torch.tensor(FIRST_SCALE, device=device) if fp16 else None
        self._growth = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), device=device)
        self._sum: list[Tensor | None] = []
        self._losses: list[Tensor] = []

    def drop(self) -> None:
        """Drop the gradients of an interrupted update."""
        self._sum, self._losses = [], []

    def reset(self) -> None:
        """Begin a run. Raises UsageError where weights were frozen since the trainer was made."""
        self.drop()
        if list(map(id, trainable(self._network))) != list(map(id, self._weights)):
            raise UsageError(
                f"network: the weights of {type(self._network).__name__} that require a gradient are others than when"
                " its Trainer was made; freeze weights before that"
            )

    def scaled(self, noise: Noise) -> Noise:
        """The noise of a step with the loss scale, in fp16."""
        return noise if self.scale is None else noise | {"loss_scale": self.scale}

    def add(self, loss: Tensor, gradients: Gradients) -> None:
        """One batch's gradients; those of several batches are averaged."""
        # The optimizer's divisor gets its type, and the fused kernels want float32.
        self._losses.append(loss.float())
        if not self._sum:
            self._sum = list(gradients)
            return
        for i, (old, new) in enumerate(zip(self._sum, gradients, strict=True)):
            if old is not None and new is not None:
                self._sum[i] = old + new  # not in place: a compiled step may own its outputs
            elif old is None:
                self._sum[i] = new

    @torch.no_grad()
    def apply(
        self, watch: bool = False, averages: Mapping[int, Tensor] | None = None, ema_weight: float | Tensor = 0.0
    ) -> Tensor:
        """Change the weights. Returns the gradient's L2 norm before clipping, a scalar.

        watch: fill `watched`. averages: of weights, by the weight's id. Those that can be moved toward the new weights
        in the same pass are moved by ema_weight, a number or a scalar on the device, and listed in `averaged`.
        """
        if self._average is not None:
            # Like the other gradients: scaled, and once for each batch.
            times = len(self._losses) if self.scale is None else self.scale * len(self._losses)
            own = [gradient * times for gradient in self._average.gradients()]
            # Weights that took no part have none: they are not moved either.
            self._sum = [None if old is None else old + g for old, g in zip(self._sum, own, strict=True)]
        weights = [w for w, g in zip(self._weights, self._sum, strict=True) if g is not None]
        gradients = [g for g in self._sum if g is not None]
        losses, self._sum, self._losses = self._losses, [], []
        before = [weight.detach().clone() for weight in weights] if watch else []
        found = self._averages(weights, averages or {})
        self.averaged = frozenset(id(weight) for weight, own in zip(weights, found, strict=True) if own is not None)
        checked = self._change(weights, gradients, losses, found, ema_weight)
        if watch:
            self.watched = self._norms(weights, before, checked.norms)
        if self._average is not None:
            self._average.update()
        return checked.norm

    def _averages(self, weights: list[nn.Parameter], averages: Mapping[int, Tensor]) -> list[Tensor | None]:
        """For each weight the average that the optimizer's step can move, or None."""
        # Weights that are clipped change once more after it.
        if not isinstance(self.optimizer, Adam) or self._weight_clip > 0:
            return [None] * len(weights)
        found = [averages.get(id(weight)) for weight in weights]
        return [own if own is not None and _alike(own, w) else None for own, w in zip(found, weights, strict=True)]

    def _change(
        self,
        weights: list[nn.Parameter],
        gradients: list[Tensor],
        losses: list[Tensor],
        averages: list[Tensor | None],
        ema_weight: float | Tensor,
    ) -> Checked:
        """The update itself."""
        gradients = _owned(weights, gradients)
        loss = torch.stack(losses).mean()
        divisor = torch.full_like(loss, len(losses)) if self.scale is None else self.scale * len(losses)
        # The loss goes with them, so that all ranks skip the same updates.
        self._world.mean_([*gradients, loss])
        if isinstance(self.optimizer, Adam):
            checked = self.optimizer.step(
                weights=weights, gradients=gradients, loss=loss, divisor=divisor, clip=self._clip, averages=averages,
                ema_weight=ema_weight,
            )  # fmt: skip
        else:
            checked = check_gradients(gradients, loss, divisor, self._clip)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            # They divide by the one and obey the other; both are what torch.amp's scaler hands them.
            self.optimizer.grad_scale = checked.divisor  # type: ignore[attr-defined]
            self.optimizer.found_inf = checked.bad  # type: ignore[attr-defined]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self._weight_clip > 0:
            for weight in self._weights:
                weight.clamp_(-self._weight_clip, self._weight_clip)
        self.skipped += checked.bad
        self.in_a_row.add_(1).mul_(checked.bad)
        if self.scale is not None:
            torch._amp_update_scale_(self.scale, self._growth, checked.bad, 2.0, 0.5, GROWTH_INTERVAL)
        return checked

    def addresses(self) -> tuple[object, ...]:
        """What a recorded update takes as fixed: learning rates that are numbers, and where weights, moments and
        learning rates that are tensors are in memory."""
        moments = [value for weight in self._weights for value in self.optimizer.state[weight].values()]
        addresses = [tensor.data_ptr() for tensor in (*self._weights, *moments)]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return *(rate.data_ptr() if isinstance(rate, Tensor) else rate for rate in rates), *addresses

    def _norms(self, weights: list[nn.Parameter], before: list[Tensor], gradients: Tensor) -> Tensor:
        found = torch.stack([
            gradients,
            torch.stack(torch._foreach_norm(before)).float(),
            torch.stack(torch._foreach_norm(torch._foreach_sub([w.detach() for w in weights], before))).float(),
        ])  # fmt: skip
        if len(weights) == len(self._weights):
            return found
        # Weights that took no gradient did not change.
        places = [i for i, weight in enumerate(self._weights) if any(weight is w for w in weights)]
        every = torch.zeros(3, len(self._weights), device=found.device)
        every[1] = torch.stack(torch._foreach_norm([weight.detach() for weight in self._weights])).float()
        every[:, places] = found
        return every

    def match_strides(self) -> None:
        """Give the optimizer's moments the strides of their weights, after either has changed."""
        for weight, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == weight.shape:
                    moments[name] = with_strides_of(value, weight)

    def set_rate(self, rate: float, scheduled: bool = False) -> None:
        """Set the learning rate. scheduled: as a scalar on the device, which recorded updates read at each replay."""
        for group in self.optimizer.param_groups:
            if not scheduled:
                group["lr"] = rate
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = torch.full((), rate, device=self._weights[0].device)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the optimizer's own state."""
        scale = torch.zeros(()) if self.scale is None else self.scale
        kept = {"scale": scale, "growth": self._growth, "skipped": self.skipped, "in_a_row": self.in_a_row}
        return kept if self._average is None else kept | self._average.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        if self.scale is not None and float(tensors["scale"]) > 0:
            self.scale.copy_(tensors["scale"])
        self._growth.copy_(tensors["growth"])
        self.skipped.copy_(tensors["skipped"])
        self.in_a_row.copy_(tensors["in_a_row"])
        if self._average is not None:
            self._average.load_tensors(tensors)


def _owned(weights: Sequence[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Gradients with the strides of their weights, each with memory of its own.

    autograd gives weights that are added to each other one and the same tensor, and an expanded one for a sum; ranks
    write into them, and the fused kernels divide them in place, which for two weights would be twice.
    """
    owned: list[Tensor] = []
    places: set[int] = set()
    for weight, gradient in zip(weights, gradients, strict=True):
        dense = with_strides_of(gradient, weight)
        owned.append(dense.clone() if dense.data_ptr() in places else dense)
        places.add(dense.data_ptr())
    return owned


def with_strides_of(tensor: Tensor, weight: Tensor) -> Tensor:
    """A tensor with a weight's strides.

    Fused optimizers walk through memory: on the CPU, where the strides of a weight and its gradient or moments differ,
    PyTorch's pairs the wrong numbers and says nothing (torch 2.13; tests/train/test_optim.py shows it).
    """
    return tensor if tensor.stride() == weight.stride() else torch.empty_like(weight).copy_(tensor)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.stride() == other.stride() and one.dtype == other.dtype and one.device == other.device


class Adam(torch.optim.Adam):
    """torch.optim.Adam with its fused kernel's arithmetic and its state, so that checkpoints of either are the other's.

    One pass checks the gradients, one updates weights, moments and averages: `fastgan.ops.adam_ema`.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]):
        weights = list(weights)
        # By these load_state_dict puts the step counts on the weights' device.
        super().__init__(weights, lr, betas, fused=True, capturable=all(weight.is_cuda for weight in weights))

    def step(  # type: ignore[override]
        self,
        closure: Any = None,
        *,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        loss: Tensor,
        divisor: Tensor,
        clip: float,
        averages: Sequence[Tensor | None],
        ema_weight: float | Tensor,
    ) -> Checked:
        """One step of these weights of the optimizer; the arguments are `adam_ema`'s."""
        (group,) = self.param_groups
        states = [self.state[weight] for weight in weights]
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=weight.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return adam_ema(
            weights, gradients, means, squares, steps, loss=loss, divisor=divisor, lr=group["lr"], betas=group["betas"],
            eps=group["eps"], clip=clip, averages=averages, ema_weight=ema_weight,
        )  # fmt: skip


class RMSprop(torch.optim.Optimizer):
    """w − lr · g / (√v + eps), v the running mean of g²: Hinton 2012, lecture 6e; torch.optim.RMSprop without momentum.

    PyTorch's has no fused kernel, and so knows neither of the tensors by which nothing waits for the device: grad_scale
    divides the gradients, and where found_inf is 1 nothing changes.
    """

    grad_scale: Tensor
    found_inf: Tensor

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, alpha: float = 0.99, eps: float = 1e-8):
        super().__init__(weights, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        bad = self.found_inf.bool()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["square_avg"] = torch.zeros_like(weight)
                gradient = weight.grad / self.grad_scale.to(weight.dtype)
                mean = state["square_avg"].lerp(gradient.square(), 1 - group["alpha"])
                change = gradient / (mean.sqrt() + group["eps"])
                state["square_avg"].copy_(torch.where(bad, state["square_avg"], mean))
                change = torch.where(bad, 0.0, change)
                if isinstance(lr := group["lr"], Tensor):
                    weight.sub_(change * lr)
                else:
                    weight.sub_(change, alpha=lr)
