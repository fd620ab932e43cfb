"""What was measured of a run beside its curves: the figures of `fastgan eval`, and its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastgan.report.load import Run
from fastgan.report.text import escape, figure, number, table, words

_NONE = "–"


def evaluation(run: Run) -> str:
    """Render every evaluation of the run, the latest first: figures under the names that hold their protocol."""
    if not run.evaluations:
        return (
            '<p class="empty">The samples were not judged yet'
            " (fastgan eval RUN --against DATA writes FID, KID and more here).</p>"
        )
    return "".join(_evaluation(found) for found in reversed(run.evaluations))


def figures_of(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an evaluation, those that are rows."""
    rows = evaluation.get("rows")
    return [row for row in rows if isinstance(row, dict) and "name" in row] if isinstance(rows, list) else []


def compared(evaluation: Mapping[str, Any]) -> str:
    """Say what was compared with what: `5,000 samples of step 3000 against 5,000 images of mnist`."""
    counts = [figure(evaluation.get(key)) for key in ("samples", "reference_images")]
    step = number(evaluation.get("step"))
    at = "" if step is None else f" of step {figure(step)}"
    return f"{counts[0]} samples{at} against {counts[1]} images of {evaluation.get('reference')}"


def _evaluation(found: Mapping[str, Any]) -> str:
    rows = [cells for row in figures_of(found) for cells in _cells(row)]
    head = ["figure", "value", "standard error", "of real images", "better"]
    by = found.get("extractor_about")
    accuracy = number(found.get("extractor_accuracy"))
    sure = "" if accuracy is None else f", right on {100 * accuracy:.1f} % of held-out images"
    about = f'<p class="note">Features by {escape(by)}{sure}.</p>' if by else ""
    warnings = found.get("warnings")
    said = "".join(
        f'<li class="verdict interrupted"><span>{escape(warning)}</span></li>'
        for warning in (warnings if isinstance(warnings, list) else [])
    )
    return (
        f'<div class="evaluation"><h3>{escape(compared(found))}</h3>{about}{table(head, rows)}'
        + (f'<ul class="verdicts">{said}</ul>' if said else "")
        + "</div>"
    )


def _cells(row: Mapping[str, Any]) -> Iterator[list[str]]:
    value, error, real = (_shown(row.get(key)) for key in ("value", "error", "real"))
    note = str(row.get("note") or "")
    yield [str(row["name"]), value, error, real, "; ".join(filter(None, [str(row.get("better") or ""), note]))]
    if isinstance(parts := row.get("parts"), dict):
        yield from ([f"· {name}", _shown(part), _NONE, _NONE, ""] for name, part in parts.items())


def _shown(value: object) -> str:
    return _NONE if number(value) is None else figure(value)


def layers(run: Run) -> str:
    """Render the last closer look at each weight, one table for each network; folded, as it is long."""
    if not run.layers:
        return '<p class="empty">No layers were looked at (there is no layers.json).</p>'
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in run.layers:
        networks.setdefault(str(row.get("weight")).partition(".")[0], []).append(row)
    return "".join(_network(name, rows) for name, rows in networks.items())


def _network(name: str, rows: list[dict[str, Any]]) -> str:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "weight"]
    cells = [[str(row.get("weight")).partition(".")[2], *(_shown(row.get(key)) for key in keys)] for row in rows]
    count = "1 weight" if len(rows) == 1 else f"{len(rows)} weights"
    return (
        f'<details><summary>{escape(words(name))} <span class="meaning">{count}</span></summary>'
        f"{table(['weight', *map(words, keys)], cells)}</details>"
    )
