"""Runs side by side: one HTML file like a run's, with their curves in one frame and their panels at one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastgan._util.files import write_whole
from fastgan.errors import UsageError
from fastgan.report.curves import overlaid, swatch
from fastgan.report.diagnostics import verdicts
from fastgan.report.document import document, section
from fastgan.report.figures import figures_of
from fastgan.report.load import Run, read_run
from fastgan.report.run_status import judged, last, speed, state, state_sentence
from fastgan.report.sample_grids import BUDGET, picture, slider, spread, through_time
from fastgan.report.series import series_by_group
from fastgan.report.text import duration, escape, figure, flatten, number, plain

STEPS = 16
"""The most steps a page embeds; fewer where the pictures are large."""

_NONE = "–"
_Labeled = Sequence[tuple[str, Run]]


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Write a page that compares run directories to `out`, whole or not at all, and return its path.

    Raises UsageError for fewer than two, one that is given twice, one that is no run, or an `out` that is none.
    """
    if len(paths) < 2:
        raise UsageError(f"runs: expected two or more to compare, got {len(paths)}")
    seen: set[Path] = set()
    for path in paths:
        if Path(path).resolve() in seen:
            raise UsageError(f"runs: {path} is given twice")
        seen.add(Path(path).resolve())
    if not out.parent.is_dir():
        raise UsageError(f"out: expected a file in a folder that is there, got {out}")
    page = render([(label, read_run(path)) for label, path in zip(labels(paths), paths, strict=True)])
    write_whole(out, page.encode("utf-8", "replace"))
    return out


def labels(paths: Sequence[Path]) -> list[str]:
    """Names of run directories: the last parts of their paths, as many as tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    count = 1
    while len({own[-count:] for own in parts}) < len(parts):
        count += 1
    return ["/".join(own[-count:]) for own in parts]


def render(runs: _Labeled) -> str:
    """Render runs, each with its label, as one self-contained HTML page."""
    groups = [(label, series_by_group(run.metrics)) for label, run in runs]
    curves = overlaid(groups)
    title = " and ".join(label for label, _ in runs) if len(runs) == 2 else f"{len(runs)} runs"
    head = f'<p class="eyebrow">fastgan runs side by side</p>\n<h1>{escape(title)}</h1>\n'
    main = [
        section("Verdicts", "".join(_standing(i, label, run) for i, (label, run) in enumerate(runs))),
        section("Samples", _panels(runs)),
        section("Figures", _figures(runs)),
        section(
            "Curves",
            f'<div class="charts">{curves}</div>' if curves else '<p class="empty">No metrics were logged.</p>',
        ),
        section("Differences", _differences(runs)),
    ]
    return document(f"{title} – fastgan comparison", head, main)


def _standing(i: int, label: str, run: Run) -> str:
    words = escape(state_sentence(run, series_by_group(run.metrics)))
    message = f'<p class="message {state(run)}">{escape(said)}</p>' if (said := run.status.get("message")) else ""
    return (
        f'<div class="standing"><h3>{swatch(i)}{escape(label)}</h3>'
        f'<p class="verdict {state(run)}"><span>{words}</span></p>{message}{judged(run, verdicts(run.metrics))}</div>'
    )


def _panels(runs: _Labeled) -> str:
    """The fixed codes, or pairs held out, of each run, at each step the last panel until then."""
    saved = [run.panels.get("fixed", {}) for _, run in runs]
    every = sorted({step for pictures in saved for step in pictures})
    if not every:
        return '<p class="empty">No sample panels were saved.</p>'
    largest = max((path.stat().st_size for pictures in saved for path in pictures.values()), default=1)
    steps = spread(every, max(2, min(STEPS, BUDGET // (largest * len(runs)))))
    shown = "".join(
        through_time(
            f"{swatch(i)}{escape(label)}",
            "pairs held out" if run.of_sources else "fixed codes",
            pictures,
            steps,
            before=True,
        )
        for i, ((label, run), pictures) in enumerate(zip(runs, saved, strict=True))
    )
    for label, run in runs:
        if run.real is not None:
            shown += (
                f'<figure><figcaption><h3>Real images</h3><span class="meaning">of {escape(label)}</span></figcaption>'
                f'<div class="panel">{picture(run.real, "grid of real images")}</div></figure>'
            )
            break
    return f'{slider(steps)}<div class="panels">{shown}</div>'


def _figures(runs: _Labeled) -> str:
    """How far each run came, and what `fastgan eval` found: figures of one name and one reference share a row."""

    def of(read: Callable[[Run], str | None]) -> list[str]:
        return [read(run) or _NONE for _, run in runs]

    rows = {
        "step": of(lambda run: _figure(last(run, "step"))),
        "images shown": of(lambda run: _figure(last(run, "images"))),
        "training time": of(lambda run: None if (s := last(run, "seconds")) is None else duration(s)),
        "images per second": of(lambda run: speed(run, series_by_group(run.metrics))[0]),
        "generator parameters": of(lambda run: _parameters(run, "generator")),
        "discriminator parameters": of(lambda run: _parameters(run, "discriminator")),
    }
    found = [_evaluated(run) for _, run in runs]
    for name in dict.fromkeys(name for own in found for name in own):
        rows[name] = [own.get(name, _NONE) for own in found]
    note = "" if any(found) else "No run was judged yet: fastgan eval RUN --against DATA writes FID, KID and more here."
    return _side_by_side(runs, {name: cells for name, cells in rows.items() if set(cells) != {_NONE}}) + (
        f'<p class="note">{note}</p>' if note else ""
    )


def _evaluated(run: Run) -> dict[str, str]:
    """The latest figure of each name, which says against what."""
    found: dict[str, str] = {}
    for evaluation in run.evaluations:
        for row in figures_of(evaluation):
            value, error = number(row.get("value")), number(row.get("error"))
            shown = _NONE if value is None else figure(value) + ("" if error is None else f" ± {figure(error)}")
            found[f"{row['name']} ({row.get('better')}) against {evaluation.get('reference')}"] = shown
    return found


def _parameters(run: Run, role: str) -> str | None:
    network = run.networks.get(role)
    return _figure(number(network.get("parameters"))) if isinstance(network, dict) else None


def _figure(value: float | None) -> str | None:
    return None if value is None else figure(value)


def _differences(runs: _Labeled) -> str:
    """What is configured differently."""
    records = [dict(flatten(_configured(run))) for _, run in runs]
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = {name: [plain(record[name]) if name in record else _NONE for record in records] for name in names}
    different = {name: cells for name, cells in shown.items() if len(set(cells)) > 1}
    alike = len(shown) - len(different)
    note = f'<p class="note">{alike} {"entry is" if alike == 1 else "entries are"} the same.</p>'
    if not different:
        return f'<p class="empty">Nothing is configured differently.</p>{note}'
    return _side_by_side(runs, different) + note


def _configured(run: Run) -> dict[str, object]:
    return {**run.config, "data set": run.dataset, "networks": run.networks, "environment": run.environment}


def _side_by_side(runs: _Labeled, rows: Mapping[str, Sequence[str]]) -> str:
    """A table of a row for each name, a column for each run."""
    top = "".join(f'<th scope="col">{swatch(i)}{escape(label)}</th>' for i, (label, _) in enumerate(runs))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div class="scroll"><table class="grid sides"><thead><tr><th></th>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
