"""A hook of mkdocs: links to files outside of docs/ become plain text, because the site does not contain these files.

Such links work where the pages are read beside the sources; tests/test_docs.py checks that every one of them exists.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace `[text](../path)` by `text (path)`, or by the path alone if the text is its last part."""

    def as_text(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return match.group()
        return f"`{path}`" if text.strip("`/") in (path, posixpath.basename(path)) else f"{text} (`{path}`)"

    return LINK.sub(as_text, markdown)
