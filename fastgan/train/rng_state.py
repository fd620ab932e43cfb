"""The states of random generators as JSON: torch's, and the global ones of Python and numpy, which a user's batches or
modules may draw from.
"""

from __future__ import annotations

import base64
import random
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Seed every default generator: torch's, Python's and numpy's."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002


def kept(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn from torch's default generators within leaves them as they were: for looking, not for training."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def encode(source: torch.Generator) -> str:
    """The state of a torch generator as text."""
    return _text(source.get_state().numpy())


def decode(source: torch.Generator, text: str) -> None:
    """Put a torch generator into a state that `encode` gave."""
    source.set_state(torch.from_numpy(_array(text, np.uint8)))


def encode_global() -> dict[str, Any]:
    """The states of `random` and `numpy.random`, in plain values."""
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    if "key" in state["state"]:  # all but the Mersenne twister keep plain numbers
        state["state"]["key"] = _text(state["state"]["key"].astype(np.uint32))
    return {"python": [version, _text(np.array(numbers, np.uint32)), gauss], "numpy": state}


def decode_global(states: dict[str, Any]) -> None:
    """Put `random` and `numpy.random` into states that `encode_global` gave."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(_array(numbers, np.uint32).tolist()), gauss))
    inner = dict(states["numpy"]["state"])
    if "key" in inner:
        inner["key"] = _array(inner["key"], np.uint32)
    np.random.set_state({**states["numpy"], "state": inner})  # noqa: NPY002


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(bytearray(base64.b64decode(text)), kind)
