"""What a file of networks contains, before any network is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class State:
    """One network of a file: its tensors by name, and its class and constructor arguments where the file has them."""

    tensors: dict[str, Tensor]
    class_name: str = ""
    positional: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors, buffers among them: a file of weights does not tell one from the other."""
        return sum(value.numel() for value in self.tensors.values())


@dataclass
class Contents:
    """A file. format: in words. networks: by their names in the file. facts: its other plain values."""

    format: str
    networks: dict[str, State]
    facts: dict[str, Any]
