"""Tasks by name. A new one is one file with a class, and one line in TASKS.

Its constructor takes what `fastgan.tasks.Generation`'s takes; its keyword-only arguments are the task's own options,
`--task.OPTION` on the command line. This module imports neither PyTorch nor a task: the names can be listed without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastgan._util import keyword_options
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.tasks.base import Task

#: task → its module and class
TASKS: dict[str, tuple[str, str]] = {
    "autoencoder": ("fastgan.tasks.autoencoder", "Autoencoder"),
    "compression": ("fastgan.tasks.compression", "Compression"),
    "contrastive": ("fastgan.tasks.contrastive", "Contrastive"),
    "generation": ("fastgan.tasks.generation", "Generation"),
    "paired": ("fastgan.tasks.paired", "Paired"),
    "super-resolution": ("fastgan.tasks.super_resolution", "SuperResolution"),
    "unpaired": ("fastgan.tasks.unpaired", "Unpaired"),
    "variation": ("fastgan.tasks.variation", "Variation"),
}


def task_class(name: str) -> type[Task]:
    """The class of a task. Raises UsageError for an unknown name."""
    if name not in TASKS:
        raise UsageError(
            f"task: expected one of {', '.join(TASKS)}, got {name!r}{keyword_options.nearest(name, TASKS)}"
        )
    module, own = TASKS[name]
    found: type[Task] = getattr(importlib.import_module(module), own)
    return found


def option_types(name: str) -> dict[str, Any]:
    """The options of a task and their types. Raises UsageError for an unknown name."""
    return keyword_options.option_types(task_class(name))


def task_for(name: str | None, generator: Any) -> type[Task]:
    """The class of the task of this name; of None "paired" for a generator of source images, else "generation"."""
    return task_class(name or ("paired" if getattr(generator, "source_channels", 0) else "generation"))
