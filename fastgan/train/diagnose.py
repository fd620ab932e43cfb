"""Where numbers stop being finite: both steps once more, watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastgan.engine.capture import preserved
from fastgan.train.batches import source_channels
from fastgan.train.distributed import World
from fastgan.train.statistics import apart
from fastgan.train.step import Gradients, Log, Players

REAL, SOURCES = "the batch of real images", "the batch of sources"
_LONGEST = 500  # bytes of a finding that ranks tell each other


def told_by_all(world: World, own: str, device: torch.device) -> str:
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
    players: Players,
    real: Tensor,
    z: Tensor,
    y: Tensor | None = None,
    scale: Tensor | None = None,
    player: str | None = None,
) -> str:
    """What is the first not to be finite as the steps run on real [N, C, H, W] and z, or "" where all is.

    Images, z and weights come first, then each module's output, the losses, and the gradients from the loss backwards.
    y: labels or sources, where the discriminator takes them. scale: of the loss in fp16. player: "generator" or
    "discriminator", whose loss and gradients to look at; both, in this order of the game, when left out. Modules that a
    fused one computes as one operation are judged by the fused one's output and by their weights. Changes nothing:
    buffers and the default random generators are put back.
    """
    buffers = [*players.generator.buffers(), *players.discriminator.buffers()]
    # Ranks find different things and end at different points: none may wait for another on the way.
    with preserved(buffers), apart(players.generator, players.discriminator):
        try:
            return _walk(players, real, z, y, scale, player)
        except RuntimeError as error:  # the step that failed before may fail otherwise now, out of memory even
            return f"not found ({str(error).splitlines()[0]})"


def _walk(players: Players, real: Tensor, z: Tensor, y: Tensor | None, scale: Tensor | None, player: str | None) -> str:
    for name, tensor in ((REAL, real), (SOURCES if source_channels(players.generator) else "z", z)):
        if bad := _count(tensor):
            return f"{name} ({bad})"
    if bad := _forward(players, real, z, y):
        return bad
    d_log, d_gradients, d_order = _watched(
        players.discriminator, lambda: players.d_step(real, z, None, scale, lazy=True, y=y)
    )
    if player != "generator" and (bad := _backward(players, "discriminator", d_log, d_gradients, d_order, scale)):
        return bad
    g_log, g_gradients, g_order = _watched(
        players.generator, lambda: players.g_step(z, scale, y=y, real=real, real_y=y)
    )
    if player != "discriminator":
        return _backward(players, "generator", g_log, g_gradients, g_order, scale)
    return ""


def _forward(players: Players, real: Tensor, z: Tensor, y: Tensor | None) -> str:
    """The first bad weight, or module, on the way to the logits. Logits are the discriminator's own output."""
    with torch.no_grad(), players.autocast(real):
        if bad := _state(players.generator, "generator"):
            return bad
        with _hooked(players.generator, "generator") as found:
            fake = players.generate(z, y)
        if found:
            return found[0]
        if bad := _state(players.discriminator, "discriminator"):
            return bad
        for images, kind in ((real, "real"), (fake, "generated")):
            with _hooked(players.discriminator, "discriminator", f" of {kind} images") as found:
                players.judge(images, y)
            if found:
                return found[0]
    return ""


def _state(network: nn.Module, player: str) -> str:
    for kind, tensors in (("weight", network.named_parameters()), ("buffer", network.named_buffers())):
        for name, tensor in tensors:
            if bad := _count(tensor):
                return f"{player}.{name} (a {kind}: {bad})"
    return ""


@contextmanager
def _hooked(network: nn.Module, player: str, of: str = "") -> Iterator[list[str]]:
    """Collects the modules that make something that is not finite out of finite inputs, in the order they end.

    Containers are watched too: what they compute beside their children is theirs, and children end first.
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = _numbers((args, kwargs))
            if any(map(_count, _numbers(output))) and not any(map(_count, inputs)):
                reach = max((_reach(t) for t in inputs), default=0.0)
                found.append(f"{name} (its output{of} is not finite, its input reaches {reach:.0e})")

        return hook

    handles = [
        module.register_forward_hook(watch(f"{player}.{name}".rstrip(".")), with_kwargs=True)
        for name, module in network.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _watched(network: nn.Module, step: Any) -> tuple[Log, Gradients, list[str]]:
    """What a step returns, and the names of the weights in the order in which their gradients came."""
    order: list[str] = []
    handles = [
        weight.register_hook(lambda gradient, name=name: order.append(name))
        for name, weight in network.named_parameters()
        if weight.requires_grad
    ]
    try:
        log, gradients = step()
    finally:
        for handle in handles:
            handle.remove()
    return log, gradients, order


def _backward(
    players: Players, player: str, log: Log, gradients: Gradients, order: list[str], scale: Tensor | None
) -> str:
    for name, value in log.items():
        if name.startswith(("loss/", "l1/", "penalty/")) and _count(value):
            return f"{name} of the {player} (its logits are finite)"
    network = getattr(players, player)
    names = [name for name, weight in network.named_parameters() if weight.requires_grad]
    came = {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    scaled = f"; the loss is scaled by {float(scale):.0e}" if scale is not None else ""
    for name in order:
        if name in came and (bad := _count(came[name])):
            return f"the gradient of {player}.{name} ({bad}{scaled})"
    if came and not torch.stack(torch._foreach_norm(list(came.values()), dtype=torch.float32)).norm().isfinite():
        largest = max(came, key=lambda name: _reach(came[name]))
        return f"the norm of the {player}'s gradient ({player}.{largest} reaches {_reach(came[largest]):.0e}{scaled})"
    return ""


def _numbers(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


def _count(tensor: Tensor) -> str:
    """ "3 of 64 values are not finite", or ""."""
    bad = int((~tensor.detach().isfinite()).sum())
    return f"{bad} of {tensor.numel()} values are not finite" if bad else ""


def _reach(tensor: Tensor) -> float:
    return float(tensor.detach().abs().amax().float())
