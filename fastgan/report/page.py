"""The page of a run: one HTML file that needs only a browser, online or offline.

Three layers: `load` reads the run directory into a `Run`, this module and `view` make plain values of it, and
templates/run.html.j2 turns these into HTML.
"""

from __future__ import annotations

from pathlib import Path

from fastgan._util.files import write_whole
from fastgan.report import view
from fastgan.report.charts import SMOOTHED_FROM, charts
from fastgan.report.diagnostics import diagnoses
from fastgan.report.load import Run, read_run
from fastgan.report.render import render
from fastgan.report.sample_grids import sample_grids
from fastgan.report.series import POINTS, Series, series_by_group

#: How often the page of a run that goes on reloads itself.
RELOAD_SECONDS = 15


def write_report(run: Path) -> Path:
    """Write `report.html` into a run directory, whole or not at all, and return its path.

    Only config.json is required (UsageError if it is missing). The page names every other missing part.
    """
    html = page(read_run(run))
    path = Path(run) / "report.html"
    write_whole(path, html.encode("utf-8", "replace"))
    return path


def page(run: Run) -> str:
    """A run as one self-contained HTML page."""
    groups = series_by_group(run.metrics)
    return render(
        "run.html.j2",
        name=run.name,
        status=view.status(run, groups),
        reload=RELOAD_SECONDS,
        notes=run.notes,
        findings=view.findings(run),
        tiles=view.tiles(run, groups),
        grids=sample_grids(run),
        charts=charts(groups, diagnoses(run.metrics, run.unbounded)),
        chart_note=_chart_note(groups),
        evaluations=view.evaluations(run),
        export=view.export(run),
        layers=view.layers(run),
        configuration=view.configuration(run),
        dataset=view.dataset(run),
        networks=view.networks(run),
        environment=view.environment(run),
        command=run.command,
    )


def _chart_note(groups: dict[str, list[Series]]) -> str:
    longest = max((len(series.steps) for group in groups.values() for series in group), default=0)
    note = "Faint lines show the logged values, bold lines are smoothed." if longest >= SMOOTHED_FROM else ""
    if longest > POINTS:
        note += f" Curves of more than {POINTS} points are averaged in bins of neighboring points."
    return note
