"""Preparation from the first batch: memory format, real and fake as one batch, how the steps are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastgan.engine.capture import preserved
from fastgan.errors import UsageError
from fastgan.tasks.base import Batch, Noise, Task
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import coupling_layer
from fastgan.train import first_batch
from fastgan.train.compile_policy import CompilePolicy, Steps
from fastgan.train.data import Batches, in_channels_last
from fastgan.train.iteration import why_not as why_not_one_graph
from fastgan.train.state import TrainState
from fastgan.train.step import TaskSteps
from fastgan.train.step_memory import too_little

_logger = logging.getLogger(__name__)


def prepare(state: TrainState, batches: Batches) -> tuple[Steps, str]:
    """The steps of a run as the next batch decides, and why an iteration of them is not one CUDA graph, or "".

    Called before the first iteration, and before the first one of each level of growing networks.
    """
    task = state.task
    batch = batches.peek()
    check_held_out(state.held_out, batches.raw, task.real)
    if (neighbors := getattr(task, "neighbors", None)) is not None:
        check_reference(neighbors.shape, batches.raw, task.real)
    state.world.agree({"batches": len(batch[task.real])})
    with state.random.restored():  # it is drawn again in the first step
        noise = {name: state.draw(name, batch) for name in ("discriminator", "generator")}
    for own in noise.values():
        if "adversarial" in own:  # steps without the discriminator, at the beginning, compute less
            own["adversarial"] = True
    if short := too_little(state, batch, noise):
        _logger.warning("%s", short)
    first_batch.check(state, batch, noise)
    plain = TaskSteps(task, state.config.precision)
    state.channels_last = not use_channels_last(task, batch, noise)
    for update in state.updates.values():
        update.match_strides()
    state.ema.match_strides(task.generator)
    if state.channels_last:
        batch = in_channels_last(batch)
    if isinstance(task, Generation):
        _decide_joint(state, task, batch)
    steps = _decide_steps(state, plain, batch, noise)
    reason = why_not_one_graph(state, steps)
    if steps.compiled and state.device.type == "cuda" and reason:
        _logger.info("each step is a graph of its own: %s", reason)
    return steps, reason


def _decide_joint(state: TrainState, task: Generation, batch: Batch) -> None:
    before = state.decisions.get("apart")
    why = why_not_joint(task, batch) if before is None else before
    if state.world.any(bool(why)):
        why = why or "another rank has a reason"
    state.decisions["apart"] = why
    task.joint = not why
    passes = f"separate passes for real and fake: {why}" if why else "real and fake images as one batch"
    _logger.info("discriminator: %s", passes)


def _decide_steps(state: TrainState, plain: TaskSteps, batch: Batch, noise: dict[str, Noise]) -> Steps:
    config, world = state.config, state.world
    iterations = (config.steps - state.step) * config.optim.accumulate
    shown = len(batch[state.task.real]) * world.size * (config.optim.d_steps or 1)
    if state.step == 0 and (short := state.growth.why_short(iterations * shown)):
        _logger.warning("%s", short)
    iterations = int(min(iterations, state.growth.left(state.images) / shown))
    d_inputs, g_inputs = ((batch, state.updates[name].scaled(noise[name])) for name in ("discriminator", "generator"))
    policy = CompilePolicy(plain, config, d_inputs, g_inputs, iterations, state.loss)
    exchanging = config.sync_statistics and world.size > 1
    # Ranks that exchange within a step must all take as many, so none of them measures; nor could it be captured.
    steps = policy.decide("off" if exchanging else config.compile, state.decisions.get("compiled"))
    # Make the decision identical on all ranks: a rank that asks other questions would wait forever.
    eager, captured = (world.any(not exchanging and steps.mode == mode) for mode in ("off", "graph"))
    if exchanging:
        steps.about = "steps run eagerly: batch norms synchronize within them"
    elif eager and steps.compiled:
        steps = policy.decide("off", None)
        steps.about = "steps run eagerly, as they do on another rank"
    elif captured and steps.mode == "on":
        steps = policy.decide("graph", None)
    if steps.about:
        _logger.info("%s", steps.about)
    state.decisions["compiled"] = steps.mode
    return steps


def why_not_joint(task: Generation, batch: Batch) -> str:
    """ "" where the discriminator returns the same logits for an image in a batch of two halves, else the reason.

    Layers known to couple samples are found by type, others by running the real images of a batch both ways. Leaves
    the discriminator and the random numbers as they were.
    """
    network = task.discriminator
    if layer := coupling_layer(network):
        return f"{layer} couples the samples of a batch"
    real, (_, condition) = batch[task.real], task.inputs("discriminator", batch, {"z": None})
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]

    def run(images: Tensor, condition: Tensor | None) -> Tensor:
        # From the same state each time: a spectral norm moves on with every run. Random numbers go on, so that a layer
        # that draws some shows.
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return task.discriminate(images, condition).logits

    other = real.flip(0) * 0.5
    other_condition = None if condition is None else condition.flip(0)
    both_conditions = None if condition is None else torch.cat([condition, condition.flip(0)])
    # The random numbers too: a resumed run looks again, and is to go on with the ones that come next.
    with torch.no_grad(), preserved(buffers):
        first, second = run(real, condition), run(other, other_condition)
        try:
            both = run(torch.cat([real, other]), both_conditions)
        except RuntimeError as refusal:
            return f"it cannot take two batches at once ({str(refusal).splitlines()[0]})"
    if first.dim() == 0 or both.shape != (2 * first.shape[0], *first.shape[1:]):
        return f"logits of a double batch are {list(both.shape)}, of a single one {list(first.shape)}"
    apart = torch.cat([first, second]).float()
    error = float((both.float() - apart).norm() / (apart.norm() + 1e-12))
    if not error <= 1e-4:
        return f"its logits change by {error:.1e} when another batch is concatenated"
    return ""


def use_channels_last(task: Task, batch: Batch, noise: dict[str, Noise]) -> str:
    """Put both networks into channels_last, in which libraries convolve faster; "" or why they stayed as they were.

    A network that flattens its feature maps by `view` cannot run in it. Leaves buffers and random numbers as they were.
    """
    if batch[task.real].dim() != 4:
        return "batches are not images"
    networks = task.generator, task.discriminator
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = in_channels_last(batch)
    try:
        buffers = [buffer for network in networks for buffer in network.buffers()]
        with preserved(buffers), _projections(*networks) as projections:
            forward(task, batch, noise)
    except RuntimeError as error:
        for network in networks:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return str(error).splitlines()[0]
    # PyTorch's compiler takes the gradient of such a weight for channels_last too, which cuDNN, seeing an input that
    # could be in either format, makes contiguous: the compiled step would stop at its own check of the strides.
    for layer in projections:
        layer.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return ""


def forward(task: Task, batch: Batch, noise: dict[str, Noise]) -> None:
    """Run both networks of a task once: of the built-in tasks their forward passes alone, of others the losses."""
    if isinstance(task, Generation):
        with torch.no_grad():
            z, condition = task.inputs("discriminator", batch, noise["discriminator"])
            task.discriminate(task.generate(z, condition), condition)
            task.discriminate(batch[task.real], condition)
    else:
        task.discriminator_loss(batch, noise["discriminator"])
        task.generator_loss(batch, noise["generator"])


@contextmanager
def _projections(*networks: nn.Module) -> Iterator[list[nn.Module]]:
    """Collects the transposed convolutions that take a latent as an image of one pixel."""
    found: list[nn.Module] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = inputs[0] if inputs else named["input"]
        if x.shape[2:] == (1, 1):
            found.append(layer)

    layers = [m for network in networks for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_held_out(held_out: Batch | None, batch: Batch, real: str) -> None:
    """Raise UsageError where held-out images are not like those of the batches."""
    for name, own in (held_out or {}).items():
        if name not in batch or own.shape[1:] != batch[name].shape[1:]:
            like = batch.get(name)
            wanted = "an entry of the batches" if like is None else f"[M, {', '.join(map(str, like.shape[1:]))}]"
            what = "images" if name == real else name
            raise UsageError(f"held_out: expected {what} like the batches', {wanted}, got {list(own.shape)}")


def check_reference(shape: list[int], batch: Batch, real: str) -> None:
    """Raise UsageError where reference images [C, H, W] are not like those of the batches."""
    if shape != list(batch[real].shape[1:]):
        raise UsageError(f"reference: expected images like the batches', {list(batch[real].shape[1:])}, got {shape}")
