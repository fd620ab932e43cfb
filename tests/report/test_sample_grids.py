"""Sample grids: which steps are embedded, and what is shown where a picture is missing."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from fastgan.report import sample_grids as module
from fastgan.report.load import read_run
from fastgan.report.page import page
from fastgan.report.sample_grids import STEPS, chosen_steps, spread


def samples(run: Path) -> str:
    """The HTML of the section."""
    html = page(read_run(run))
    return html[html.index('id="samples"') : html.index('id="curves"')]


@pytest.mark.parametrize("n", [1, 2, 23, 24, 25, 26, 47, 1000])
def test_spread_keeps_first_and_last_and_is_even(n: int):
    picked = spread(range(n), 24)
    assert len(picked) == min(n, 24)
    assert (picked[0], picked[-1]) == (0, n - 1)
    gaps = {b - a for a, b in pairwise(picked)}
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_pictures_are_embedded(run: Path):
    html = samples(run)
    images = re.findall(
        r'<img alt="([^"]+)" width="(\d+)" height="(\d+)"[^>]* src="data:image/png;base64,([^"]+)">', html
    )
    assert len(images) == 7
    assert all(alt for alt, *_ in images)
    data = [base64.b64decode(text) for *_, text in images]
    assert (run / "samples" / "fixed-00001500.png").read_bytes() == data[1]
    assert (run / "samples" / "real.png").read_bytes() == data[-1]
    assert images[0][1:3] == ("14", "14")  # 2 × 2 images of 4 pixels with margins of 2


def test_the_last_step_is_shown_first(run: Path):
    html = samples(run)
    assert 'data-steps="500 1500 3000"' in html
    assert 'max="2" step="1" value="2"' in html
    assert len(re.findall(r'<div class="snapshot" data-step="3000">', html)) == 2
    assert len(re.findall(r'<div class="snapshot" data-step="\d+" hidden>', html)) == 4


def test_many_steps_are_thinned_with_a_note(run: Path):
    png = (run / "samples" / "real.png").read_bytes()
    for step in range(100, 3000, 50):
        (run / "samples" / f"fixed-{step:08d}.png").write_bytes(png)
    html = samples(run)
    steps = [int(s) for s in re.search(r'data-steps="([^"]*)"', html)[1].split()]
    assert len(steps) == STEPS
    assert (steps[0], steps[-1]) == (100, 3000)
    assert "24 of 59 saved steps are shown" in html


def test_large_pictures_mean_fewer_steps(run: Path):
    record = read_run(run)
    assert chosen_steps(record) == [500, 1500, 3000]
    assert chosen_steps(record, budget=100) == [500, 3000]


def test_a_huge_picture_is_named(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LARGEST", 10)
    html = samples(run)
    assert "<img" not in html
    assert "real.png is too large to embed." in html


def test_missing_pictures_are_named(run: Path):
    (run / "samples" / "real.png").unlink()
    (run / "samples" / "fresh-00001500.png").unlink()
    (run / "samples" / "fixed-00000500.png").write_bytes(b"not a picture, though long enough")
    html = samples(run)
    assert "There is no samples/real.png." in html
    assert "None was saved at this step." in html
    assert "fixed-00000500.png is not a PNG file." in html


def test_one_step_needs_no_slider(run: Path):
    for path in (run / "samples").glob("f*-0000*.png"):
        if "3000" not in path.name:
            path.unlink()
    html = samples(run)
    assert "<input" not in html
    assert html.count("<img") == 3


def test_real_images_alone(run: Path):
    for path in (run / "samples").glob("f*.png"):
        path.unlink()
    html = samples(run)
    assert html.count("None was saved.") == 2
    assert html.count("<img") == 1


def test_other_kinds_follow_where_there_are_any(run: Path):
    png = (run / "samples" / "real.png").read_bytes()
    for kind in ("truncation", "nearest", "of a task"):
        (run / "samples" / f"{kind}-00001500.png").write_bytes(png)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "neighbors": {"among": 4096, "of": 10_000}}))
    main, more = samples(run).split('<div class="sample-grids small">')
    assert re.findall("<h3>([^<]*)</h3>", main) == ["Fixed latents", "New latents", "Real images"]
    assert re.findall("<h3>([^<]*)</h3>", more) == ["Nearest neighbors", "Truncation", "of a task"]
    assert "the most similar training image, among 4096 of 10,000<" in more
    # They have no picture at the first and the last step.
    assert more.count('data-indices="0 1 0"') == 3
    assert more.count('<div class="snapshot"><p class="empty">None was saved at this step.</p></div>') == 3
