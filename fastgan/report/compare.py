"""The page that compares runs: one HTML file like a run's, with their curves in shared charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgan._util.files import overwritable, write_whole
from fastgan.errors import UsageError
from fastgan.report import view
from fastgan.report.charts import overlaid, style_of
from fastgan.report.load import Run, read_run
from fastgan.report.render import render
from fastgan.report.sample_grids import BUDGET, GridOverTime, Picture, over_time, picture, spread
from fastgan.report.series import series_by_group
from fastgan.report.text import NONE, duration, figure, flatten, number, plain

STEPS = 16
"""The largest number of steps that a page embeds; fewer if the pictures are large."""

_Labeled = Sequence[tuple[str, Run]]


@dataclass(frozen=True)
class RunStatus:
    """State and diagnoses of one of the runs. style: CSS classes of its color."""

    style: str
    label: str
    status: view.Status
    findings: list[view.Finding] | None


@dataclass(frozen=True)
class Comparison:
    """A table with a column for each run."""

    head: list[tuple[str, str]]  # (style, label)
    rows: list[tuple[str, list[str]]]  # (name, cells)


def write_comparison(paths: Sequence[Path], out: Path, *, overwrite: bool = False) -> Path:
    """Write a page that compares run directories to `out`, whole or not at all, and return its path.

    overwrite: replace an existing file. Raises UsageError for fewer than two runs, a run that is given twice, a path
    that is no run directory, or an `out` that exists or whose folder does not.
    """
    if len(paths) < 2:
        raise UsageError(f"runs: expected two or more to compare, got {len(paths)}")
    seen: set[Path] = set()
    for path in paths:
        if Path(path).resolve() in seen:
            raise UsageError(f"runs: {path} is given twice")
        seen.add(Path(path).resolve())
    if not out.parent.is_dir():
        raise UsageError(f"out: expected a file in an existing folder, got {out}")
    overwritable(out, overwrite)
    html = page([(label, read_run(path)) for label, path in zip(labels(paths), paths, strict=True)])
    write_whole(out, html.encode("utf-8", "replace"))
    return out


def labels(paths: Sequence[Path]) -> list[str]:
    """Names of run directories: the last parts of their paths, as many as make them differ."""
    parts = [Path(path).resolve().parts for path in paths]
    count = 1
    while len({own[-count:] for own in parts}) < len(parts):
        count += 1
    return ["/".join(own[-count:]) for own in parts]


def page(runs: _Labeled) -> str:
    """Runs, each with its label, as one self-contained HTML page."""
    steps, grids = _sample_grids(runs)
    real = next(((label, run.real) for label, run in runs if run.real is not None), None)
    different, same = _differences(runs)
    return render(
        "compare.html.j2",
        title=" and ".join(label for label, _ in runs) if len(runs) == 2 else f"{len(runs)} runs",
        runs=[
            RunStatus(style_of(i), label, view.status(run, series_by_group(run.metrics)), view.findings(run))
            for i, (label, run) in enumerate(runs)
        ],
        steps=steps,
        grids=grids,
        real_label=real[0] if real else "",
        real=picture(real[1], "grid of real images") if real else Picture(),
        results=_results(runs),
        evaluated=any(run.evaluations for _, run in runs),
        charts=overlaid([(label, series_by_group(run.metrics)) for label, run in runs]),
        differences=different,
        same=same,
    )


def _sample_grids(runs: _Labeled) -> tuple[list[int], list[GridOverTime]]:
    """The steps of the slider, and for each run its "fixed" grids: at each step the last one saved until then."""
    saved = [run.sample_grids.get("fixed", {}) for _, run in runs]
    every = sorted({step for pictures in saved for step in pictures})
    if not every:
        return [], []
    largest = max((path.stat().st_size for pictures in saved for path in pictures.values()), default=1)
    steps = spread(every, max(2, min(STEPS, BUDGET // (largest * len(runs)))))
    grids = [
        over_time(
            label,
            "held-out pairs" if run.from_images else "fixed latents",
            pictures,
            steps,
            keep_last=True,
            style=style_of(i),
        )
        for i, ((label, run), pictures) in enumerate(zip(runs, saved, strict=True))
    ]
    return steps, grids


def _results(runs: _Labeled) -> Comparison:
    """Progress, speed and sizes, and the results of `fastgan eval`: those of one name and reference share a row."""

    def of(read: Callable[[Run], str | None]) -> list[str]:
        return [read(run) or NONE for _, run in runs]

    rows = {
        "step": of(lambda run: _figure(view.last(run, "step"))),
        "real images seen": of(lambda run: _figure(view.last(run, "images"))),
        "training time": of(lambda run: None if (s := view.last(run, "seconds")) is None else duration(s)),
        "images per second": of(lambda run: view.speed(run, series_by_group(run.metrics))[0]),
        "generator parameters": of(lambda run: _parameters(run, "generator")),
        "discriminator parameters": of(lambda run: _parameters(run, "discriminator")),
    }
    found = [_evaluated(run) for _, run in runs]
    for name in dict.fromkeys(name for own in found for name in own):
        rows[name] = [own.get(name, NONE) for own in found]
    return _table(runs, {name: cells for name, cells in rows.items() if set(cells) != {NONE}})


def _evaluated(run: Run) -> dict[str, str]:
    """The latest value of each metric; the key names what it was measured against."""
    found: dict[str, str] = {}
    for evaluation in run.evaluations:
        for row in view.metrics_of(evaluation):
            value, error = number(row.get("value")), number(row.get("error"))
            shown = NONE if value is None else figure(value) + ("" if error is None else f" ± {figure(error)}")
            found[f"{row['name']} ({row.get('better')}) against {evaluation.get('reference')}"] = shown
    return found


def _parameters(run: Run, role: str) -> str | None:
    network = run.networks.get(role)
    return _figure(number(network.get("parameters"))) if isinstance(network, dict) else None


def _figure(value: float | None) -> str | None:
    return None if value is None else figure(value)


def _differences(runs: _Labeled) -> tuple[Comparison, int]:
    """What is configured differently, and the number of entries that are the same."""
    records = [dict(flatten(_configured(run))) for _, run in runs]
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = {name: [plain(record[name]) if name in record else NONE for record in records] for name in names}
    different = {name: cells for name, cells in shown.items() if len(set(cells)) > 1}
    return _table(runs, different), len(shown) - len(different)


def _configured(run: Run) -> dict[str, object]:
    return {**run.config, "data set": run.dataset, "networks": run.networks, "environment": run.environment}


def _table(runs: _Labeled, rows: dict[str, list[str]]) -> Comparison:
    return Comparison([(style_of(i), label) for i, (label, _) in enumerate(runs)], list(rows.items()))
