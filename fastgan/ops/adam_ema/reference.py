"""Specification of adam_ema: Adam (Kingma and Ba 2015, arXiv:1412.6980) as torch.optim.Adam(fused=True) computes it,
between a check of the gradients and the moving average of the weights.

For N weights w_i with gradients g_i, means m_i and squares v_i, counts t_i of updates, averages a_i and copies c_i:

    1. norms        n_i = ‖g_i‖, n = ‖(n_1, ..., n_N)‖, in float32 or wider, float64 if a gradient is; both / divisor
    2. check        bad = 1 unless n and the loss are finite, else 0
    3. clipping     divisor ← divisor · max(n / clip, 1), if clip > 0
    4. Adam         if bad = 0:  t_i ← t_i + 1
                                 g ← g_i / divisor
                                 m_i ← lerp(m_i, g, 1 − β1)
                                 v_i ← β2 v_i + (1 − β2) g²
                                 w_i ← w_i − lr / (1 − β1^t_i) · m_i / (√v_i / √(1 − β2^t_i) + eps)
    5. average      a_i ← lerp(a_i, w_i, ema_weight), also if bad = 1
    6. copy         c_i ← w_i in c_i's dtype, also if bad = 1

Steps 4 to 6 are in the weights' dtype, with the factors of step 4 computed in double precision. lerp(x, y, p) is
x + p (y − x), for p >= 1/2 as y − (1 − p) (y − x). Nothing waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Checked(NamedTuple):
    """What steps 1 to 3 find, on the gradients' device.

    norm: scalar, of the whole gradient before clipping. norms: [N]. divisor: scalar, of the gradients. bad: scalar, 1
    where the update is skipped, else 0. All are float32.
    """

    norm: Tensor
    norms: Tensor
    divisor: Tensor
    bad: Tensor


def check_gradients(gradients: list[Tensor], loss: Tensor, divisor: Tensor, clip: float) -> Checked:
    """Steps 1 to 3. loss: scalar. divisor: float32 scalar. clip: largest norm, 0 for none."""
    wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
    norms = torch.stack(torch._foreach_norm(gradients, dtype=wide))
    norm, norms = norms.norm().float() / divisor, norms.float() / divisor
    bad = (~(norm.isfinite() & loss.isfinite())).float()
    if clip > 0:
        divisor = divisor * (norm / clip).clamp(min=1.0)
    return Checked(norm, norms, divisor, bad)


def adam_ema(
    weights: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    averages: list[Tensor | None],
    copies: list[Tensor | None],
    loss: Tensor,
    divisor: Tensor,
    ema_weight: float | Tensor,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    clip: float,
) -> Checked:
    """Steps 1 to 6, in place. PyTorch's kernel overwrites the gradients by those of step 4."""
    checked = check_gradients(gradients, loss, divisor, clip)
    for dtype in {weight.dtype for weight in weights}:
        own = [i for i, weight in enumerate(weights) if weight.dtype == dtype]
        w, g, m, v, t = ([tensors[i] for i in own] for tensors in (weights, gradients, means, squares, steps))
        torch._foreach_add_(t, 1)
        torch._fused_adam_(
            w, g, m, v, [], t, lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps, amsgrad=False,
            maximize=False, grad_scale=checked.divisor, found_inf=checked.bad,
        )  # fmt: skip
        torch._foreach_sub_(t, [checked.bad] * len(t))
    follow(weights, averages, ema_weight)
    copy(weights, copies)
    return checked


def follow(weights: list[Tensor], averages: list[Tensor | None], ema_weight: float | Tensor) -> None:
    """Step 5, for the weights that have an average."""
    pairs = [(average, weight) for average, weight in zip(averages, weights, strict=True) if average is not None]
    if not pairs:
        return
    ours, theirs = map(list, zip(*pairs, strict=True))
    if isinstance(ema_weight, Tensor):
        torch._foreach_lerp_(ours, theirs, [ema_weight.to(average.dtype) for average in ours])
    else:
        torch._foreach_lerp_(ours, theirs, ema_weight)


def copy(weights: list[Tensor], copies: list[Tensor | None]) -> None:
    """Step 6, for the weights that have a copy."""
    pairs = [(own, weight) for own, weight in zip(copies, weights, strict=True) if own is not None]
    if pairs:
        ours, theirs = map(list, zip(*pairs, strict=True))
        torch._foreach_copy_(ours, theirs)
