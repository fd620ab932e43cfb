"""View models: what a page shows of a run, as plain values for a template. They hold text, never HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgan.report.diagnostics import Diagnosis, current, diagnoses
from fastgan.report.load import Run
from fastgan.report.series import Series
from fastgan.report.text import NONE, duration, figure, figure_or_none, flatten, number, plain, short, words

_STATES = {"running", "finished", "interrupted", "failed"}
_EXPORT_FACTS = ("file", "to", "precision", "opset", "verified_by")

#: Names and values, one row each.
Facts = list[tuple[str, str]]
Groups = Mapping[str, Sequence[Series]]


@dataclass(frozen=True)
class Table:
    """A table with a head; all cells are text."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Status:
    """The state of a run. tone: finished, running, interrupted, failed or unknown, as page.css knows them."""

    tone: str
    sentence: str
    message: str


@dataclass(frozen=True)
class Finding:
    """A diagnosis. tone: failed while it holds, interrupted once it is over."""

    tone: str
    name: str
    steps: str
    evidence: str
    suggestions: str


@dataclass(frozen=True)
class Tile:
    """A number in large type, its name, and a detail or an empty string."""

    value: str
    name: str
    detail: str


@dataclass(frozen=True)
class Evaluation:
    """One result of `fastgan eval`."""

    title: str
    about: str
    table: Table
    warnings: list[str]


@dataclass(frozen=True)
class Export:
    """The comparison of the exported generator with PyTorch, and the speed of the runtime. good: None if unknown."""

    sentence: str
    good: bool | None
    parity: Table | None
    facts: Facts


@dataclass(frozen=True)
class Layers:
    """The weights of one network."""

    network: str
    count: str
    table: Table


# --- state -----------------------------------------------------------------------------------------------------------


def status(run: Run, groups: Groups) -> Status:
    """The state of a run: `finished at step 3000 of 3000 after 3 min 20 s; 812 images per second`."""
    state = str(run.status.get("state") or "")
    sentence = state or "state unknown (no status.json)"
    step = number(run.status.get("step"))
    if step is not None:
        sentence += f" at step {figure(step)}"
    elif run.metrics:
        sentence += f", last logged at step {figure(run.metrics[-1]['step'])}"
    if (steps := number(run.status.get("steps"))) is not None:
        sentence += f" of {figure(steps)}"
    if (seconds := last(run, "seconds")) is not None:
        sentence += f" after {duration(seconds)}"
    speed_text, _ = speed(run, groups)
    if speed_text is not None:
        sentence += f"; {speed_text} images per second"
    return Status(state if state in _STATES else "unknown", sentence, str(run.status.get("message") or ""))


def findings(run: Run) -> list[Finding] | None:
    """The diagnoses of a run, those that hold at its last row first; None if nothing was logged, empty if healthy."""
    if not run.metrics:
        return None
    now = current(run.metrics, run.unbounded)
    past = [diagnosis for diagnosis in diagnoses(run.metrics, run.unbounded) if diagnosis not in now]
    return [_finding(diagnosis, diagnosis in now) for diagnosis in [*now, *past]]


def _finding(diagnosis: Diagnosis, holds: bool) -> Finding:
    since, until = figure(diagnosis.since), figure(diagnosis.until)
    return Finding(
        "failed" if holds else "interrupted",
        diagnosis.name,
        f"since step {since}" if holds else f"steps {since} to {until}",
        diagnosis.evidence,
        "; ".join(diagnosis.suggestions),
    )


def last(run: Run, key: str) -> float | None:
    """The last finite value of a metric, or None."""
    return next((value for row in reversed(run.metrics) if (value := number(row.get(key))) is not None), None)


def speed(run: Run, groups: Groups) -> tuple[str | None, str]:
    """Images per second, and how they were computed."""
    # The median over intervals: the first one includes compilation, and a pause of the computer is no training speed.
    for series in groups.get("speed", []):
        if series.name == "images_per_second" and len(series.finite):
            median = float(np.median(series.finite))
            return _speed(median), f"median; {1000 / median:.3g} sec/kimg" if median > 0 else "median"
    images, seconds = last(run, "images"), last(run, "seconds")
    if images is None or not seconds:
        return None, ""
    return _speed(images / seconds), "over the whole run"


def _speed(value: float) -> str:
    return figure(round(value) if value >= 10 else value)


def tiles(run: Run, groups: Groups) -> list[Tile]:
    """The numbers at the top of a page."""
    found = []
    count = number(run.dataset.get("count"))
    if (images := last(run, "images")) is not None:
        found.append(Tile(figure(images), "real images seen", f"{images / count:.3g} epochs" if count else ""))
    if (seconds := last(run, "seconds")) is not None:
        found.append(Tile(duration(seconds), "training time", ""))
    speed_text, how = speed(run, groups)
    if speed_text is not None:
        found.append(Tile(speed_text, "images per second", how))
    if (peak := last(run, "memory/peak_gb")) is not None:
        found.append(Tile(f"{peak:.3g} GB", "peak memory", ""))
    for series in groups.get("eval", [])[:3]:
        if len(series.finite):
            at = int(np.nanargmin(series.values))
            found.append(
                Tile(figure(series.values[at]), words(series.name), f"best, at step {figure(series.steps[at])}")
            )
    for series in groups.get("metric", [])[:3]:
        if len(series.finite):
            found.append(Tile(figure(series.finite[-1]), words(series.name), "last measured"))
    for role in ("generator", "discriminator"):
        network = run.networks.get(role)
        if isinstance(network, dict) and (size := number(network.get("parameters"))) is not None:
            found.append(Tile(short(size), f"{role} parameters", str(network.get("name") or "")))
    if count is not None:
        found.append(Tile(figure(count), "training images", str(run.dataset.get("name") or "")))
    return found


# --- evaluation and layers -------------------------------------------------------------------------------------------


def evaluations(run: Run) -> list[Evaluation]:
    """Every result of `fastgan eval`, the latest first."""
    return [_evaluation(found) for found in reversed(run.evaluations)]


def metrics_of(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an evaluation that are valid."""
    rows = evaluation.get("rows")
    return [row for row in rows if isinstance(row, dict) and "name" in row] if isinstance(rows, list) else []


def compared(evaluation: Mapping[str, Any]) -> str:
    """What was compared with what: `5,000 samples of step 3000 against 5,000 images of mnist`."""
    samples, real = (figure(evaluation.get(key)) for key in ("samples", "reference_images"))
    step = number(evaluation.get("step"))
    at = "" if step is None else f" of step {figure(step)}"
    return f"{samples} samples{at} against {real} images of {evaluation.get('reference')}"


def _evaluation(found: Mapping[str, Any]) -> Evaluation:
    extractor = found.get("extractor_about")
    accuracy = number(found.get("extractor_accuracy"))
    detail = "" if accuracy is None else f", with an accuracy of {100 * accuracy:.1f} % on held-out images"
    warnings = found.get("warnings")
    return Evaluation(
        compared(found),
        f"Features by {extractor}{detail}." if extractor else "",
        Table(
            ["metric", "value", "standard error", "of real images", "better"],
            [cells for row in metrics_of(found) for cells in _metric(row)],
        ),
        [str(warning) for warning in warnings] if isinstance(warnings, list) else [],
    )


def _metric(row: Mapping[str, Any]) -> Iterator[list[str]]:
    value, error, real = (figure_or_none(row.get(key)) for key in ("value", "error", "real"))
    better = "; ".join(str(row[key]) for key in ("better", "note") if row.get(key))
    yield [str(row["name"]), value, error, real, better]
    if isinstance(parts := row.get("parts"), dict):
        yield from ([f"· {name}", figure_or_none(part), NONE, NONE, ""] for name, part in parts.items())


def layers(run: Run) -> list[Layers]:
    """The last norms of each weight, one table for each network."""
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in run.layers:
        networks.setdefault(str(row.get("weight")).partition(".")[0], []).append(row)
    found = []
    for name, rows in networks.items():
        keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "weight"]
        cells = [
            [str(row.get("weight")).partition(".")[2], *(figure_or_none(row.get(key)) for key in keys)] for row in rows
        ]
        count = "1 weight" if len(rows) == 1 else f"{len(rows)} weights"
        found.append(Layers(words(name), count, Table(["weight", *map(words, keys)], cells)))
    return found


# --- export ----------------------------------------------------------------------------------------------------------


def export(run: Run) -> Export | None:
    """What the check of the export measured, or None if there is no export."""
    if not run.export:
        return None
    limit, lowest_psnr = number(run.export.get("limit")), number(run.export.get("psnr_floor"))
    parity = run.export.get("parity")
    entries = [entry for entry in parity if isinstance(entry, dict)] if isinstance(parity, list) else []
    failed = sum(not _within(entry, limit) for entry in entries)
    psnr = number(run.export.get("psnr"))
    sentence, good = "", None
    if entries and limit is not None:
        agrees = f"agrees with PyTorch within {figure(limit)} on every batch measured"
        differs = f"differs from PyTorch by more than {figure(limit)} on {failed} of {len(entries)} batches measured"
        sentence, good = (differs if failed else agrees), not failed
    elif psnr is not None and lowest_psnr is not None:
        sentence = f"PSNR against PyTorch {figure(psnr)} dB, required at least {figure(lowest_psnr)} dB"
        good = psnr >= lowest_psnr
    about = [(words(key), plain(run.export[key])) for key in _EXPORT_FACTS if key in run.export]
    runtime = run.export.get("runtime")
    if isinstance(runtime, dict):
        about += [_runtime_fact(key, value) for key, value in flatten(runtime)]
    return Export(sentence, good, _parity(entries, limit) if entries else None, about)


def _within(entry: Mapping[str, Any], limit: float | None) -> bool:
    error = number(entry.get("max_abs_error"))
    return limit is None or (error is not None and error <= limit)


def _parity(entries: Sequence[Mapping[str, Any]], limit: float | None) -> Table:
    """One row for each batch that was compared. Older files lack sizes and PSNR, whose columns are then left out."""
    sized, with_psnr = (any(key in entry for entry in entries) for key in ("height", "psnr"))
    rows = []
    for entry in entries:
        size = [f"{entry.get('height', NONE)} × {entry.get('width', NONE)}"] if sized else []
        errors = [figure(entry[key]) if key in entry else NONE for key in ("max_abs_error", "mean_abs_error")]
        psnr = [figure(entry["psnr"]) if "psnr" in entry else NONE] if with_psnr else []
        result = NONE if limit is None else "within" if _within(entry, limit) else "beyond"
        rows.append([str(entry.get("batch", NONE)), *size, *errors, *psnr, figure_or_none(limit), result])
    size_head, psnr_head = ["height × width"] if sized else [], ["PSNR, dB"] if with_psnr else []
    return Table(["batch", *size_head, "largest error", "mean error", *psnr_head, "limit", "result"], rows)


def _runtime_fact(key: str, value: object) -> tuple[str, str]:
    """`latency_ms_batch1`, 1.83 → `latency, batch 1`, `1.83 ms`."""
    shown = plain(value) if number(value) is None else figure(value)
    key = re.sub(r"_?batch_?(\d+)$", r", batch \1", key)
    if "_ms" in key:
        key, shown = key.replace("_ms", ""), f"{shown} ms"
    return words(key), shown


# --- configuration ---------------------------------------------------------------------------------------------------


def configuration(run: Run) -> Facts:
    """Fields of Config."""
    return [(name, plain(value)) for name, value in run.config.items()]


def dataset(run: Run) -> Facts:
    """What was recorded of the data set."""
    record = dict(run.dataset)
    if isinstance(shape := record.get("shape"), list):
        record["shape"] = " × ".join(map(str, shape))
    if isinstance(ends := record.get("range_real"), list) and len(ends) == 2:
        record["range_real"] = f"{figure(ends[0])} to {figure(ends[1])}"
    if isinstance(names := record.get("class_names"), list):
        record["class_names"] = ", ".join(map(str, names))
    return [(words(name), plain(value)) for name, value in flatten(record)]


def networks(run: Run) -> Facts:
    """Name and size of each network."""
    return [(role, _network(network)) for role, network in run.networks.items() if isinstance(network, dict)]


def _network(network: Mapping[str, Any]) -> str:
    size = number(network.get("parameters"))
    name = str(network.get("name") or "unnamed")
    return name if size is None else f"{name}, {size:,.0f} parameters"


def environment(run: Run) -> Facts:
    """Versions, device and back-ends."""
    return [(name, "not recorded" if value is None else plain(value)) for name, value in flatten(run.environment)]
