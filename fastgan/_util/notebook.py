"""Jupyter notebooks: whether this process runs in one, and a picture in its output that is replaced by the next one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is never imported for that."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None  # a terminal's IPython has none


def has_widgets() -> bool:
    """Whether the progress bar of notebooks can be shown."""
    return importlib.util.find_spec("ipywidgets") is not None


class Picture:
    """A PNG file in the output of the running cell. `show` puts the next one in its place."""

    def __init__(self) -> None:
        self._shown: Any = None

    def show(self, path: Path) -> None:
        """Show the picture as it is in the file now."""
        from IPython.display import Image, display

        image = Image(data=path.read_bytes(), format="png")
        if self._shown is None:
            self._shown = display(image, display_id=True)
        else:
            self._shown.update(image)
