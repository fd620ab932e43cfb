"""Opens the network that a user names: a file of weights, or a module in Python code."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from fastgan._util.user_code import module_of_file
from fastgan.errors import UsageError


def open_network(source: str | Path, *, names: Iterable[str] = ()) -> nn.Module:
    """The network that `source` names.

    "file.py:name" or "package.module:name": a torch.nn.Module there, or a function without arguments that returns one;
    the user's file is executed. Otherwise a file that `fastgan.models.load` opens, of which nothing is executed: its
    generator, the averaged one where it has both; "FILE:G_A" names one of several. names: what else the caller accepts,
    for a "did you mean". Raises UsageError for other sources, and the errors of loading.
    """
    text = str(source)
    module, colon, name = text.rpartition(":")
    if colon and not module.endswith(".py") and Path(module).is_file() and not Path(text).exists():
        from fastgan.models.checkpoints import load_generator

        return load_generator(module, name)
    if colon and module and name.isidentifier():
        return _from_code(module, name)
    path = Path(text)
    if path.is_dir():
        raise UsageError(f"source: expected a run or one of its checkpoints, {text} is a directory with neither in it")
    if not path.is_file():
        near = difflib.get_close_matches(text, list(names), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"source: {text} is no run, file of weights, pretrained network or module (file.py:name){hint}"
        )
    from fastgan.models.checkpoints import load_generator

    return load_generator(path)


def _from_code(where: str, name: str) -> nn.Module:
    module = module_of_file(Path(where), "source") if where.endswith(".py") else _module_named(where)
    if not hasattr(module, name):
        raise UsageError(f"source: {where} has no {name!r}")
    found = getattr(module, name)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:  # the user's code
            raise UsageError(f"source: {name}() of {where} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(f"source: {where}:{name} must be or return a torch.nn.Module, got {type(found).__name__}")
    return found


def _module_named(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"source: {name} cannot be imported: {error}") from error
