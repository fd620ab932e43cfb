"""Numbers, time spans and recorded values as plain text. Nothing here is escaped: the templates do that."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

#: What a table shows where there is no value.
NONE = "–"


def words(name: str) -> str:
    """Turn an identifier into words: `images_per_second` → `images per second`."""
    return name.replace("_", " ")


def number(value: object) -> float | None:
    """Return the value as a float if it is a finite number and no bool, else None."""
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


def figure_or_none(value: object) -> str:
    """`figure`, or NONE for what is no finite number."""
    return NONE if number(value) is None else figure(value)


def exponent(value: float, decimals: int) -> str:
    """Write a number with a power of ten, without trailing zeros: `1.2e−6`, `1e9`."""
    mantissa, _, power = f"{value:.{decimals}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(power)}".replace("-", "−")


def short(value: float) -> str:
    """Write a large count in three digits: `823`, `412 k`, `1.27 M`."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):g} {sign}"
    return figure(value)


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
    """Write a recorded value: a string without quotes, null and the empty string as `none`, all others as JSON."""
    if value is None or value == "":
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flatten(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """List the leaves of nested mappings in order, each under its path joined by dots."""
    leaves: list[tuple[str, object]] = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        leaves += flatten(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return leaves
