"""Penalties on the discriminator's gradient with respect to its input. Exact, differentiable, scalar.

The gradient is a backward pass, and the derivative of the penalty contains a tangent pass through the discriminator.
Second derivatives of its layers (of a sigmoid or a layer norm) are computed. Derivatives that are zero almost
everywhere cost nothing if the layers are fastgan's (`fastgan.fuse`).

All discriminators are called as discriminator(images, *args, **kwargs) and return one or more logits per image, of any
shape. Where they return several tensors, `output` says which are the logits: an index, a key, or a function of them,
such as `lambda scales: torch.cat([scale.flatten(1) for scale in scales], 1)`; with a function a penalty is not replayed
as a CUDA graph. Labels and other arguments are passed through. Squares are summed in float32 at least (float64 for
double), since they would overflow in half precision. With a loss scaler, `scale` multiplies the logits before the first
backward pass, which runs in half precision, and the gradient is divided by it in float32 before it is squared. The
penalty itself is unscaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgan.engine.loss_graph import scalar_loss
from fastgan.errors import UsageError
from fastgan.ops import norm_penalty

Discriminator = Callable[..., Any]
#: Which of several outputs are the logits: an index, a key, or a function of what the discriminator returns.
Output = int | str | Callable[[Any], Tensor] | None


def gradient_penalty(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    *args: Any,
    target: float = 1.0,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
    epsilon: Tensor | None = None,
    scale: float | Tensor = 1.0,
    output: Output = None,
    **kwargs: Any,
) -> Tensor:
    """weight · E (‖∇ D(x̂)‖ − target)² on points between real and fake images: WGAN-GP (arXiv:1704.00028, equation 3).

    real, fake: [N, ...] of one shape and device, treated as constants; the points have real's dtype (under autocast a
    generator's images are in half precision). args, kwargs: further arguments of the discriminator. epsilon: the
    paper's ε, the weight of the fake image in each pair, [N, 1, ...]; by default it is drawn uniformly from [0, 1),
    from `generator` (on real's device) if given. scale: see above. Returns a scalar in float32 (float64 for double
    inputs). The derivative of the norm of a zero gradient is zero.
    """
    epsilon = _epsilon(real, fake, generator, epsilon)
    given = real.detach(), fake.detach(), epsilon, weight, target, scale, output, args, kwargs
    return scalar_loss("gradient_penalty", _between_penalty, discriminator, *given)


def zero_centered_gp(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    *args: Any,
    weight: float = 10.0,
    generator: torch.Generator | None = None,
    epsilon: Tensor | None = None,
    scale: float | Tensor = 1.0,
    output: Output = None,
    **kwargs: Any,
) -> Tensor:
    """weight · E ‖∇ D(x̂)‖² on points between real and fake images: Thanh-Tung et al. 2019 (arXiv:1902.03984).

    As `gradient_penalty`, with target 0.
    """
    epsilon = _epsilon(real, fake, generator, epsilon)
    given = real.detach(), fake.detach(), epsilon, weight, None, scale, output, args, kwargs
    return scalar_loss("zero_centered_gp", _between_penalty, discriminator, *given)


def dragan(
    discriminator: Discriminator,
    real: Tensor,
    *args: Any,
    target: float = 1.0,
    weight: float = 10.0,
    noise: float = 0.5,
    generator: torch.Generator | None = None,
    scale: float | Tensor = 1.0,
    output: Output = None,
    **kwargs: Any,
) -> Tensor:
    """weight · E (‖∇ D(x + δ)‖ − target)² around real images: DRAGAN, Kodali et al. 2017 (arXiv:1705.07215).

    δ is drawn as in the authors' code: uniform in [0, 1) per element, times `noise`, times the standard deviation of
    the whole batch, with one weight in [0, 1) per image. real: [N, ...], treated as constant. The rest as for
    `gradient_penalty`.
    """
    real = _images(real, "real").detach()
    noise_like = torch.rand(real.shape, dtype=real.dtype, device=real.device, generator=generator)
    points = real + _per_image(real, generator) * (noise * real.std() * noise_like)
    return scalar_loss("dragan", _penalty_at, discriminator, points, weight, target, scale, output, args, kwargs)


def r1(
    discriminator: Discriminator,
    real: Tensor,
    *args: Any,
    weight: float = 1.0,
    scale: float | Tensor = 1.0,
    output: Output = None,
    **kwargs: Any,
) -> Tensor:
    """weight/2 · E ‖∇ D(x)‖² on real images: Mescheder et al. 2018 (arXiv:1801.04406, equation 9).

    real: [N, ...], treated as constant. args, kwargs: further arguments of the discriminator. scale: see above. Returns
    a scalar in float32 (float64 for double inputs).
    """
    points = _images(real, "real").detach()
    return scalar_loss("r1", _penalty_at, discriminator, points, 0.5 * weight, None, scale, output, args, kwargs)


def r2(
    discriminator: Discriminator,
    fake: Tensor,
    *args: Any,
    weight: float = 1.0,
    scale: float | Tensor = 1.0,
    output: Output = None,
    **kwargs: Any,
) -> Tensor:
    """weight/2 · E ‖∇ D(G(z))‖² on generated images: Mescheder et al. 2018 (arXiv:1801.04406, equation 9).

    fake: [N, ...], treated as constant. The rest as for `r1`.
    """
    points = _images(fake, "fake").detach()
    return scalar_loss("r2", _penalty_at, discriminator, points, 0.5 * weight, None, scale, output, args, kwargs)


def _penalty_at(
    discriminator: Discriminator,
    points: Tensor,
    weight: float,
    target: float | None,
    scale: float | Tensor,
    output: Output,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """weight · E (‖∇ D‖ − target)² at these points, or weight · E ‖∇ D‖²."""
    return weight * norm_penalty(_gradient(discriminator, points, args, kwargs, scale, output), target).mean()


def _between_penalty(discriminator: Discriminator, real: Tensor, fake: Tensor, epsilon: Tensor, *rest: Any) -> Tensor:
    """`_penalty_at` the points between real and fake images."""
    return _penalty_at(discriminator, torch.lerp(real, fake.to(real.dtype), epsilon), *rest)


def _images(images: Tensor, name: str) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise UsageError(f"{name}: expected a floating tensor [N, ...], got {getattr(images, 'dtype', type(images))}")
    if images.dim() < 2:
        raise UsageError(f"{name}: expected [N, ...], got {list(images.shape)}")
    return images


def _epsilon(real: Tensor, fake: Tensor, generator: torch.Generator | None, epsilon: Tensor | None) -> Tensor:
    """The weight of the fake image in each pair, [N, 1, ...] in real's dtype. Checks the images."""
    _images(real, "real")
    _images(fake, "fake")
    for what in ("shape", "device"):
        wanted, got = getattr(real, what), getattr(fake, what)
        if wanted != got:
            wanted, got = (list(v) if what == "shape" else v for v in (wanted, got))
            raise UsageError(f"fake: expected the {what} of real {wanted}, got {got}")
    if epsilon is None:
        return _per_image(real, generator)
    if epsilon.shape != (len(real), *[1] * (real.dim() - 1)):
        raise UsageError(f"epsilon: expected {[len(real), *[1] * (real.dim() - 1)]}, got {list(epsilon.shape)}")
    return epsilon.to(real.dtype)


def _per_image(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), [N, 1, ...]."""
    shape = [len(images)] + [1] * (images.dim() - 1)
    return torch.rand(shape, dtype=images.dtype, device=images.device, generator=generator)


def _gradient(
    discriminator: Discriminator,
    points: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    scale: float | Tensor,
    output: Output,
) -> Tensor:
    """∇ D at the points, differentiable; in float32 at least if there is a scale."""
    points = points.detach().requires_grad_()
    # Also under no_grad, in which a caller may compute a penalty for its logs.
    with torch.enable_grad():
        logits = _selected(discriminator(points, *args, **kwargs), output)
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"discriminator: expected logits, one tensor, got {_described(logits)}; say which by output=, as an"
                " index, a key, or a function of them"
            )
        if not logits.requires_grad:
            got = f"a tensor of {logits.dtype} without a gradient"
            raise UsageError(f"discriminator: expected logits that depend on the images differentiably, got {got}")
        scaled = not (isinstance(scale, int | float) and scale == 1)
        total = logits.sum(dtype=_wide(logits.dtype))
        total = total * scale if scaled else total
        (gradient,) = torch.autograd.grad(total, points, create_graph=True, allow_unused=True)
    if gradient is None:
        raise UsageError("discriminator: expected logits that depend on the images, got a gradient of None")
    return gradient.to(_wide(gradient.dtype)) / scale if scaled else gradient


def _selected(outputs: Any, output: Output) -> Any:
    """The logits among what a discriminator returns."""
    if output is None:
        return outputs
    if callable(output):
        return output(outputs)
    try:
        return outputs[output]
    except (LookupError, TypeError) as error:
        raise UsageError(
            f"output: the discriminator's outputs have no {output!r}, got {_described(outputs)}"
        ) from error


def _described(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f"a dictionary with {', '.join(map(repr, outputs))}"
    many = f"{len(outputs)} in a " if isinstance(outputs, list | tuple) else ""
    return f"{many}{type(outputs).__name__}"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _dragan(
    discriminator: Discriminator, real: Tensor, fake: Tensor, *args: Any, epsilon: Tensor | None, **kwargs: Any
) -> Tensor:
    return dragan(discriminator, real, *args, **kwargs)


def _r1(
    discriminator: Discriminator, real: Tensor, fake: Tensor, *args: Any, epsilon: Tensor | None, **kwargs: Any
) -> Tensor:
    return r1(discriminator, real, *args, **kwargs)


def _r2(
    discriminator: Discriminator, real: Tensor, fake: Tensor, *args: Any, epsilon: Tensor | None, **kwargs: Any
) -> Tensor:
    return r2(discriminator, fake, *args, **kwargs)


#: Every penalty by name, as penalty(discriminator, real, fake, *args, weight=, epsilon=, scale=).
PENALTIES: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": gradient_penalty,
    "zero_centered_gp": zero_centered_gp,
    "dragan": _dragan,
    "r1": _r1,
    "r2": _r2,
}
