"""Words, numbers and small tables for the report page. Everything that leaves here as HTML is escaped."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence


def escape(value: object) -> str:
    """Make any value safe as HTML text and as a quoted attribute."""
    return html.escape(str(value), quote=True)


def words(name: str) -> str:
    """Turn an identifier into words: `images_per_second` → `images per second`."""
    return name.replace("_", " ")


def number(value: object) -> float | None:
    """Return the value as a float if it is a finite number (a bool is none), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def figure(value: object) -> str:
    """Write a number with four significant digits: `0.6931`, `3000`, `12,345`, `1.2e−6`."""
    plain = number(value)
    if plain is None:
        return "not finite"
    size = abs(plain)
    if size >= 1e9 or 0 < size < 1e-3:
        return exponent(plain, 2)
    if size >= 1000:
        whole = round(plain)
        text = f"{whole:,}" if abs(whole) >= 10_000 else str(whole)
    else:
        text = f"{plain:.4g}"
    return text.replace("-", "−")


def exponent(value: float, decimals: int) -> str:
    """Write a number with a power of ten, no idle zeros: `1.2e−6`, `1e9`."""
    mantissa, _, power = f"{value:.{decimals}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(power)}".replace("-", "−")


def duration(seconds: float) -> str:
    """Write a time span with its two leading units: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        parts.append((left // size, unit))
        left %= size
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def plain(value: object) -> str:
    """Write a recorded value as it stands: strings bare, everything else as JSON, null and nothing as `none`."""
    if value is None or value == "":
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flatten(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """List the leaves of nested mappings in order, the way to a leaf joined by dots."""
    leaves: list[tuple[str, object]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        leaves += flatten(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return leaves


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Render name and value pairs as a table, one a row."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(plain(value))}</td></tr>' for name, value in rows
    )
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table with a head; cells are text and are escaped here."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="grid"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
