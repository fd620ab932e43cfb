"""What a file of networks contains, before any network is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastgan.errors import DataError


@dataclass
class State:
    """One network of a file: its tensors by name, and its class and constructor arguments where the file has them.

    defaults: of arguments that the file leaves to its own class, where they are others than those of the class here.
    """

    tensors: dict[str, Tensor]
    class_name: str = ""
    positional: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors, buffers among them: a file of weights does not tell one from the other."""
        return sum(value.numel() for value in self.tensors.values())

    def shape(self, name: str, length: int) -> tuple[int, ...]:
        """The shape of a weight of so many dimensions. Raises DataError where it is missing or has another shape."""
        if name not in self.tensors:
            raise DataError(f"{name} is missing")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != length or 0 in shape:
            raise DataError(f"{name} has shape {list(shape)}: expected {length} dimensions of at least 1")
        return shape


@dataclass
class Contents:
    """A file. format: in words. networks: by their names in the file. facts: its other plain values."""

    format: str
    networks: dict[str, State]
    facts: dict[str, Any]
