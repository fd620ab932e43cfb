"""Infers the spec of an ONNX file without fastgan's metadata, by running it."""

from __future__ import annotations

import numpy as np

from fastgan._util.memory import require_memory
from fastgan._util.schema import shown_name
from fastgan.errors import ExportError, first_line
from fastgan.runtime.backends.base import Backend, Port
from fastgan.runtime.spec import KEY, Spec

#: Heights and widths to try where the file leaves them open: odd multiples of these.
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


def infer(backend: Backend, path: object) -> Spec:
    """The spec of an image-to-image model; its values are assumed to be in [0, 1]. ExportError for another model."""
    port, reason = _port(backend)
    if reason:
        raise ExportError(
            f"model: {path} was not written by fastgan export (its metadata {KEY!r} is missing), and is no model from"
            f" images to images: {reason}"
        )
    batch, channels, height, width = port.shape
    assert channels is not None
    problem = ""
    for multiple in (1,) if height and width else _MULTIPLES:
        # Odd multiples, height and width different, at least 16: few networks need larger images.
        odd = max(17 // multiple, 1) | 1
        h, w = height or odd * multiple, width or (odd + 2) * multiple
        require_memory(4 * (batch or 1) * channels * h * w, f"an input of {path}")
        x = np.random.default_rng(0).random((batch or 1, channels, h, w), dtype=np.float32)
        try:
            got = backend.run(x).shape
        except Exception as error:  # every library has exceptions of its own
            problem = problem or f"it fails on {list(x.shape)}: {first_line(error)}"
            continue
        scale = got[2] // h if len(got) == 4 else 0
        if got == (*x.shape[:2], scale * h, scale * w) and scale:
            return Spec("image", channels=channels, scale=scale, multiple=multiple, range=(0.0, 1.0))
        problem = f"for {list(x.shape)} it returns {list(got)}, whose size is no whole multiple"
    raise ExportError(f"model: {path} is no model from images to images of the same channels: {problem}")


def _port(backend: Backend) -> tuple[Port, str]:
    """The input, and the reason why it is not that of an image-to-image model, or \"\"."""
    inputs, outputs = backend.inputs, backend.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        found = f"it has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each"
        return Port("", (), ""), found
    (port,) = inputs
    if port.dtype not in ("float32", "float16"):
        return port, f"its input {shown_name(port.name)} is {port.dtype}, expected float32 or float16"
    if len(port.shape) != 4 or port.shape[1] not in (1, 3, 4):
        shape = ", ".join("any" if n is None else str(n) for n in port.shape)
        return port, f"its input {shown_name(port.name)} is [{shape}], expected [N, 1, 3 or 4 channels, H, W]"
    return port, ""
