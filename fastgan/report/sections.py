"""The tables below the curves: export, configuration, environment, command."""

from __future__ import annotations

import re
from typing import Any

from fastgan.report.load import Run
from fastgan.report.text import escape, facts, figure, flatten, number, table, words

_ABOUT = ("file", "to", "precision", "opset", "verified_by")


def export(run: Run) -> str:
    """Render what the export check found: parity with PyTorch by batch size, and what the runtime measured."""
    if not run.export:
        return '<p class="empty">The generator was not exported (there is no generator.onnx.json).</p>'
    limit, floor = number(run.export.get("limit")), number(run.export.get("psnr_floor"))
    parity = run.export.get("parity")
    entries = [entry for entry in parity if isinstance(entry, dict)] if isinstance(parity, list) else []
    # What older files and networks from latents do not have gets no column.
    sized, judged = (any(key in entry for entry in entries) for key in ("height", "psnr"))
    rows = []
    for entry in entries:
        worst = number(entry.get("max_abs_error"))
        verdict = "–" if limit is None else "within" if worst is not None and worst <= limit else "beyond"
        size = [f"{entry.get('height', '–')} × {entry.get('width', '–')}"] if sized else []
        errors = [figure(entry[key]) if key in entry else "–" for key in ("max_abs_error", "mean_abs_error")]
        ratio = [figure(entry["psnr"]) if "psnr" in entry else "–"] if judged else []
        shown = figure(limit) if limit is not None else "–"
        rows.append([str(entry.get("batch", "–")), *size, *errors, *ratio, shown, verdict])
    head = ["batch", *(["height × width"] if sized else []), "largest error", "mean error",
            *(["PSNR, dB"] if judged else []), "limit", "verdict"]  # fmt: skip
    numbers = table(head, rows) if rows else '<p class="empty">Parity with PyTorch was not measured.</p>'
    failed = sum(row[-1] == "beyond" for row in rows)
    overall = number(run.export.get("psnr"))
    verdict = ""
    if rows and limit is not None:
        agree = f"agrees with PyTorch within {figure(limit)} on every batch measured"
        differ = f"differs from PyTorch by more than {figure(limit)} on {failed} of {len(rows)} batches measured"
        verdict = _verdict(differ if failed else agree, not failed)
    elif overall is not None and floor is not None:
        verdict = _verdict(
            f"PSNR against PyTorch {figure(overall)} dB, at least {figure(floor)} needed", overall >= floor
        )
    about: list[tuple[str, object]] = [(words(key), run.export[key]) for key in _ABOUT if key in run.export]
    runtime = run.export.get("runtime")
    if isinstance(runtime, dict):
        about += [_measured(key, value) for key, value in flatten(runtime)]
    return (
        f'{verdict}<div class="columns"><div><h3>Parity with PyTorch</h3>{numbers}</div>'
        f"<div><h3>File and runtime</h3>{facts(about)}</div></div>"
    )


def _verdict(sentence: str, good: bool) -> str:
    return f'<p class="verdict {"finished" if good else "failed"}"><span>{sentence}</span></p>'


def _network(network: dict[str, Any]) -> list[str]:
    size = number(network.get("parameters"))
    return [str(network.get("name") or "unnamed"), *([] if size is None else [f"{size:,.0f} parameters"])]


def _measured(key: str, value: object) -> tuple[str, object]:
    """Name a runtime figure as one reads it: `latency_ms_batch1`, 1.83 → `latency, batch 1`, `1.83 ms`."""
    shown = value if number(value) is None else figure(value)
    key = re.sub(r"_?batch_?(\d+)$", r", batch \1", key)
    if "_ms" in key:
        key, shown = key.replace("_ms", ""), f"{shown} ms"
    return words(key), shown


def configuration(run: Run) -> str:
    """Render the frozen configuration, the data set and the networks."""
    config = facts(run.config.items()) if run.config else '<p class="empty">No configuration was recorded.</p>'
    dataset = dict(run.dataset)
    if isinstance(shape := dataset.get("shape"), list):
        dataset["shape"] = " × ".join(map(str, shape))
    if isinstance(ends := dataset.get("range_real"), list) and len(ends) == 2:
        dataset["range_real"] = f"{figure(ends[0])} to {figure(ends[1])}"
    if isinstance(names := dataset.get("class_names"), list):
        dataset["class_names"] = ", ".join(map(str, names))
    about = [(words(name), value) for name, value in flatten(dataset)]
    data = facts(about) if about else '<p class="empty">No data set was recorded.</p>'
    networks = facts(
        (role, ", ".join(_network(network))) for role, network in run.networks.items() if isinstance(network, dict)
    )
    if not run.networks:
        networks = '<p class="empty">No networks were recorded.</p>'
    return (
        f'<div class="columns"><div><h3>Fields</h3>{config}</div>'
        f"<div><h3>Data set</h3>{data}<h3>Networks</h3>{networks}</div></div>"
    )


def environment(run: Run) -> str:
    """Render versions, device and back-ends."""
    if not run.environment:
        return '<p class="empty">No environment was recorded.</p>'
    rows = flatten(run.environment)
    return facts((name, "not recorded" if value is None else value) for name, value in rows)


def command(run: Run) -> str:
    """Render the command that makes the run again."""
    if not run.command:
        return '<p class="empty">The command was not recorded.</p>'
    return f'<pre tabindex="0"><code>{escape(run.command)}</code></pre>'
