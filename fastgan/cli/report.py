"""fastgan report: the page of a run, and where its files are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.cli._parse import parse
from fastgan.cli.export import print_figures
from fastgan.errors import UsageError


@dataclass
class _Report:
    """Write a run's report.html and the animation of its fixed sample grid again, and list its files."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run directory"""


def report(argv: list[str]) -> None:
    """fastgan report RUN"""
    from fastgan.report.animation import write_animation
    from fastgan.report.load import is_run, read_run
    from fastgan.report.page import write_report

    directory = parse(_Report, argv, "report").run
    read_run(directory)
    if not is_run(directory):
        raise UsageError(f"run: {directory} holds no run of fastgan (its config.json is not one of a run)")
    page = write_report(directory)
    animation = write_animation(directory)
    run = read_run(directory)
    if run.metrics:
        last = run.metrics[-1]
        count, seconds = last["images"], last["seconds"]
        print(f"training:  {count} images in {seconds:.0f} s, {count / seconds:.0f} images per second")
    if fixed := run.sample_grids.get("fixed"):
        print(f"samples:   {fixed[max(fixed)]}")
    if animation:
        print(f"animation: {animation}")
    print(f"report:    {page}")
    for file in sorted(directory.glob("*.onnx")):
        described = _description(file)
        print(f"model:     {file}" + (f", from step {described['step']}" if "step" in described else ""))
        if described:
            print_figures(described)


def _description(model: Path) -> dict:
    """The JSON file beside an exported model, or an empty dict."""
    path = model.with_name(model.name + ".json")
    return json.loads(path.read_text()) if path.exists() else {}
