"""How a run stands, in words: its state, its speed, what the monitor's rules say of it."""

from __future__ import annotations

import numpy as np

from fastgan.report.diagnostics import Verdict, current
from fastgan.report.load import Run
from fastgan.report.series import Series
from fastgan.report.text import duration, escape, figure, number

_STATES = {"running", "finished", "interrupted", "failed"}


def state_sentence(run: Run, groups: dict[str, list[Series]]) -> str:
    """Say how the run stands: `finished at step 3000 of 3000 after 3 min 20 s; 812 images per second`."""
    sentence = str(run.status.get("state") or "") or "state unknown (no status.json)"
    step = number(run.status.get("step"))
    if step is not None:
        sentence += f" at step {figure(step)}"
    elif run.metrics:
        sentence += f", last logged at step {figure(run.metrics[-1]['step'])}"
    if (steps := number(run.status.get("steps"))) is not None:
        sentence += f" of {figure(steps)}"
    if (seconds := last(run, "seconds")) is not None:
        sentence += f" after {duration(seconds)}"
    fast, _ = speed(run, groups)
    if fast is not None:
        sentence += f"; {fast} images per second"
    return sentence


def state(run: Run) -> str:
    """The state as page.css knows it."""
    said = str(run.status.get("state", "unknown"))
    return said if said in _STATES else "unknown"


def last(run: Run, key: str) -> float | None:
    """The last finite value of a figure, or None."""
    return next((value for row in reversed(run.metrics) if (value := number(row.get(key))) is not None), None)


def speed(run: Run, groups: dict[str, list[Series]]) -> tuple[str | None, str]:
    """Images per second, and how they were reckoned."""
    # The median over log intervals: the first one holds compilation, and a pause of the machine is no speed.
    for series in groups.get("speed", []):
        if series.name == "images_per_second" and len(series.finite):
            return _speed_figure(float(np.median(series.finite))), "median"
    images, seconds = last(run, "images"), last(run, "seconds")
    if images is None or not seconds:
        return None, ""
    return _speed_figure(images / seconds), "over the whole run"


def _speed_figure(value: float) -> str:
    return figure(round(value) if value >= 10 else value)


def judged(run: Run, found: list[Verdict]) -> str:
    """What the monitor's rules say, in words: what is wrong at the last line first, then what was."""
    if not run.metrics:
        return ""
    now = current(run.metrics)
    past = [verdict for verdict in found if verdict not in now]
    if not found:
        return '<p class="verdict finished"><span>nothing wrong was noticed in the figures</span></p>'
    items = ""
    for verdict in [*now, *past]:
        tone = "failed" if verdict in now else "interrupted"
        steps = f"since step {figure(verdict.since)}"
        if verdict in past:
            steps = f"steps {figure(verdict.since)} to {figure(verdict.until)}"
        items += (
            f'<li class="verdict {tone}"><span><b>{escape(verdict.name)}</b> {steps}: {escape(verdict.evidence)}.'
            f" May help: {escape('; '.join(verdict.remedies))}.</span></li>"
        )
    return f'<ul class="verdicts">{items}</ul>'
