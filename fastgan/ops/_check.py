"""Errors about arguments: they name the argument, what was expected, and what came."""

from __future__ import annotations

from typing import Any


def bad(name: str, expected: str, got: Any, error: type[Exception] = ValueError) -> Exception:
    """The exception to raise. Called after a failed check only, since building its text costs more than the check."""
    return error(f"{name}: expected {expected}, got {got}")
