"""What all pages share: one HTML file with its style and script, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from fastgan.report.text import escape


def document(title: str, header: str, main: Sequence[str]) -> str:
    """A whole page; header and main are HTML."""
    style, script = (files("fastgan.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    # The policy is a guarantee, not a wish: a browser refuses whatever would be loaded from elsewhere.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    body = "\n".join(main)
    return (
        '<!doctype html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n{header}\n</header>\n<main>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """A part of a page under its heading."""
    name = title.lower().replace(" ", "-")
    return f'<section aria-labeledby="{name}"><h2 id="{name}">{title}</h2>\n{content}\n</section>'
