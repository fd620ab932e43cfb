"""Low-pass filters of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423, section 3.2 and appendix C).

A windowed ideal low-pass: its transition band decides how strongly the Kaiser window falls off. The radially symmetric
ones have the jinc function, the two-dimensional counterpart of sinc.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def kaiser_low_pass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """A filter of `taps` numbers for samples at `rate`, float32 [taps], or [taps, taps] if radial; None for one tap.

    cutoff: frequency at the middle of the transition band. width: of that band. All three in the same unit. The filter
    sums to 1.
    """
    if taps == 1:
        return None
    window = np.kaiser(taps, kaiser_beta(taps, width / (rate / 2)))
    at = (np.arange(taps) - (taps - 1) / 2) / rate
    if not radial:
        values = np.sinc(2 * cutoff * at) * window
    else:
        radius = np.hypot(at[:, None], at[None, :])
        radius[radius == 0] = 1e-9 / cutoff  # where the quotient below tends to `cutoff`
        bessel = torch.special.bessel_j1(torch.from_numpy(2 * math.pi * cutoff * radius)).numpy()
        values = bessel / (math.pi * radius) * np.outer(window, window)
    return torch.from_numpy(values / values.sum()).float()


def kaiser_beta(taps: int, width: float) -> float:
    """The parameter of the Kaiser window of `taps` numbers for a transition band of `width`, a fraction of half the
    sampling rate: Kaiser's formulas for the attenuation in dB, and for beta."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
