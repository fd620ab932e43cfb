"""Comparison of runs: shared charts, sample grids at the same step, differences; errors for what cannot be compared."""

import json
import re
import shutil

import numpy as np
import pytest

from fastgan.errors import UsageError
from fastgan.report.compare import labels, write_comparison
from fastgan.report.images import save_png

from .test_page import Page, change
from .test_view import found


@pytest.fixture
def runs(run):
    """The small run, and one that differs: other steps, another rate, evaluated, collapsed."""
    other = run.with_name("other_one")
    shutil.copytree(run, other)
    config = json.loads((run / "config.json").read_text())["config"]
    change(other / "config.json", config={**config, "steps": 4000, "lr_g": 0.01})
    change(other / "status.json", state="failed", step=2000, message="it collapsed")
    (other / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": 100 * i, "loss/generator": 2.0 * i, "loss/extra": 1, "seconds": i}) + "\n"
                for i in range(1, 21))
    )  # fmt: skip
    for path in (other / "samples").glob("f*.png"):
        path.unlink()
    for step in (1000, 2000):
        save_png(np.full((20, 20, 3), step // 10, np.uint8), other / "samples" / f"fixed-{step:08d}.png")
    (other / "eval.json").write_text(json.dumps([found(fid=50.0), found(fid=40.0625)]))
    return run, other


def compared(runs, out):
    page = Page(write_comparison(list(runs), out, overwrite=True).read_text("utf-8"))
    return page, out.read_text("utf-8")


def rows(html):
    """{name: cells} of the tables of a column for each run."""
    found = re.findall(r'<tr><th scope="row">([^<]*)</th>((?:<td>[^<]*</td>)*)</tr>', html)
    return {name: re.findall(r"<td>([^<]*)</td>", cells) for name, cells in found}


def test_curves_share_charts(runs, tmp_path):
    _, html = compared(runs, tmp_path / "c.html")
    charts = {re.search(r"<h3>([^<]*)", chart)[1]: chart for chart in html.split('<figure class="chart"')[1:]}
    assert list(charts) == ["Losses: discriminator", "Losses: generator", "Losses: extra", "Speed: images per second"]
    both = charts["Losses: generator"]
    assert re.findall(r'swatch c(\d)"></span>([^<]*) <b class="value">([^<]*)', both) == [
        ("0", "demo", "1.5"), ("1", "other_one", "40")]  # fmt: skip
    assert re.findall(r'<path class="c(\d)"', both) == ["0", "1"]
    # A run keeps its color where it is alone.
    assert re.findall(r'swatch c(\d)"', charts["Losses: extra"]) == ["1"]
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', both)[1])
    assert [line["steps"][-1] for line in data] == [3000, 2000]


def test_sample_grids_are_aligned_by_step(runs, tmp_path):
    _, html = compared(runs, tmp_path / "c.html")
    assert 'data-steps="500 1000 1500 2000 3000"' in html
    first, second = re.findall(r'<figure class="over-time" data-indices="([^"]*)">(.*?)</figure>', html, re.S)
    assert first[0] == "0 0 1 1 2"
    assert re.findall(r'data-step="(\d+)"', first[1]) == ["500", "1500", "3000"]
    # It has nothing at 500, and its last grid stays.
    assert second[0] == "0 1 1 2 2"
    assert "None was saved yet." in second[1]
    assert re.findall(r'data-step="(\d+)"( hidden)?', second[1]) == [("1000", " hidden"), ("2000", "")]
    assert '<span class="at">step 2000</span>' in second[1]


def test_differences_and_results(runs, tmp_path):
    page, html = compared(runs, tmp_path / "c.html")
    table = rows(html)
    assert table["steps"] == ["3000", "4000"]
    assert table["lr_g"] == ["–", "0.01"]
    assert "betas" not in table
    assert re.search(r"\d+ entries are the same", page.text)
    assert table["step"] == ["3000", "2000"]
    assert table["images per second"] == ["812", "–"]
    assert table["fid5k_digits (lower) against mnist"] == ["–", "40.06"]
    assert table["kid5k_digits (lower) against mnist"] == ["–", "0.5 ± 0.25"]
    assert "it collapsed" in page.text
    assert "failed at step 2000 of 3000" in page.text
    assert page.text.count("healthy") == 2
    assert "://" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)


def test_equal_runs_and_empty_ones(run, tmp_path):
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    page, _ = compared((run, copy), tmp_path / "c.html")
    assert "Nothing is configured differently." in page.text
    assert "No run was evaluated yet" in page.text
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    page, _ = compared((tmp_path / "a", tmp_path / "b"), tmp_path / "c.html")
    assert "No sample grids were saved." in page.text
    assert "No metrics were logged." in page.text


def test_names_are_escaped(run, tmp_path):
    evil = run.with_name("<script>alert('x')<")
    shutil.copytree(run, evil)
    change(evil / "config.json", command="x", config={"<b>": "<i>"})
    _, html = compared((run, evil), tmp_path / "c.html")
    assert "<script>alert" not in html
    assert "<i>" not in html


def test_labels_differ(tmp_path):
    assert labels([tmp_path / "a" / "run", tmp_path / "b"]) == ["run", "b"]
    assert labels([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]


def test_usage_errors(run, tmp_path):
    out = tmp_path / "c.html"
    for paths, message in (
        ([run], r"^runs: expected two or more to compare, got 1$"),
        ([run, run / ".." / "demo"], r"^runs: .* is given twice$"),
        ([run, tmp_path], r"^run: expected a run directory with a config\.json in it"),
    ):
        with pytest.raises(UsageError, match=message):
            write_comparison(paths, out)
    with pytest.raises(UsageError, match=r"^out: expected a file in an existing folder"):
        write_comparison([run, tmp_path], tmp_path / "nowhere" / "c.html")
    assert not out.exists()
