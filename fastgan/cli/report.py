"""fastgan report: where everything of a run is."""

from __future__ import annotations

from pathlib import Path

from fastgan.cli._parse import Nothing, parse, positional
from fastgan.cli.export import print_figures


def report(argv: list[str]) -> None:
    """fastgan report RUN: write report.html anew, and say where everything is"""
    import json

    from fastgan.report.animation import write_animation
    from fastgan.report.load import read_run
    from fastgan.report.page import write_report

    source, rest = positional(argv, "report", "RUN", Nothing)
    parse(Nothing, rest, "report")
    run_directory = Path(source)
    page = write_report(run_directory)
    animation = write_animation(run_directory)
    found = read_run(run_directory)
    if found.metrics:
        last = found.metrics[-1]
        count, seconds = last["images"], last["seconds"]
        print(f"training: {count} images in {seconds:.0f} s, {count / seconds:.0f} images per second")
    if fixed := found.panels.get("fixed"):
        print(f"samples:  {fixed[max(fixed)]}")
    if animation:
        print(f"moving:   {animation}")
    print(f"report:   {page}")
    for file in sorted(run_directory.glob("*.onnx")):
        figures = file.with_name(file.name + ".json")
        described = json.loads(figures.read_text()) if figures.exists() else {}
        print(f"model:    {file}" + (f", from step {described['step']}" if "step" in described else ""))
        if described:
            print_figures(described)
