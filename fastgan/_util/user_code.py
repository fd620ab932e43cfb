"""Imports a user's Python file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from fastgan.errors import UsageError


def module_of_file(path: Path, argument: str) -> Any:
    """The module that a file is, which is executed. argument: what an error names.

    Raises UsageError if there is no such file, or with what the file raises.
    """
    if not path.is_file():
        raise UsageError(f"{argument}: {path} is not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for a script: modules beside it can be imported, and dataclasses find the module by its name.
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
        raise UsageError(f"{argument}: {path} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(added)
    return module
