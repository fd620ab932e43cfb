"""The pages in a real browser: the slider works, the console has no errors, no page is wider than a phone."""

import io
import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.report import page
from fastgan.report.compare import write_comparison
from fastgan.report.page import write_report

from .browser import Browser, find

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def browser():
    program = find()
    if program is None:
        pytest.skip("no Chromium here, and none can be installed")
    browser = Browser(program)
    yield browser
    browser.close()


def shown(browser):
    """Which of the first figure's pictures are visible, and a screenshot of the figure."""
    snapshots = browser.run(
        "[...document.querySelector('.over-time').querySelectorAll('.snapshot')].map((s) => !s.hidden)"
    )
    browser.center(".over-time .sample-grid")
    box = browser.run(
        "(({x, y, width, height}) => [x + scrollX, y + scrollY, width, height])"
        "(document.querySelector('.over-time .sample-grid').getBoundingClientRect())"
    )
    picture = np.asarray(Image.open(io.BytesIO(browser.screenshot(box))).convert("L")).astype(int)
    return snapshots, picture


def use_the_slider(browser, snapshots):
    before, last = shown(browser)
    assert before == [*[False] * (snapshots - 1), True]
    x, y = browser.center("input[type=range]")
    browser.click(x, y)  # its middle
    middle, half = shown(browser)
    assert middle == [i == snapshots // 2 for i in range(snapshots)]
    browser.press("Home", 36)
    first, begin = shown(browser)
    assert first == [i == 0 for i in range(snapshots)]
    browser.press("ArrowRight", 39)
    assert shown(browser)[0] == [i == 1 for i in range(snapshots)]
    assert last.shape == half.shape == begin.shape
    assert np.abs(last - half).mean() > 1
    assert np.abs(begin - half).mean() > 1


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_of_a_run(browser, run, width):
    browser.open(write_report(run), width)
    use_the_slider(browser, 3)
    assert browser.run("document.querySelector('output').value") == "1500"
    assert browser.run("document.querySelector('.over-time .at').textContent") == "step 1500"
    # A pointer over a chart shows the values there, and the last values again when it leaves.
    rest = browser.run("document.querySelector('.chart .value').textContent")
    browser.click(*browser.center(".chart .plot"))
    assert browser.run("document.querySelector('.chart .value').textContent") != rest
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems == []


def test_the_page_of_a_real_training(browser, tmp_path):
    """A GAN is trained on the embedded images for some steps and leaves a page."""
    images = open_source("embedded")
    config = Config.from_flags(
        latent=8, width=8, batch=32, steps=30, log_every=5, sample_every=10, compile="off", lr_g=1e-3
    )
    torch.manual_seed(0)
    pair = models.build("dcgan", resolution=28, channels=1, latent=8, width=8)
    trainer = Trainer(*pair, config=config, out=tmp_path / "run")
    trainer.fit(BatchStream(images, 32, 0, torch.device("cpu")), reference=images.images)
    browser.open(tmp_path / "run" / "report.html", 1200)
    use_the_slider(browser, 3)
    assert "step 30 of 30" in browser.run("document.body.textContent")
    assert browser.problems == []


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_of_two_runs(browser, run, tmp_path, width):
    other = run.with_name("other")
    shutil.copytree(run, other)
    browser.open(write_comparison([run, other], tmp_path / "compare.html"), width)
    use_the_slider(browser, 3)
    assert (
        browser.run("[...document.querySelectorAll('.over-time .at')].map((a) => a.textContent)") == ["step 1500"] * 2
    )
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems == []


def test_a_broken_script_is_detected(browser, run):
    path = write_report(run)
    path.write_text(path.read_text().replace("slider.valueAsNumber", "slider.nothing.at"))
    browser.open(path)
    browser.center("h1")
    assert browser.problems
    browser.problems.clear()


def test_the_page_of_a_running_run_shows_what_was_written_since(browser, run, monkeypatch):
    """And not while somebody uses it."""
    monkeypatch.setattr(page, "RELOAD_SECONDS", 1)
    status = run / "status.json"
    status.write_text(json.dumps({"state": "running", "step": 1000, "steps": 3000, "message": ""}))
    browser.open(write_report(run))
    state = "document.querySelector('.state').textContent"
    assert "running at step 1000" in browser.run(state)
    status.write_text(json.dumps({"state": "finished", "step": 3000, "steps": 3000, "message": ""}))
    write_report(run)
    for _ in range(8):
        browser.press("ArrowRight", 39)
        time.sleep(0.2)
    assert "running at step 1000" in browser.run(state)
    deadline = time.monotonic() + 20
    while "finished at step 3000" not in browser.run(state):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert browser.run("document.body.dataset.reload") is None
    assert browser.problems == []
