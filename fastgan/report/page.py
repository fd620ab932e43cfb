"""The page of a run: one HTML file that needs nothing but a browser, online or off."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from fastgan._files import write_whole
from fastgan.report.curves import SMOOTHED_FROM, charts
from fastgan.report.panels import panels
from fastgan.report.read import Run, read_run
from fastgan.report.sections import command, configuration, environment, export
from fastgan.report.series import POINTS, Series, series_by_group
from fastgan.report.text import duration, escape, figure, number, words
from fastgan.report.verdicts import Verdict, current, verdicts

_STATES = {"running", "finished", "interrupted", "failed"}


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
    style, script = (files("fastgan.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    # The policy is a guarantee, not a wish: a browser refuses whatever would be loaded from elsewhere.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    sections = [
        _section("Samples", panels(run)),
        _section("Curves", _curves(groups, found)),
        _section("Export", export(run)),
        _section("Configuration", configuration(run)),
        _section("Environment", environment(run)),
        _section("Reproduce", command(run)),
    ]
    return (
        '<!doctype html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<title>{escape(run.name)} – fastgan run</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n{_head(run, groups)}\n{_judged(run, found)}\n</header>\n<main>\n{_tiles(run, groups)}\n"
        + "\n".join(sections)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def state_sentence(run: Run, groups: dict[str, list[Series]]) -> str:
    """Say how the run stands: `finished at step 3000 of 3000 after 3 min 20 s; 812 images per second`."""
    state = str(run.status.get("state") or "")
    sentence = state or "state unknown (no status.json)"
    step = number(run.status.get("step"))
    if step is not None:
        sentence += f" at step {figure(step)}"
    elif run.metrics:
        sentence += f", last logged at step {figure(run.metrics[-1]['step'])}"
    if (steps := number(run.status.get("steps"))) is not None:
        sentence += f" of {figure(steps)}"
    if (seconds := _last(run, "seconds")) is not None:
        sentence += f" after {duration(seconds)}"
    speed, _ = _speed(run, groups)
    if speed is not None:
        sentence += f"; {speed} images per second"
    return sentence


def _state(run: Run) -> str:
    state = str(run.status.get("state", "unknown"))
    return state if state in _STATES else "unknown"


def _last(run: Run, key: str) -> float | None:
    return next((value for row in reversed(run.metrics) if (value := number(row.get(key))) is not None), None)


def _speed(run: Run, groups: dict[str, list[Series]]) -> tuple[str | None, str]:
    """Images per second, and how they were reckoned."""
    # The median over log intervals: the first one holds compilation, and a pause of the machine is no speed.
    for series in groups.get("speed", []):
        if series.name == "images_per_second" and len(series.finite):
            return _speed_figure(float(np.median(series.finite))), "median"
    images, seconds = _last(run, "images"), _last(run, "seconds")
    if images is None or not seconds:
        return None, ""
    return _speed_figure(images / seconds), "over the whole run"


def _speed_figure(speed: float) -> str:
    return figure(round(speed) if speed >= 10 else speed)


def _section(title: str, content: str) -> str:
    name = title.lower()
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{content}\n</section>'


def _head(run: Run, groups: dict[str, list[Series]]) -> str:
    state = _state(run)
    out = (
        f'<p class="eyebrow">fastgan training run</p>\n<h1>{escape(run.name)}</h1>\n'
        f'<p class="state {state}"><span>{escape(state_sentence(run, groups))}</span></p>'
    )
    if message := run.status.get("message"):
        out += f'\n<p class="message {state}">{escape(message)}</p>'
    return out + "".join(f'\n<p class="note">{escape(note)}</p>' for note in run.notes)


def _judged(run: Run, found: list[Verdict]) -> str:
    """What the monitor's rules say, in words: what is wrong at the last line first, then what was."""
    if not run.metrics:
        return ""
    now = current(run.metrics)
    past = [verdict for verdict in found if verdict not in now]
    if not found:
        return '<p class="verdict finished"><span>nothing wrong was noticed in the figures</span></p>'
    items = ""
    for verdict in [*now, *past]:
        state = "failed" if verdict in now else "interrupted"
        steps = f"since step {figure(verdict.since)}"
        if verdict in past:
            steps = f"steps {figure(verdict.since)} to {figure(verdict.until)}"
        items += (
            f'<li class="verdict {state}"><span><b>{escape(verdict.name)}</b> {steps}: {escape(verdict.evidence)}.'
            f" May help: {escape('; '.join(verdict.remedies))}.</span></li>"
        )
    return f'<ul class="verdicts">{items}</ul>'


def _tiles(run: Run, groups: dict[str, list[Series]]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if (images := _last(run, "images")) is not None:
        count = number(run.dataset.get("count"))
        tiles.append((figure(images), "images shown", f"{images / count:.3g} epochs" if count else ""))
    if (seconds := _last(run, "seconds")) is not None:
        tiles.append((duration(seconds), "training time", ""))
    speed, reckoning = _speed(run, groups)
    if speed is not None:
        tiles.append((speed, "images per second", reckoning))
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
        notes += f" Curves of more than {POINTS} points are averaged in bins of neighbouring points."
    return f'<div class="charts">{charts(groups, found)}</div>' + (f'<p class="note">{notes}</p>' if notes else "")
