"""Labels as the second input of exported files: written, verified, calibrated."""

import numpy as np
import pytest
import torch

from fastgan.errors import ExportError, UsageError
from fastgan.export import export
from fastgan.export.quantization import ranges
from fastgan.export.quantization.quantize import quantize
from fastgan.export.targets import aoti, triton_server
from fastgan.export.verification_inputs import verification_batches
from fastgan.export.verify import Reference
from fastgan.runtime import Session
from fastgan.runtime.spec import Spec

SPEC = Spec("latent", latent_shape=(5,), classes=3)


def z_of(n):
    return np.random.default_rng(n).standard_normal((n, 5), dtype=np.float32)


def test_first_and_last_class_are_compared():
    for classes, seen in ((2, 2), (10, 10), (1000, 64)):
        ys = [y for _, y in verification_batches(Spec("latent", latent_shape=(5,), classes=classes), 48)]
        assert [len(y) for y in ys] == [1, 3, 64]
        assert all(y.dtype == np.int64 for y in ys)
        assert ys[0][0] == classes - 1
        assert (ys[2].min(), ys[2].max(), len(set(ys[2].tolist()))) == (0, classes - 1, seen)


def test_a_file_that_confuses_its_labels_is_refused(conditional):
    network, path = conditional
    reference, session = Reference.of(network, SPEC), Session(path, backend="onnxruntime")
    reference.compare(session)
    for wrong in (lambda y: y * 0, lambda y: np.minimum(y, 1), lambda y: y[::-1].copy()):
        with pytest.raises(ExportError, match="the exported model has an error of"):
            reference.compare(lambda z, y, wrong=wrong: session(z, wrong(y)))


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-6), ("fp16", 5e-3)])
def test_exported_in_every_precision(conditional, tmp_path, precision, near):
    pytest.importorskip("onnxscript")
    network = conditional[0]
    out = tmp_path / "out.onnx"
    report = export(network, out, precision=precision, about={"class_names": ["a", "b", "c"]})
    assert [row["batch"] for row in report["parity"]] == [1, 3, 64]
    session = Session(out, backend="onnxruntime")
    assert (session.spec.classes, session.about["class_names"]) == (3, ["a", "b", "c"])
    z = torch.from_numpy(z_of(9))
    for label in range(3):
        y = torch.full((9,), label)
        np.testing.assert_allclose(session(z, y), network(z, y), atol=near)


def test_int8_is_calibrated_with_every_class(conditional, tmp_path, monkeypatch):
    seen, observe = [], ranges.observe
    monkeypatch.setattr(ranges, "observe", lambda m, layers, inputs: seen.extend(inputs) or observe(m, layers, inputs))
    facts = quantize(conditional[1], tmp_path / "int8.onnx", SPEC, [z_of(4)] * 3)
    assert facts["layers_quantized"] == 2
    assert np.concatenate([y for _, y in seen]).tolist() == [0, 1, 2] * 4
    session, z = Session(tmp_path / "int8.onnx", backend="onnxruntime"), z_of(5)
    assert len({session(z, np.full(5, label)).tobytes() for label in range(3)}) == 3


def test_a_triton_servers_configuration(conditional, tmp_path):
    repository = triton_server.write_repository(conditional[1], tmp_path / "models", "c", SPEC)
    text = " ".join((repository / "config.pbtxt").read_text().split())
    assert 'input [ { name: "z" data_type: TYPE_FP32 dims: [ 5 ] } ]' in text
    assert 'input [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]' in text
    assert 'output [ { name: "images" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] } ]' in text
    with pytest.raises(UsageError, match=r"expected one float32 input, .* has another input"):
        triton_server.write_repository(conditional[1], tmp_path / "models", "d", Spec("latent", latent_shape=(5,)))


@pytest.mark.slow  # native code is compiled
@pytest.mark.skipif(aoti.why_not() is not None, reason="no C++ compiler")
def test_compiled_ahead_of_time(conditional, tmp_path):
    network, out = conditional[0], tmp_path / "c.pt2"
    export(network, out, to="aoti")
    session = Session(out, trust=True)
    z, y = torch.from_numpy(z_of(7)), torch.arange(7) % 3
    torch.testing.assert_close(session(z, y), network(z, y), atol=1e-5, rtol=1e-5)
