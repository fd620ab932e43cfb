"""Networks to export, by what a user types: a file of weights, a pretrained network's name, a module in code."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from fastgan.errors import UsageError


def open_network(source: str | Path) -> nn.Module:
    """The network that `source` names.

    "file.py:name" or "package.module:name": a torch.nn.Module there, or a function without arguments that returns one.
    That file is run: it is the user's own. A path to weights in a layout that fastgan knows (`fastgan.models.esrgan`):
    nothing in them is run. The name of a pretrained network (`fastgan models`): fetched into the cache. Raises
    UsageError for anything else, and what loading raises.
    """
    text = str(source)
    place, colon, name = text.rpartition(":")
    if colon and place and name.isidentifier():
        return _from_code(place, name)
    from fastgan.upscale import pretrained

    path = Path(text)
    if path.is_dir():
        raise UsageError(f"source: expected a run or one of its checkpoints, {text} is a directory with neither in it")
    if not path.is_file():
        if text not in pretrained.KNOWN:
            near = difflib.get_close_matches(text, pretrained.KNOWN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"source: {text} is no run, file of weights, pretrained network or module (file.py:name){hint}"
            )
        path = pretrained.fetch(text)
    from fastgan.models.esrgan import load

    return load(path)


def _from_code(place: str, name: str) -> nn.Module:
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module_named(place)
    if not hasattr(module, name):
        raise UsageError(f"source: {place} has no {name!r}")
    found = getattr(module, name)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:  # the user's code
            raise UsageError(f"source: {name}() of {place} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(f"source: {place}:{name} must be or return a torch.nn.Module, got {type(found).__name__}")
    return found


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"source: {path} is not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As when a script is run: its neighbors can be imported, and dataclasses find the module by its name.
    added = str(path.resolve().parent)
    before = sys.modules.get(spec.name)
    sys.path.insert(0, added)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code
        del sys.modules[spec.name]
        if before is not None:
            sys.modules[spec.name] = before
        raise UsageError(f"source: {path} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(added)
    return module


def _module_named(place: str) -> Any:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise UsageError(f"source: {place} cannot be imported: {error}") from error
