"""fastgan bench: rows for back-ends that run and agree, reasons for the others, a table, a CSV and an SVG."""

import csv
import functools
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fastgan.errors import UsageError
from fastgan.runtime import benchmark
from fastgan.runtime.session import Session


def opens(model, *backends, **options):
    return {name: functools.partial(Session, model, backend=name, threads=1, **options) for name in backends}


def run(models, **options):
    return benchmark.bench(models, benchmark.BenchmarkOptions(**{"seconds": 0.01, "size": (20, 12)} | options))


def test_image_models_in_every_back_end(upscaler):
    pytest.importorskip("openvino")
    network, path = upscaler
    rows = run({"file": opens(path, "onnxruntime", "openvino"), "module": opens(network, "torch")}, batches=(1, 2))
    assert {(r["model"], r["backend"], r["task"], r["batch"]) for r in rows} == {
        (model, backend, task, batch)
        for model, backend in (("file", "onnxruntime"), ("file", "openvino"), ("module", "torch"))
        for task in ("model", "pixels")
        for batch in (1, 2)
    }
    for row in rows:
        assert row["size"] == "20x12"
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"]) <= float(row["p99_ms"])
        assert float(row["images_per_second"]) == pytest.approx(1e3 * row["batch"] / float(row["p50_ms"]), rel=0.01)
        assert row["runs"] >= 2
    assert [float(r["psnr_dB"]) > 100 for r in rows if r["backend"] == "openvino"] == [True] * 4
    assert "fp32" in {row["precision"] for row in rows}

    text = benchmark.table(rows)
    assert text.splitlines()[0].split()[:5] == ["model", "backend", "task", "batch", "size"]
    assert len(text.splitlines()) == 1 + len(rows) + 1
    stored = list(csv.DictReader(io.StringIO(benchmark.as_csv(rows))))
    assert tuple(stored[0]) == benchmark.COLUMNS
    assert [r["p50_ms"] for r in stored] == [r["p50_ms"] for r in rows]
    tree = ET.fromstring(benchmark.picture(rows))
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "Throughput, the network alone" in texts
    assert texts.count("module, torch") == 3  # both tasks, and the curves


def test_a_plot_without_matplotlib_is_an_error_before_anything_is_measured(upscaler, monkeypatch, tmp_path, capsys):
    from fastgan import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(benchmark, "bench", None)
    assert cli.run(["bench", str(upscaler[1]), "--plot", "b.svg"]) == 2
    assert "plot: matplotlib, which draws it, is not installed; pip install" in capsys.readouterr().err


def test_latent_models_have_their_own_batches_and_no_pixels(generator):
    rows = run({"g": opens(generator[1], "onnxruntime")})
    assert [(r["task"], r["batch"], r["size"]) for r in rows] == [("model", n, "5") for n in (1, 4, 16, 64)]


def test_rows_of_failures_have_the_reason(upscaler, tmp_path):
    models = {"m": opens(upscaler[1], "onnxruntime") | {"absent": lambda: Session(tmp_path / "no.onnx")}}
    rows = run(models, batches=(1,))
    (failed,) = [row for row in rows if "p50_ms" not in row]
    assert failed["backend"] == "absent"
    assert failed["note"].startswith("not available: model: ")
    assert f"m in absent: {failed['note']}" in benchmark.table(rows)
    with pytest.raises(UsageError, match=r"absent: not available: model: .*no.onnx is not a file"):
        run({"m": {"absent": lambda: Session(tmp_path / "no.onnx")}})


def test_a_back_end_with_other_outputs_is_not_timed(upscaler, make, tmp_path):
    other = make.upscaler(tmp_path / "other.onnx", make.Upscaler(gain=0.1))
    nan = make.upscaler(tmp_path / "nan.onnx", make.Upscaler(gain=float("nan")))
    models = {"m": opens(upscaler[1], "onnxruntime")}
    for name, path in (("other", other), ("nan", nan)):
        models["m"][name] = functools.partial(Session, path, backend="onnxruntime")
    rows = run(models, batches=(1,))
    assert {row["backend"]: "p50_ms" in row for row in rows} == {"onnxruntime": True, "other": False, "nan": False}
    assert "not timed: its images are" in benchmark.table(rows)


def test_progress_is_logged(generator, caplog):
    with caplog.at_level("INFO", logger="fastgan.runtime.benchmark"):
        run({"g": opens(generator[1], "onnxruntime")}, batches=(1,))
    assert caplog.messages == ["g: opening in onnxruntime", "g: model at batch 1"]


def test_a_file_of_one_batch(make, tmp_path):
    path = make.upscaler(tmp_path / "fixed.onnx", make.Upscaler(), size=(10, 12), batch=2)
    rows = run({"m": opens(path, "onnxruntime")}, batches=(1, 4, 5))
    assert {(row["batch"], row["size"]) for row in rows} == {(4, "12x10")}


def test_decibels():
    x = np.zeros((1, 1, 10, 10), np.float32)
    assert benchmark.decibels(x, x, (0, 1)) == float("inf")
    assert benchmark.decibels(x, x + 0.1, (0, 1)) == pytest.approx(20)
    assert benchmark.decibels(x, x + 0.1, (-1, 1)) == pytest.approx(26.02, abs=0.01)
    assert benchmark.decibels(x, x - 5, (0, 1)) == float("inf")  # clipped, as pixels are


def test_the_command(command, upscaler, generator, tmp_path):
    words = ["--seconds", 0.01, "--size", "16x12", "--backends", "onnxruntime,torch", "--threads", 1]
    done = command("bench", upscaler[1], generator[1], *words, "--out", "b.csv", "--plot", "b.svg")
    assert done.returncode == 0, done.stderr
    assert "upscaler.onnx" in done.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "b.csv").read_text())))
    assert {(row["model"], row["backend"]) for row in rows} == {
        ("upscaler.onnx", "onnxruntime"),
        ("generator.onnx", "onnxruntime"),
    }
    assert {row["threads"] for row in rows} == {"1"}
    ET.parse(tmp_path / "b.svg")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "0x5"], "size: expected WIDTHxHEIGHT"),
        (["--batches", "1,0"], "batches: expected numbers such as 1,4,16, got '1,0'"),
        (["--backends", "tvm"], "backends: expected auto or some of aoti, compile, onnxruntime"),
        (["--backends", "torch"], "runs in onnxruntime or openvino, got torch"),
        (["--seconds", "0"], "seconds: expected a number > 0"),
        (["--out", "rows.txt"], "out: expected a file .csv"),
        (["--plot", "nowhere/b.svg"], "plot: nowhere/b.svg cannot be written"),
        (["--device", "tpu"], "device: expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_wrong_options(words, sentence, upscaler, monkeypatch, tmp_path, capsys):
    from fastgan import cli

    monkeypatch.chdir(tmp_path)
    assert cli.run(["bench", str(upscaler[1]), *words]) == 2
    assert sentence in capsys.readouterr().err
