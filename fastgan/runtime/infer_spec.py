"""Infers the spec of an ONNX file without fastgan's metadata, by running it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from fastgan._util.memory import require_memory
from fastgan._util.schema import shown_name
from fastgan.errors import ExportError, first_line
from fastgan.runtime.backends.base import Backend, Port
from fastgan.runtime.spec import KEY, Spec

#: Heights, widths and lengths to try where the file leaves them open: odd multiples of these.
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def infer(backend: Backend, path: object) -> Spec:
    """The spec of a model from images to images or from signals to signals; ExportError for another model.

    Images are assumed to be in [0, 1], the values of signals that come out in [-1, 1].
    """
    port, reason = _port(backend)
    if reason:
        raise ExportError(
            f"model: {path} was not written by fastgan export (its metadata {KEY!r} is missing), and is no model from"
            f" images to images or from signals to signals: {reason}"
        )
    batch, channels, *given = port.shape
    assert channels is not None
    problem = ""
    for multiple in (1,) if all(given) else _MULTIPLES:
        # Odd multiples, height and width different, at least 16: few networks need larger images.
        odd = max(17 // multiple, 1) | 1
        sizes = [side or (odd + 2 * i) * multiple for i, side in enumerate(given)]
        require_memory(4 * (batch or 1) * channels * prod(sizes), f"an input of {path}")
        x = np.random.default_rng(0).random((batch or 1, channels, *sizes), dtype=np.float32)
        try:
            got = backend.run(x).shape
        except Exception as error:  # every library has exceptions of its own
            problem = problem or f"it fails on {list(x.shape)}: {first_line(error)}"
            continue
        scale = got[2] // sizes[0] if len(got) == x.ndim and sizes[0] else 0
        if scale and got[0] == x.shape[0] and list(got[2:]) == [scale * side for side in sizes]:
            out = 0 if got[1] == channels else got[1]
            found = Spec("signal", channels=channels, out_channels=out, scale=scale, multiple=multiple)
            return found if len(sizes) == 1 else replace(found, kind="image", range=(0.0, 1.0))
        problem = f"for {list(x.shape)} it returns {list(got)}, whose size is no whole multiple"
    raise ExportError(f"model: {path} is no model from images to images or from signals to signals: {problem}")


def _port(backend: Backend) -> tuple[Port, str]:
    """The input, and the reason why it is not that of a model from images or signals, or \"\"."""
    inputs, outputs = backend.inputs, backend.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        found = f"it has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each"
        return Port("", (), ""), found
    (port,) = inputs
    if port.dtype not in ("float32", "float16"):
        return port, f"its input {shown_name(port.name)} is {port.dtype}, expected float32 or float16"
    if len(port.shape) not in (3, 4) or not port.shape[1]:
        shape = ", ".join("any" if n is None else str(n) for n in port.shape)
        return port, f"its input {shown_name(port.name)} is [{shape}], expected [N, channels, H, W] or [N, channels, T]"
    return port, ""
