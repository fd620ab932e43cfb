"""A run directory is read completely; a note names each file that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgan.errors import DataError, FastganError, UsageError
from fastgan.report.load import read_run


def test_a_whole_run(run: Path):
    record = read_run(run)
    assert record.name == "demo"
    assert record.config["steps"] == 3000
    assert [row["step"] for row in record.metrics] == [500, 1000, 1500, 2000, 2500, 3000]
    assert list(record.sample_grids) == ["fixed", "fresh"]
    assert list(record.sample_grids["fixed"]) == list(record.sample_grids["fresh"]) == [500, 1500, 3000]
    assert record.notes == []


def test_no_run_directory(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^run: expected a run directory with a config\.json in it, got .*nothing$"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_damaged_config(run: Path, text: str):
    (run / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json") as caught:
        read_run(run)
    assert isinstance(caught.value, FastganError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tail", [b'{"step": 3500, "loss/gen', b'{"step": 3500, "note/\xc3', b"17", b"{}"])
def test_a_half_written_last_line_is_skipped_without_a_note(run: Path, tail: bytes):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    record = read_run(run)
    assert len(record.metrics) == 6
    assert record.notes == []


def test_a_damaged_line_in_the_middle_is_named(run: Path):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[2] = '{"step": 15\n'
    (run / "metrics.jsonl").write_text("".join(lines))
    record = read_run(run)
    assert [row["step"] for row in record.metrics] == [500, 1000, 2000, 2500, 3000]
    assert record.notes == ["1 line of metrics.jsonl could not be read and is left out."]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(run: Path):
    with (run / "metrics.jsonl").open("a") as file:
        for step in (2000, 2100):
            file.write(json.dumps({"step": step, "loss/generator": 9.0}) + "\n")
    rows = read_run(run).metrics
    assert [row["step"] for row in rows] == [500, 1000, 1500, 2000, 2100]
    assert rows[3]["loss/generator"] == 9.0


@pytest.mark.parametrize("name", ["status.json", "generator.onnx.json"])
def test_a_damaged_record_is_named(run: Path, name: str):
    (run / name).write_text('{"state": "fin')
    assert read_run(run).notes == [f"{name} could not be read and is left out."]


def test_only_complete_png_files_are_sample_grids(run: Path):
    for name in ("fixed-latest.png", ".fixed-00004000.png.part", "fixed-00000700.txt"):
        (run / "samples" / name).write_bytes(b"")
    assert list(read_run(run).sample_grids["fixed"]) == [500, 1500, 3000]
