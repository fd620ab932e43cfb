"""Does the exported file compute what the network computes?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fastgan.deploy.session import Session, latents
from fastgan.errors import ExportError

#: Largest absolute difference between the runtime's images and PyTorch's, values being in [-1, 1].
LIMIT = 1e-4
#: More than one batch size, because exporters have been seen to freeze the one they traced.
BATCHES = (1, 3, 64)


def verify(session: Session, generator: nn.Module, seed: int = 0) -> list[dict[str, Any]]:
    """Compare at every batch of BATCHES. Returns the errors of each; raises ExportError above LIMIT."""
    rows = []
    for batch in BATCHES:
        z = latents(batch, session.latent_shape, seed + batch)
        with torch.no_grad():
            expected = generator(torch.from_numpy(z)).numpy()
        try:
            got = session(z)
        except Exception as error:  # whatever the runtime raises at another batch size, the export is wrong
            raise ExportError(f"the exported model fails at batch {batch}: {error}") from error
        if got.shape != expected.shape:
            raise ExportError(
                f"the exported model gives {list(got.shape)} at batch {batch}, not {list(expected.shape)}"
            )
        distance = np.abs(got - expected)
        # Not `> LIMIT`: a NaN must not pass.
        if not distance.max() <= LIMIT:
            raise ExportError(
                f"the exported model is off by {distance.max():.2e} at batch {batch}; allowed is {LIMIT:.0e}"
            )
        rows.append({"batch": batch, "max_abs_error": float(distance.max()), "mean_abs_error": float(distance.mean())})
    return rows
