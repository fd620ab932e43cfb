"""Figures of `fastgan eval` and layers on the page, as the files of a run hold them."""

import json
import re

from fastgan.report.figures import compared, evaluation, layers
from fastgan.report.load import read_run

LAYERS = [
    {"weight": "generator.stem.weight", "norm": 3.25, "gradient": 0.5, "change": 0.001},
    {"weight": "discriminator.out.weight", "norm": 1.5, "gradient": 2.5, "change": 0.002, "spectral_norm": 0.98765},
    {"weight": "discriminator.out.bias", "norm": 0.5, "gradient": 2.5, "change": 0.002},
]


def found(step=3000, fid=42.125, **more):
    rows = [
        {"name": "fid5k_digits", "value": fid, "better": "lower", "error": None, "real": None, "note": "", "parts": {}},
        {"name": "kid5k_digits", "value": 0.5, "better": "lower", "error": 0.25, "real": None, "note": "", "parts": {}},
        {"name": "class_fid", "value": None, "better": "lower", "note": "few", "parts": {"<Shirt>": 7.5, "Bag": None}},
    ]  # fmt: skip
    return {"samples": 5000, "reference": "mnist", "reference_images": 5000, "step": step, "rows": rows,
            "warnings": ["5,000 samples <are> few"], "extractor_about": "digits, of mnist",
            "extractor_accuracy": 0.985, **more}  # fmt: skip


def cells(html):
    return [re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_figures_stand_under_their_names_the_latest_first(run):
    (run / "eval.json").write_text(json.dumps([found(step=1000), found(fid=40.0625)]))
    html = evaluation(read_run(run))
    titles = re.findall(r"<h3>([^<]*)</h3>", html)
    assert titles == [f"5000 samples of step {step} against 5000 images of mnist" for step in (3000, 1000)]
    rows = cells(html)
    assert rows[1] == ["fid5k_digits", "40.06", "–", "–", "lower"]
    assert rows[2] == ["kid5k_digits", "0.5", "0.25", "–", "lower"]
    assert rows[3] == ["class_fid", "–", "–", "–", "lower; few"]
    assert rows[4:6] == [["· &lt;Shirt&gt;", "7.5", "–", "–", ""], ["· Bag", "–", "–", "–", ""]]
    assert "digits, of mnist, right on 98.5 % of held-out images" in html
    assert "5,000 samples &lt;are&gt; few" in html


def test_what_eval_writes_is_what_the_page_reads(run):
    """The rows of a real evaluation, not of this test's making."""
    import numpy as np

    from fastgan.data import ImageSet
    from fastgan.metrics.evaluate import evaluate

    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)
    judged = evaluate(images[:20], ImageSet(images[20:], None, "noise", ""), metrics="spectral,copies", seed=3)
    (run / "eval.json").write_text(json.dumps([judged.to_json()]))
    rows = cells(evaluation(read_run(run)))
    assert [row[0] for row in rows[1:]] == [row.name for row in judged.rows]
    assert compared(judged.to_json()) == "20 samples against 20 images of noise"


def test_no_figures_and_odd_ones(run):
    assert "were not judged yet" in evaluation(read_run(run))
    (run / "eval.json").write_text('[{"rows": 3}, 7, {"rows": [{"value": 1}, {"name": "a", "parts": 4}]}]')
    assert cells(evaluation(read_run(run)))[1] == ["a", "–", "–", "–", ""]
    (run / "eval.json").write_text("{}")
    record = read_run(run)
    assert record.evaluations == []
    assert record.notes == ["eval.json could not be read and is left out."]


def test_layers_are_a_table_for_each_network(run):
    assert "No layers were looked at" in layers(read_run(run))
    (run / "layers.json").write_text(json.dumps(LAYERS))
    html = layers(read_run(run))
    assert re.findall(r'<summary>(\w+) <span class="meaning">([^<]*)', html) == [
        ("generator", "1 weight"), ("discriminator", "2 weights")]  # fmt: skip
    assert cells(html) == [
        ["weight", "norm", "gradient", "change"],
        ["stem.weight", "3.25", "0.5", "0.001"],
        ["weight", "norm", "gradient", "change", "spectral norm"],
        ["out.weight", "1.5", "2.5", "0.002", "0.9877"],
        ["out.bias", "0.5", "2.5", "0.002", "–"],
    ]
