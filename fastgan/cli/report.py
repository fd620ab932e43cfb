"""fastgan report: the page of a run, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan._util.schema import read_json_file
from fastgan.cli._parse import parse
from fastgan.cli.export import FIGURES, print_figures
from fastgan.errors import DataError, UsageError
from fastgan.report.text import number


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
        count, seconds = (number(run.metrics[-1].get(name)) for name in ("images", "seconds"))
        if count is not None and seconds:
            print(f"training:  {count:.0f} images in {seconds:.0f} s, {count / seconds:.0f} images per second")
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
    try:
        return read_json_file(path, FIGURES) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
