"""View models: results of `fastgan eval` and norms of layers, as the files of a run hold them."""

import json

from fastgan.report.load import read_run
from fastgan.report.page import page
from fastgan.report.view import compared, evaluations, layers

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


def test_metrics_have_their_names_the_latest_evaluation_first(run):
    (run / "eval.json").write_text(json.dumps([found(step=1000), found(fid=40.0625)]))
    latest, first = evaluations(read_run(run))
    assert [latest.title, first.title] == [
        f"5000 samples of step {s} against 5000 images of mnist" for s in (3000, 1000)
    ]
    assert latest.table.rows == [
        ["fid5k_digits", "40.06", "–", "–", "lower"],
        ["kid5k_digits", "0.5", "0.25", "–", "lower"],
        ["class_fid", "–", "–", "–", "lower; few"],
        ["· <Shirt>", "7.5", "–", "–", ""],
        ["· Bag", "–", "–", "–", ""],
    ]
    assert latest.about == "Features by digits, of mnist, with an accuracy of 98.5 % on held-out images."
    assert latest.warnings == ["5,000 samples <are> few"]
    html = page(read_run(run))
    assert "<td>· &lt;Shirt&gt;</td><td>7.5</td>" in html
    assert "5,000 samples &lt;are&gt; few" in html
    assert html.index("samples of step 3000") < html.index("samples of step 1000")


def test_what_eval_writes_is_what_the_page_reads(run):
    """The rows of a real evaluation, not of this test's making."""
    import numpy as np

    from fastgan.data import ImageSet
    from fastgan.metrics.evaluate import evaluate

    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)
    result = evaluate(images[:20], ImageSet(images[20:], None, "noise", ""), metrics="spectral,copies", seed=3)
    (run / "eval.json").write_text(json.dumps([result.to_json()]))
    (shown,) = evaluations(read_run(run))
    assert [row[0] for row in shown.table.rows] == [row.name for row in result.rows]
    assert shown.title == compared(result.to_json()) == "20 samples against 20 images of noise"


def test_no_evaluation_and_odd_ones(run):
    assert evaluations(read_run(run)) == []
    (run / "eval.json").write_text('[{"rows": 3}, 7, {"rows": [{"value": 1}, {"name": "a", "parts": 4}]}]')
    latest, first = evaluations(read_run(run))
    assert latest.table.rows == [["a", "–", "–", "–", ""]]
    assert first.table.rows == []
    (run / "eval.json").write_text("{}")
    record = read_run(run)
    assert record.evaluations == []
    assert record.notes == ["eval.json could not be read and is left out."]


def test_layers_are_a_table_for_each_network(run):
    assert layers(read_run(run)) == []
    (run / "layers.json").write_text(json.dumps(LAYERS))
    generator, discriminator = layers(read_run(run))
    assert (generator.network, generator.count) == ("generator", "1 weight")
    assert (discriminator.network, discriminator.count) == ("discriminator", "2 weights")
    assert generator.table.head == ["weight", "norm", "gradient", "change"]
    assert generator.table.rows == [["stem.weight", "3.25", "0.5", "0.001"]]
    assert discriminator.table.head == ["weight", "norm", "gradient", "change", "spectral norm"]
    assert discriminator.table.rows == [
        ["out.weight", "1.5", "2.5", "0.002", "0.9877"],
        ["out.bias", "0.5", "2.5", "0.002", "–"],
    ]
    html = page(read_run(run))
    assert '<summary>discriminator <span class="meaning">2 weights</span></summary>' in html
    assert "<td>out.weight</td><td>1.5</td>" in html
