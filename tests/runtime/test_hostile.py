"""Exported files whose metadata are of the wrong type, out of bounds, or not those of the network."""

import json
import zipfile

import numpy as np
import onnx
import pytest
from fixtures_networks import write_upscaler

from fastgan._util import memory
from fastgan.errors import BackendError, DataError, ExportError, UsageError
from fastgan.runtime.declared import check_result
from fastgan.runtime.session import Session
from fastgan.runtime.spec import Spec


def with_metadata(path, **changes):
    """The file with other values in its metadata."""
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | changes)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scale": 0}, "scale: expected a whole number from 1 to 65536, got 0"),
        ({"scale": 2.0}, "scale: expected a whole number from 1 to 65536, got 2.0"),
        ({"scale": True}, "scale: expected a whole number from 1 to 65536, got True"),
        ({"range": [float("nan"), 1]}, r"range\[0\]: expected a number from -1e\+06 to 1e\+06, got nan"),
        ({"range": [0, 1, 2]}, "range: expected a list of 2 values, got a list of 3 values"),
        ({"range": [1, 1]}, "range: expected an ascending one"),
        ({"channels": 10**40}, "channels: expected a whole number from 1 to 65536, got 1000"),
        ({"multiple": None}, "multiple: expected a whole number"),
        ({"kind": ["image"]}, "kind: expected .* got a list of 1 values"),
        ({"kind": "latent"}, "latent_shape: expected 1 to 16,777,216 numbers"),
    ],
)
def test_metadata_of_wrong_types_are_one_sentence(upscaler, changes, text):
    with pytest.raises(ExportError, match=rf"model: its fastgan metadata cannot be read: {text}"):
        Session(with_metadata(upscaler[1], **changes), backend="onnxruntime")


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "null", "{", '{"range": [NaN, 1]}'])
def test_other_texts_are_one_sentence(text):
    with pytest.raises(ExportError, match="metadata cannot be read"):
        Spec.from_json(text)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_scale_is_compared_with_the_result(upscaler, backend, scale):
    if backend != "onnxruntime":
        pytest.importorskip("openvino")
    with_metadata(upscaler[1], scale=scale)
    for _ in range(2):  # nothing is stored of the first
        with pytest.raises(BackendError, match=rf"returns \[1, 3, 32, 32\]; its metadata state \[1, 3, {16 * scale}"):
            Session(upscaler[1], backend=backend, threads=1)


def test_stated_sizes_are_compared_without_running(tmp_path, upscaler):
    path = write_upscaler(tmp_path / "fixed.onnx", upscaler[0], size=(8, 8))
    text = r"has an output \[any, 3, 16, 16\], its metadata state \[any, 3, 8, 8\]"
    with pytest.raises(ExportError, match=text):
        Session(with_metadata(path, scale=1), backend="onnxruntime")


def test_inputs_are_compared(generator, conditional, upscaler):
    with pytest.raises(ExportError, match=r"has an input \[any, 5\], its metadata state \[any, 7\]"):
        Session(with_metadata(generator[1], latent_shape=[7]), backend="onnxruntime")
    with pytest.raises(ExportError, match="has 2 inputs, its metadata state z"):
        Session(with_metadata(conditional[1], classes=0), backend="onnxruntime")
    with pytest.raises(ExportError, match=r"has an input \[any, 3, any, any\], its metadata state \[any, 1"):
        Session(with_metadata(upscaler[1], channels=1), backend="onnxruntime")


def test_huge_fixed_batches_and_sizes(tmp_path, upscaler, monkeypatch):
    path = write_upscaler(tmp_path / "batch.onnx", upscaler[0], batch=1_000_000)
    with pytest.raises(ExportError, match="takes 1,000,000 at a time only; expected at most 4,096"):
        Session(path, backend="onnxruntime")
    monkeypatch.setattr(memory, "free_host_memory", lambda: 1 << 20)
    for spec in (True, False):
        path = write_upscaler(tmp_path / "size.onnx", upscaler[0], size=(1024, 1024), spec=spec)
        with pytest.raises(DataError, match=r"takes 12\.6 MB of memory, and 1\.0 MB are free"):
            Session(path, backend="onnxruntime")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_files_of_others_with_odd_names_and_no_stated_output(tmp_path, upscaler, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    model = onnx.load(write_upscaler(tmp_path / "m.onnx", upscaler[0], spec=False))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for node in model.graph.node:
        node.input[:] = ["the input: 0/\u202e" if name == "x" else name for name in node.input]
    model.graph.input[0].name = "the input: 0/\u202e"
    onnx.save(model, tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", backend=backend, threads=1)
    assert session.spec == Spec("image", scale=2, range=(0.0, 1.0))
    assert session.pixels(np.zeros((1, 5, 6, 3), np.uint8)).shape == (1, 10, 12, 3)


def test_an_opset_that_does_not_exist(upscaler):
    model = onnx.load(upscaler[1])
    model.opset_import[0].version = 1 << 40
    onnx.save(model, upscaler[1])
    with pytest.raises(ExportError, match="has an opset that does not exist: 1099511627776"):
        Session(upscaler[1])


def test_native_code_asks_for_trust(tmp_path):
    path = tmp_path / "m.pt2"
    facts = Spec("latent", latent_shape=(4,)).to_json(device="cpu", hardware="none of this world")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/x_metadata.json", json.dumps({"fastgan": facts}))
    with pytest.raises(UsageError, match=r"trust: .*m\.pt2 holds native code, which runs with your rights"):
        Session(path, device="cpu")
    with pytest.raises(ExportError, match="was compiled for none of this world"):
        Session(path, device="cpu", trust=True)


@pytest.mark.parametrize(
    ("spec", "given", "result", "pixels"),
    [
        (Spec("signal", channels=10, out_channels=1, scale=8), (2, 10, 5), (2, 1, 40), False),
        (Spec("image", channels=1, out_channels=3, scale=2), (2, 1, 5, 6), (2, 3, 10, 12), False),
        (Spec("image", channels=1, out_channels=3, scale=2), (2, 5, 6, 1), (2, 10, 12, 3), True),
    ],
)
def test_results_of_other_channels_and_of_signals(spec, given, result, pixels):
    check_result(spec, given, result, pixels)
    for i in range(len(result)):
        wrong = tuple(n + (i == j) for j, n in enumerate(result))
        with pytest.raises(BackendError, match="its metadata state"):
            check_result(spec, given, wrong, pixels)
