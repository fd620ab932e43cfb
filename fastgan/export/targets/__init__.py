"""Export targets: the kinds of files that a network is exported to. One file each, found by listing this folder.

To add one, write a file with a subclass of `base.Target` decorated with `base.register`. `fastgan.export.export`, the
choices of the command line, `fastgan doctor` and the error messages all read this registry.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from fastgan.export.targets import base
from fastgan.export.targets.base import Target


@functools.cache
def registry() -> dict[str, type[Target]]:
    """All targets by name, in alphabetical order. Their modules are imported, the libraries behind them are not."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(base._registered.items()))
