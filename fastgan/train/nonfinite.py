"""Updates that are not finite: counted, backed off from, diagnosed, and in the end the run is stopped."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastgan._util.options import option
from fastgan.engine.capture import preserved
from fastgan.errors import NonFiniteError
from fastgan.tasks.base import Batch, Loss, Noise, Task
from fastgan.train.distributed import World
from fastgan.train.state import TrainState, whole_checkpoint
from fastgan.train.step import Gradients, TaskSteps
from fastgan.train.sync_batch_norm import unsynchronized

_logger = logging.getLogger(__name__)

#: Learning rates never fall below this part of the configured ones.
LEAST_BACK_OFF = 1 / 64
_LONGEST = 500  # bytes of a finding that ranks tell each other


class NonFiniteGuard:
    """Checks weights, buffers and updates once an interval, where the loop waits for the device anyway."""

    def __init__(self, state: TrainState):
        self._state = state
        self.reset()

    def reset(self) -> None:
        """Take the buffers of the networks as they are now for the last finite ones.

        The check of updates keeps NaN out of weights; buffers, such as batch norm's statistics, change in the forward
        pass before that check. Buffers that are not finite to begin with, as masks are, are left alone.
        """
        self._buffers = {
            f"{part}.{name}": buffer
            for part, network in self._state.networks.items()
            for name, buffer in network.named_buffers()
            if buffer.is_floating_point() and bool(buffer.isfinite().all())
        }
        self._finite = [buffer.detach().clone() for buffer in self._buffers.values()]

    def check(self) -> None:
        """Restore buffers that skipped updates left not finite; then back off, or raise NonFiniteError.

        Called on all ranks, before anything is saved.
        """
        state, config = self._state, self._state.config
        if restored := self._restore_buffers():
            more = f" and {len(restored) - 1} more" if len(restored) > 1 else ""
            _logger.warning("not finite at step %d, set back: %s%s", state.step, restored[0], more)
        updates = state.updates
        counts = torch.stack([c for u in updates.values() for c in (u.skipped, u.in_a_row)]).tolist()
        # The discriminator first, whose step comes first: what is wrong with it the generator suffers from too.
        for network, in_a_row in reversed(list(zip(updates, counts[1::2], strict=True))):
            if in_a_row >= config.optim.max_skipped:
                raise self._stopped(network, int(in_a_row))
        weights: list[Tensor] = [*state.task.generator.parameters(), *state.task.discriminator.parameters()]
        if not torch.stack(torch._foreach_norm(weights, float("inf"))).isfinite().all():
            raise NonFiniteError(f"a weight is not finite at step {state.step}{whole_checkpoint(state.out)}")
        if state.step % config.logging.log_every == 0:
            self._back_off(int(sum(counts[::2])))

    @torch.no_grad()
    def _restore_buffers(self) -> list[str]:
        """Names of the buffers that were not finite and are now as they were at the last check that found them so."""
        if not self._buffers:
            return []
        own = list(self._buffers.values())
        finite = torch.stack([buffer.isfinite().all() for buffer in own]).tolist()
        for buffer, kept, fine in zip(own, self._finite, finite, strict=True):
            target, source = (kept, buffer) if fine else (buffer, kept)
            target.copy_(source)
        return [name for name, fine in zip(self._buffers, finite, strict=True) if not fine]

    def _back_off(self, skipped: int) -> None:
        state = self._state
        new, state.skipped = skipped - state.skipped, skipped
        if new:
            _logger.warning("skipped %d updates that were not finite, up to step %d", new, state.step)
        if state.config.precision != "fp16":  # there the loss scale has backed off already
            state.back_off = max(state.back_off / 2, LEAST_BACK_OFF) if new else min(state.back_off * 2, 1.0)
            state.set_rates()

    def _stopped(self, network: str, in_a_row: int) -> NonFiniteError:
        state = self._state
        steps = TaskSteps(state.task, state.config.precision)
        noise, own = (
            state.updates[network].scaled(state.noise.get(name, {})) for name in ("discriminator", "generator")
        )
        bad = first_bad_layer(steps, state.batch, noise, network, own)
        bad = shared_finding(state.world, bad, state.device)
        other = bad.startswith("the batch")
        gentler = f"lower learning rates or a penalty ({option('r1_weight')})"
        return NonFiniteError(
            f"the {network}'s loss or gradient was not finite in {in_a_row} updates in a row, up to step {state.step};"
            f" first bad: {bad or 'nothing in the last batch'}{whole_checkpoint(state.out)};"
            f" start anew with {'other images' if other else gentler}"
        )


def shared_finding(world: World, own: str, device: torch.device) -> str:
    """The finding of the first rank that has one, on all ranks, with its number: one's bad batch spoils all updates."""
    if world.size == 1:
        return own
    findings = torch.zeros(world.size, _LONGEST, dtype=torch.int32, device=device)
    text = own.encode()[:_LONGEST]
    findings[world.rank, : len(text)] = torch.tensor(list(text), dtype=torch.int32)
    world.sum_(findings)
    for rank, row in enumerate(findings.tolist()):
        if text := bytes(row).rstrip(b"\0"):
            return f"{text.decode(errors='ignore')} on rank {rank}"
    return ""


def first_bad_layer(
    steps: TaskSteps, batch: Batch, noise: Noise, network: str | None = None, generator_noise: Noise | None = None
) -> str:
    """What is the first not to be finite as both steps run on a batch, or "" where all is.

    The batch, noise and weights come first, then each module's output, the losses, and the gradients from the loss
    backwards. network: "generator" or "discriminator", whose loss and gradients to look at; both, the discriminator's
    first, when left out. Modules that a fused one computes as one operation are represented by the fused one's output
    and by their weights. Changes nothing: buffers and the default random generators are restored.
    """
    task = steps.task
    buffers = [*task.generator.buffers(), *task.discriminator.buffers()]
    # Ranks find different things and end at different points: none may wait for another on the way.
    with preserved(buffers), unsynchronized(task.generator, task.discriminator):
        try:
            return _walk(steps, batch, noise, network, noise if generator_noise is None else generator_noise)
        except Exception as error:  # the step that failed before may fail otherwise now, out of memory even
            return f"not found ({(str(error) or repr(error)).splitlines()[0]})"


def _walk(steps: TaskSteps, batch: Batch, noise: Noise, network: str | None, generator_noise: Noise) -> str:
    for name, tensor in batch.items():
        if bad := _count(tensor):
            return f"the batch's {name!r} ({bad})"
    for name, value in noise.items():
        if isinstance(value, Tensor) and name != "loss_scale" and (bad := _count(value)):
            return f"{name} ({bad})"
    # Apart, so that it shows whether real or generated images are the first that are not finite.
    task = copy.copy(steps.task)
    task.joint = False
    steps = TaskSteps(task, steps.precision)
    for name in ("generator", "discriminator"):
        if bad := _state_of(getattr(task, name), name):
            return bad
    for name, step, drawn in (
        ("discriminator", steps.discriminator, noise),
        ("generator", steps.generator, generator_noise),
    ):
        trained, drawn = getattr(task, name), {"lazy": True} | drawn
        with _hooked(task, name) as found:
            loss, gradients, order = _watched(trained, lambda step=step, drawn=drawn: step(batch, drawn))
        if found:
            return found[0]
        if network in (name, None) and (bad := _backward(trained, name, loss, gradients, order, drawn)):
            return bad
    return ""


def _state_of(network: nn.Module, name: str) -> str:
    for kind, tensors in (("weight", network.named_parameters()), ("buffer", network.named_buffers())):
        for key, tensor in tensors:
            if bad := _count(tensor):
                return f"{name}.{key} (a {kind}: {bad})"
    return ""


@contextmanager
def _hooked(task: Task, step: str) -> Iterator[list[str]]:
    """Collects the modules that make something that is not finite out of finite inputs, in the order they end.

    Containers are watched too: what they compute beside their children is theirs, and children end first. step: whose
    it is; in the discriminator's the passes of the discriminator are named.
    """
    found: list[str] = []
    passes = {"generator": 0, "discriminator": 0}

    def count(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            passes[name] += 1

        return hook

    def watch(name: str, network: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = _numbers((args, kwargs))
            if any(map(_count, _numbers(output))) and not any(map(_count, inputs)):
                largest = max((_largest(t) for t in inputs), default=0.0)
                of = f" {_of(task, step, network, passes[network])}".rstrip()
                found.append(f"{name} (its output{of} is not finite, its input reaches {largest:.0e})")

        return hook

    handles = []
    for network in passes:
        root = getattr(task, network)
        handles.append(root.register_forward_pre_hook(count(network)))
        for name, module in root.named_modules():
            hook = watch(f"{network}.{name}".rstrip("."), network)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of(task: Task, step: str, network: str, number: int) -> str:
    """ "of real images", where the task names the passes of its discriminator."""
    if network != "discriminator" or step != "discriminator":
        return ""
    if number == 0:  # a container of several networks, which is never called itself
        return ""
    return f"of {task.passes[number - 1]}" if number <= len(task.passes) else f"in its forward pass {number}"


def _watched(network: nn.Module, step: Any) -> tuple[Loss, Gradients, list[str]]:
    """What a step returns, and the names of the weights in the order in which their gradients came."""
    order: list[str] = []
    handles = [
        weight.register_hook(lambda gradient, name=name: order.append(name))
        for name, weight in network.named_parameters()
        if weight.requires_grad
    ]
    try:
        loss, gradients = step()
    finally:
        for handle in handles:
            handle.remove()
    return loss, gradients, order


def _backward(network: nn.Module, name: str, loss: Loss, gradients: Gradients, order: list[str], noise: Noise) -> str:
    for key, value in loss.log.items():
        if key.startswith(("loss/", "l1/", "penalty/")) and _count(value):
            return f"{key} of the {name} (its logits are finite)"
    names = [key for key, weight in network.named_parameters() if weight.requires_grad]
    came = {key: gradient for key, gradient in zip(names, gradients, strict=True) if gradient is not None}
    scaled = f"; the loss is scaled by {float(noise['loss_scale']):.0e}" if "loss_scale" in noise else ""
    for key in order:
        if key in came and (bad := _count(came[key])):
            return f"the gradient of {name}.{key} ({bad}{scaled})"
    if came and not torch.stack(torch._foreach_norm(list(came.values()), dtype=torch.float32)).norm().isfinite():
        largest = max(came, key=lambda key: _largest(came[key]))
        return f"the norm of the {name}'s gradient ({name}.{largest} reaches {_largest(came[largest]):.0e}{scaled})"
    return ""


def _numbers(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


def _count(tensor: Tensor) -> str:
    """ "3 of 64 values are not finite", or ""."""
    bad = int((~tensor.detach().isfinite()).sum())
    return f"{bad} of {tensor.numel()} values are not finite" if bad else ""


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().amax().float())
