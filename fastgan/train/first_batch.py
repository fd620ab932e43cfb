"""Checks of the first batch of a run: sizes, dtypes and values, against what both networks take and return.

Each misfit is an error of one sentence that says what to change, before any step is taken.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastgan.engine.capture import preserved
from fastgan.errors import ForcedBackendError, UsageError, first_line
from fastgan.tasks.base import Batch, Noise
from fastgan.tasks.batches import described
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import Output, declared_range
from fastgan.train.last_operation import RANGES, LastOperation
from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

#: Channels of pictures.
_CHANNELS = (1, 3, 4)
Span = tuple[float, float]


def check(state: TrainState, batch: Batch, noise: dict[str, Noise]) -> None:
    """Raise UsageError where a batch and the networks of a run do not fit. Changes neither networks nor random numbers.

    Tasks of one's own compute what they like: there only images that look unscaled are named, in a warning.
    """
    task = state.task
    if not isinstance(task, Generation):
        low, high = _limits(batch[task.real])
        if _looks_unscaled(batch[task.real], low, high):
            _logger.warning(
                "batches: the values of %r go from %g to %g; networks train best on values in [-1, 1]", task.real, low,
                high,
            )  # fmt: skip
        return
    buffers = [buffer for network in (task.generator, task.discriminator) for buffer in network.buffers()]
    with torch.no_grad(), preserved(buffers):
        span, why = _generator(task, batch, noise["discriminator"])
        _discriminator(task, batch, noise["discriminator"])
    task.range = span or task.range
    if task.perceptual is not None:
        task.perceptual.range = task.range
    check_values(batch[task.real], span, why)
    if state.held_out is not None:
        check_values(state.held_out[task.real], span, why, "held_out")
    if task.real != "real" and _looks_unscaled(batch["source"], *(limits := _limits(batch["source"]))):
        _logger.warning("batches: the sources' values go from %g to %g; scale them to [-1, 1]", *limits)


def _generator(task: Generation, batch: Batch, noise: Noise) -> tuple[Span | None, str]:
    """The range of the generator's images where it is known, and from what."""
    real = batch[task.real]
    z, condition = task.inputs("discriminator", batch, noise)
    condition = _with_last_class(condition, task.classes)
    last = LastOperation()
    given = f"{'sources' if 'source' in batch else 'z'} {described(z)}"
    with _explained("generator", given, condition, lambda: _latent_hint(task, z, condition)), last:
        made = task.generate(z, condition)
    if not isinstance(made, Tensor) or not made.is_floating_point():
        raise UsageError(f"generator: expected a floating tensor of images, got {described(made)}")
    if made.shape != real.shape:
        raise UsageError(_other_shape(list(made.shape), list(real.shape)))
    if (declared := declared_range(task.generator)) is not None:
        return declared, "by its attribute `range`"
    name = last.of(made)
    return RANGES.get(name), f"as it ends in a {name}"


def _discriminator(task: Generation, batch: Batch, noise: Noise) -> None:
    real = batch[task.real]
    _, condition = task.inputs("discriminator", batch, noise)
    condition = _with_last_class(condition, task.classes)
    last = LastOperation()
    with _explained("discriminator", f"images {described(task.packed(real))}", condition), last:
        output: Output = task.discriminate(real, condition)
    name = last.of(output.logits)
    if name in ("sigmoid", "softmax") and task.loss.logits:
        raise UsageError(
            f"discriminator: expected logits, as the loss {task.loss.name} applies its own function to them, got the"
            f" outputs of a {name}, which would be squashed twice; leave the last {name} out"
        )


@contextmanager
def _explained(name: str, given: str, condition: Tensor | None, hint: Callable[[], str] = str) -> Iterator[None]:
    """Raises what PyTorch says of an input that does not fit as one sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, ForcedBackendError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if condition is not None:
            given += f" and {described(condition)}"
            if not condition.is_floating_point():
                given += f" of {int(condition.max()) + 1} classes"
        raise UsageError(f"{name}: it cannot take {given} ({first_line(error)}){hint()}") from error


def _with_last_class(labels: Tensor | None, classes: int) -> Tensor | None:
    """The labels with the last class among them: networks built for fewer classes fail here, not at a later step."""
    if labels is None or not classes:  # pairs: sources
        return labels
    labels = labels.clone()
    labels[-1:] = classes - 1
    return labels


def _latent_hint(task: Generation, z: Tensor | None, condition: Tensor | None) -> str:
    """A latent_shape with which the generator runs, where it does not with this one: "; give latent_shape=..."."""
    if z is None or type(task) is not Generation:
        return ""
    sizes = [task.latent_shape[0], *_first_sizes(task.generator)]
    shapes = dict.fromkeys(shape for size in sizes for shape in ((size, 1, 1), (size,), (size, 1)))
    for shape in shapes:
        try:
            task.generate(z.new_zeros(len(z), *shape), condition)
        except Exception:  # of the user's network, on a guess
            continue
        return "" if shape == task.latent_shape else f"; give latent_shape={shape}, the shape of one z"
    if condition is None and _wants_labels(task.generator):
        return "; set its attribute `classes`, the number of classes, if it is called with labels"
    return ""


def _wants_labels(network: nn.Module) -> bool:
    """Whether forward() must be given a second argument."""
    try:
        inspect.signature(network.forward).bind(None)
    except TypeError:
        return True
    return False


def _first_sizes(network: nn.Module) -> list[int]:
    """How many numbers or channels the first layer takes."""
    for layer in network.modules():
        for name in ("in_features", "in_channels"):
            if isinstance(size := getattr(layer, name, None), int):
                return [size]
    return []


def _other_shape(made: list[int], real: list[int]) -> str:
    expected = f"batches: expected images {made} as the generator makes them, got {real}"
    if len(real) == len(made) == 4 and [real[0], real[3], real[1], real[2]] == made:
        return f"{expected}; the channels come second: images.permute(0, 3, 1, 2)"
    if len(real) == len(made) - 1:
        return f"{expected}; images come in batches, such as those of torch.utils.data.DataLoader"
    if made[0] != real[0]:
        return f"generator: expected an image for each z, {real}, got {made}"
    if made[1] != real[1] and len(made) == 4:
        return f"{expected}; convert their channels, or build both networks for {real[1]}"
    return f"{expected}; resize them, or build both networks for their size"


# --- values -----------------------------------------------------------------------------------------------------------


def check_values(images: Tensor, span: Span | None, why: str, name: str = "batches") -> None:
    """Raise UsageError where real images have other values than a generator of this range makes.

    Values that go a little beyond it, as those scaled by mean and deviation do, are named in a warning.
    span: None where it is not known; then only pictures that look like pixels from 0 to 255 are refused.
    """
    low, high = _limits(images)
    came = f"{name}: values go from {low:g} to {high:g}"
    if span is None:
        if _looks_unscaled(images, low, high):
            raise UsageError(
                f"{came}, expected [-1, 1]; use images / 127.5 - 1, or state the range of your generator's images as"
                " its attribute `range`"
            )
        return
    least, most = span
    width = most - least
    came = f"{came}, and the generator's images are in [{least:g}, {most:g}], {why}"
    pictures = images.dim() == 4 and images.shape[1] in _CHANNELS
    # Of a picture black and white are rarely far: all of a batch on one side of 0 was scaled to [0, 1].
    zero_to_one = pictures and least == -most and 0 <= low < 0.25 * most and 0.75 * most < high <= 1.01 * most
    negative = least >= 0 and low < least - 0.25 * width
    if zero_to_one or negative or high > most + 1.5 * width or low < least - 1.5 * width:
        raise UsageError(f"{came}; {_scaling(low, high, least, most)}")
    if high > most + 0.05 * width or low < least - 0.05 * width:
        _logger.warning("%s: it cannot make the others", came)


def _scaling(low: float, high: float, least: float, most: float) -> str:
    if low >= 0 and high <= 1.01 and (least, most) == (-1, 1):
        return "use 2 * images - 1, or set generator.range = (0, 1) if they are meant so"
    if low >= 0 and 1.5 < high <= 255 and (least, most) == (-1, 1):
        return "use images / 127.5 - 1"
    if low >= 0 and 1.5 < high <= 255 and (least, most) == (0, 1):
        return "use images / 255"
    if -1.01 <= low < 0 and high <= 1.01 and (least, most) == (0, 1):
        return "use (images + 1) / 2, or a generator that ends in a tanh"
    return f"scale them to [{least:g}, {most:g}]"


def _looks_unscaled(images: Tensor, low: float, high: float) -> bool:
    """Whether these are pictures of pixels from 0 to 255."""
    return images.dim() == 4 and images.shape[1] in _CHANNELS and low >= 0 and 50 < high <= 255


def _limits(images: Tensor) -> tuple[float, float]:
    if not images.numel() or images.is_complex():
        return 0.0, 0.0
    low, high = torch.stack(images.detach().aminmax()).tolist()
    return low, high
