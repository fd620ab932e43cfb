"""The page: it shows the values, loads nothing from elsewhere, and works for an incomplete run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastgan.errors import UsageError
from fastgan.report.page import write_report

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """Keeps text and attributes, and fails on tags that do not close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.attributes, self.ids, self.open = "", [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text("utf-8"))


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_page_shows_the_values(run: Path):
    path = write_report(run)
    assert path == run / "report.html"
    assert not list(run.glob(".*"))
    text = Page(path.read_text("utf-8")).text
    for part in (
        "finished at step 3000 of 3000 after 3 min 20 s; 812 images per second",
        "192,000", "19.2 epochs", "1.27 M", "413 k", "10,000",
        "agrees with PyTorch within 1e−4 on every batch measured", "1.07e−6", "1.83 ms", "3120", "CPUExecutionProvider",
        "betas", "[0.0, 0.99]", "1 × 28 × 28", "dcgan.Generator, 1,268,737 parameters",
        "backends.triton", "not installed", "not recorded", "fastgan train demo --out runs/demo",
    ):  # fmt: skip
        assert part in text, part


def test_sections_come_in_order(run: Path):
    html = write_report(run).read_text("utf-8")
    titles = re.findall(r'<h2 id="[a-z]+">([^<]*)</h2>', html)
    assert titles == [
        "Samples",
        "Curves",
        "Evaluation",
        "Export",
        "Layers",
        "Configuration",
        "Environment",
        "Reproduce",
    ]


def test_the_page_loads_nothing_from_elsewhere(run: Path):
    html = write_report(run).read_text("utf-8")
    for _, name, value in Page(html).attributes:
        if name in ("src", "href", "srcset", "action", "poster", "data"):
            assert value.startswith("data:"), value[:80]
    bare = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    assert "://" not in bare
    assert "url(" not in bare
    assert "@import" not in bare
    assert "default-src 'none'" in html
    assert str(run.parent) not in html


def test_phones_dark_mode_and_screen_readers(run: Path):
    page = page_of(run)
    html = (run / "report.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert "image-rendering: pixelated" in html
    assert all(value for tag, name, value in page.attributes if name in ("alt", "aria-label"))
    labels = {value for tag, name, value in page.attributes if tag == "label" and name == "for"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert labels <= set(ids)
    assert len(ids) == len(set(ids))
    assert {value for _, name, value in page.attributes if name == "aria-labelledby"} <= set(ids)
    assert sum(name == "aria-labelledby" for _, name, _ in page.attributes) == 8


def test_values_are_escaped(run: Path):
    evil = "<script>alert('x')</script>\" onload=\"x"
    change(run / "config.json", config={evil: evil}, command=evil, dataset={"name": evil, evil: [evil]},
           environment={evil: {evil: evil}},
           networks={"generator": {"name": evil, "parameters": 5}, evil: {}})  # fmt: skip
    change(run / "status.json", message=evil, state=evil)
    change(run / "generator.onnx.json", file=evil, runtime={evil: evil}, parity=[{"batch": evil}])
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, f"{evil}/{evil}": 1.0, f"loss/{evil}": 2.0}) + "\n")
    moved = run.rename(run.with_name("<b>&demo"))
    page = page_of(moved)
    html = (moved / "report.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert not [name for _, name, _ in page.attributes if name == "onload"]
    assert page.text.count("alert('x')") >= 12
    assert "<b>&demo" in page.text


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("status.json", "state unknown (no status.json), last logged at step 3000 after 3 min 20 s"),
        ("metrics.jsonl", "No metrics were logged"),
        ("samples", "No sample grids were saved"),
        ("generator.onnx.json", "The generator was not exported"),
    ],
)
def test_each_missing_part_is_named(run: Path, part: str, sentence: str):
    assert sentence not in page_of(run).text
    path = run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sentence in page_of(run).text


def test_an_empty_config_is_enough(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    text = page_of(tmp_path).text
    for sentence in ("No configuration was", "No environment was", "No data set was", "No networks were",
                     "The command was not", "No values were", "state unknown"):  # fmt: skip
        assert sentence in text


def test_fields_of_odd_kinds_do_no_harm(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(
        {"config": [1], "environment": None, "command": 7,
         "dataset": {"count": 0, "shape": "x", "range_real": [None, 1]},
         "networks": {"generator": "big", "discriminator": {"parameters": "many"}}}
    ))  # fmt: skip
    (tmp_path / "status.json").write_text('{"state": null, "step": "x", "message": ["\\ud800"]}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 0, "images": NaN, "loss/a": {"b": 1}}\n')
    (tmp_path / "generator.onnx.json").write_text('{"parity": [3, {"max_abs_error": null}], "runtime": [1]}')
    assert "unnamed" in page_of(tmp_path).text


def test_no_config_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^run: expected a run directory"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", ["running", "finished", "interrupted", "failed", None])
def test_only_the_page_of_a_running_run_reloads_itself(run, state):
    change(run / "status.json", state=state)
    html = write_report(run).read_text()
    assert (' data-reload="15"' in html) == (state == "running")


def test_runs_that_failed_or_still_run(run: Path):
    change(run / "status.json", state="failed", step=1200, message="loss/generator became NaN")
    page = page_of(run)
    assert "failed at step 1200 of 3000" in page.text
    assert "loss/generator became NaN" in page.text
    assert ("p", "class", "message failed") in page.attributes
    change(run / "status.json", state="running", message="")
    page = page_of(run)
    assert ("p", "class", "state running") in page.attributes
    assert "message" not in {value.split(" ")[0] for tag, name, value in page.attributes if name == "class"}


def test_nan_and_half_written_lines(run: Path):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3500, "loss/generator": NaN, "loss/discriminator": -Infinity}\n')
        file.write('{"step": 4000, "loss/generator": null}\n{"step": 4500, "loss/gen')
    text = page_of(run).text
    assert "generator: 2 values were not finite; the curve has gaps there." in text
    assert "discriminator: 1 value was not finite" in text
    assert "could not be read" not in text
    assert "4500" not in text


def test_speed_without_a_speed_curve(run: Path):
    (run / "metrics.jsonl").write_text('{"step": 10, "images": 640, "seconds": 4.0}\n')
    text = page_of(run).text
    assert "after 4 s; 160 images per second" in text
    assert "over the whole run" in text


def test_parity_beyond_the_limit(run: Path):
    good, bad = {"batch": 1, "max_abs_error": 1e-5}, {"batch": 7, "max_abs_error": 2e-4}
    change(run / "generator.onnx.json", parity=[good, bad, {"batch": 9, "max_abs_error": None}])
    page = page_of(run)
    assert "differs from PyTorch by more than 1e−4 on 2 of 3 batches measured" in page.text
    assert ("p", "class", "finding failed") in page.attributes
    assert page.text.count("beyond") == 2


def test_a_long_run_stays_small(run: Path):
    rows = ({"step": s, **{f"loss/{name}": s % 7 for name in "abcd"}} for s in range(1, 20_001))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(run)
    assert page.stat().st_size < 250_000
    assert "averaged in bins" in page.read_text("utf-8")


def test_a_report_replaces_the_one_before(run: Path):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    change(run / "config.json", command="another")
    assert write_report(run).read_bytes() != first


def test_speed_and_memory_are_on_the_page(run: Path):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3500, "images": 9, "speed/images_per_second": 812.0, "memory/peak_gb": 1.523}))
    text = page_of(run).text
    assert "median; 1.23 sec/kimg" in text
    assert "1.52 GB" in text
    assert "peak memory" in text
