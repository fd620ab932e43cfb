"""The page of a run: one HTML file that needs nothing but a browser, online or off."""

from __future__ import annotations

from pathlib import Path

from fastgan._util.files import write_whole
from fastgan.report.curves import SMOOTHED_FROM, charts
from fastgan.report.diagnostics import Verdict, verdicts
from fastgan.report.document import document, section
from fastgan.report.figures import evaluation, layers
from fastgan.report.load import Run, read_run
from fastgan.report.run_status import judged, last, speed, state, state_sentence
from fastgan.report.sample_grids import panels
from fastgan.report.sections import command, configuration, environment, export
from fastgan.report.series import POINTS, Series, series_by_group
from fastgan.report.text import duration, escape, figure, number, words


def write_report(run: Path) -> Path:
    """Write `report.html` into a run directory, whole or not at all, and return its path.

    Only config.json must be there: UsageError if it is not. Every other missing part is said so on the page.
    """
    page = render(read_run(run))
    path = Path(run) / "report.html"
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def render(run: Run) -> str:
    """Render a run as one self-contained HTML page."""
    groups, found = series_by_group(run.metrics), verdicts(run.metrics)
    main = [
        _tiles(run, groups),
        section("Samples", panels(run)),
        section("Curves", _curves(groups, found)),
        section("Evaluation", evaluation(run)),
        section("Export", export(run)),
        section("Layers", layers(run)),
        section("Configuration", configuration(run)),
        section("Environment", environment(run)),
        section("Reproduce", command(run)),
    ]
    return document(f"{run.name} – fastgan run", f"{_head(run, groups)}\n{judged(run, found)}", main)


def _head(run: Run, groups: dict[str, list[Series]]) -> str:
    tone = state(run)
    out = (
        f'<p class="eyebrow">fastgan training run</p>\n<h1>{escape(run.name)}</h1>\n'
        f'<p class="state {tone}"><span>{escape(state_sentence(run, groups))}</span></p>'
    )
    if message := run.status.get("message"):
        out += f'\n<p class="message {tone}">{escape(message)}</p>'
    return out + "".join(f'\n<p class="note">{escape(note)}</p>' for note in run.notes)


def _tiles(run: Run, groups: dict[str, list[Series]]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if (images := last(run, "images")) is not None:
        count = number(run.dataset.get("count"))
        tiles.append((figure(images), "images shown", f"{images / count:.3g} epochs" if count else ""))
    if (seconds := last(run, "seconds")) is not None:
        tiles.append((duration(seconds), "training time", ""))
    fast, reckoning = speed(run, groups)
    if fast is not None:
        tiles.append((fast, "images per second", reckoning))
    for series in groups.get("metric", [])[:3]:
        if len(series.finite):
            tiles.append((figure(series.finite[-1]), words(series.name), "last measured"))
    for role in ("generator", "discriminator"):
        network = run.networks.get(role)
        if isinstance(network, dict) and (size := number(network.get("parameters"))) is not None:
            tiles.append((short(size), f"{role} parameters", str(network.get("name") or "")))
    if (count := number(run.dataset.get("count"))) is not None:
        tiles.append((figure(count), "training images", str(run.dataset.get("name") or "")))
    if not tiles:
        return '<p class="empty">No figures were logged yet.</p>'
    body = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        + (f'<dd class="more">{escape(more)}</dd></div>' if more else "</div>")
        for value, name, more in tiles
    )
    columns = len(tiles) if len(tiles) <= 5 else -(-len(tiles) // 2)
    return f'<dl class="tiles" style="--columns:{columns}">{body}</dl>'


def short(value: float) -> str:
    """Write a large count in three digits: `823`, `412 k`, `1.27 M`."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):g} {sign}"
    return figure(value)


def _curves(groups: dict[str, list[Series]], found: list[Verdict]) -> str:
    if not groups:
        return '<p class="empty">No metrics were logged (metrics.jsonl is missing or has no whole line yet).</p>'
    longest = max(len(series.steps) for group in groups.values() for series in group)
    notes = "Faint lines are as logged, bold lines smoothed." if longest >= SMOOTHED_FROM else ""
    if longest > POINTS:
        notes += f" Curves of more than {POINTS} points are averaged in bins of neighboring points."
    return f'<div class="charts">{charts(groups, found)}</div>' + (f'<p class="note">{notes}</p>' if notes else "")
