"""Checks of arguments: the error names the argument, what was expected, and what came."""

from __future__ import annotations

from typing import Any


def expect(condition: bool, name: str, expected: str, got: Any, error: type[Exception] = ValueError) -> None:
    """Raise `error` unless condition holds."""
    if not condition:
        raise error(f"{name}: expected {expected}, got {got}")
