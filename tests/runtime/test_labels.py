"""Labels as the second input of what is exported: written, verified, run, and refused before anything runs."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.errors import ExportError, UsageError
from fastgan.export import export
from fastgan.export.quantization import ranges
from fastgan.export.quantization.quantize import quantize
from fastgan.export.targets import aoti, triton_server
from fastgan.export.verification_inputs import probes
from fastgan.export.verify import Standard
from fastgan.runtime import Session, generate, labels
from fastgan.runtime.benchmark import Plan, bench
from fastgan.runtime.spec import Spec

SPEC = Spec("latent", latent_shape=(5,), classes=3)
BACKENDS = ["onnxruntime", "openvino", "torch"]


def z_of(n):
    return np.random.default_rng(n).standard_normal((n, 5), dtype=np.float32)


def opened(conditional, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    network, path = conditional
    return Session(network if backend == "torch" else path, backend=backend, device="cpu")


def test_a_generator_says_how_many_classes_it_has(make, conditional):
    assert Spec.of(conditional[0]) == SPEC
    assert SPEC.inputs == ("z", "y")
    assert Spec.from_json(SPEC.to_json()) == (SPEC, {})
    assert (Spec.of(make.Generator()).inputs, Spec("image").inputs) == (("z",), ("images",))
    conditional[0].classes = np.int64(3)  # what labels.max() + 1 is
    assert Spec.of(conditional[0]) == SPEC
    conditional[0].classes = ["cat", "dog"]
    with pytest.raises(UsageError, match=r"a whole number >= 0 as its attribute `classes`, got \['cat', 'dog'\]"):
        Spec.of(conditional[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_class_at_every_batch(conditional, backend):
    network, session = conditional[0], opened(conditional, backend)
    assert "and y [N] of 3 classes → images" in session.describe()
    for n in (1, 2, 7):
        z = torch.from_numpy(z_of(n))
        for label in range(3):
            y = torch.full((n,), label)
            expected = network(z, y)
            np.testing.assert_allclose(session(z.numpy(), y.numpy()), expected, atol=1e-6)
            for _ in range(2):  # the second time memory is the runtime's and torch's at once
                torch.testing.assert_close(session(z, y), expected, atol=1e-6, rtol=1e-5)
        mixed = torch.tensor([2, 0, 1, 1, 0, 2, 2])[:n]
        np.testing.assert_allclose(session(z.numpy(), mixed.numpy()), network(z, mixed), atol=1e-6)
        in_turn = network(z, torch.arange(n) % 3)
        np.testing.assert_allclose(session(z.numpy()), in_turn, atol=1e-6)
        torch.testing.assert_close(session(z), in_turn, atol=1e-6, rtol=1e-5)
    assert session.example(4).shape == (4, 5)
    assert session.figures(0.01)["latency_ms_batch1"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_that_cannot_be(conditional, backend):
    session, z = opened(conditional, backend), z_of(2)
    for y, sentence in (
        (np.array([0, 3]), "y: expected labels from 0 to 2, got 3"),
        (np.array([-1, 0]), "y: expected labels from 0 to 2, got -1"),
        (np.array([0, 1, 2]), r"y: expected int64 \[2\], a label for each z, got int64 \[3\]"),
        (np.array([[0], [1]]), r"y: expected int64 \[2\], a label for each z, got int64 \[2, 1\]"),
        (np.array([0.0, 1.0]), "y: expected int64, got float64"),
        (np.array([0, 1], np.int32), "y: expected int64, got int32"),
        ([0, 1], "y: expected a numpy array or a torch tensor, got list"),
        (torch.tensor([0, 1]), "y: expected ndarray as z is one, got Tensor"),
    ):
        with pytest.raises(UsageError, match=sentence):
            session(z, y)


def test_labels_of_a_generator_without_classes(generator):
    with pytest.raises(UsageError, match="y: this model takes no labels"):
        Session(generator[1], backend="onnxruntime")(z_of(2), np.array([0, 1]))


def test_a_file_of_one_batch_takes_several(make, conditional, tmp_path):
    path = make.conditional(tmp_path / "two.onnx", conditional[0], batch=2)
    session = Session(path, backend="onnxruntime")
    z, y = z_of(6), np.array([2, 1, 0, 0, 2, 1])
    np.testing.assert_allclose(session(z, y), conditional[0](torch.from_numpy(z), torch.from_numpy(y)), atol=1e-6)


def test_the_fastest_back_end_is_found(conditional):
    pytest.importorskip("openvino")
    assert set(Session(conditional[1], device="cpu").choice.milliseconds) == {"onnxruntime", "openvino"}


def test_benchmarks(conditional):
    opens = {"onnxruntime": lambda: opened(conditional, "onnxruntime"), "torch": lambda: opened(conditional, "torch")}
    rows = bench({"conditional": opens}, Plan((1, 4), seconds=0.01), lambda text: None)
    assert [(row["backend"], row["batch"]) for row in rows] == [
        ("onnxruntime", 1), ("onnxruntime", 4), ("torch", 1), ("torch", 4),
    ]  # fmt: skip
    assert all(float(row["p50_ms"]) > 0 for row in rows)


def test_first_and_last_class_are_compared():
    for classes, seen in ((2, 2), (10, 10), (1000, 64)):
        ys = [y for _, y in probes(Spec("latent", latent_shape=(5,), classes=classes), 48)]
        assert [len(y) for y in ys] == [1, 3, 64]
        assert all(y.dtype == np.int64 for y in ys)
        assert ys[0][0] == classes - 1
        assert (ys[2].min(), ys[2].max(), len(set(ys[2].tolist()))) == (0, classes - 1, seen)


def test_a_file_that_takes_its_labels_for_others_is_refused(conditional):
    network, path = conditional
    standard, session = Standard.of(network, SPEC), Session(path, backend="onnxruntime")
    standard.judge(session)
    for wrong in (lambda y: y * 0, lambda y: np.minimum(y, 1), lambda y: y[::-1].copy()):
        with pytest.raises(ExportError, match="the exported model is off by"):
            standard.judge(lambda z, y, wrong=wrong: session(z, wrong(y)))


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
    place = triton_server.write_repository(conditional[1], tmp_path / "models", "c", SPEC)
    text = " ".join((place / "config.pbtxt").read_text().split())
    assert 'input [ { name: "z" data_type: TYPE_FP32 dims: [ 5 ] } ]' in text
    assert 'input [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]' in text
    assert 'output [ { name: "images" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] } ]' in text
    with pytest.raises(UsageError, match=r"expected one float32 input, .* has another input"):
        triton_server.write_repository(conditional[1], tmp_path / "models", "d", Spec("latent", latent_shape=(5,)))


def test_native_code_never_sees_what_it_would_not_check():
    package = aoti.Package(lambda z, y: z, SPEC, {"device": "cpu"})
    z = torch.zeros(2, 5)
    assert package(z, torch.tensor([0, 2])) is z
    for y in (None, torch.tensor([0, 3]), torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([0, 1]).int()):
        with pytest.raises(UsageError, match="y: expected"):
            package(z, y)
    with pytest.raises(UsageError, match="y: expected labels of 0 classes, got some"):
        aoti.Package(lambda z: z, Spec("latent", latent_shape=(5,)), {"device": "cpu"})(z, torch.tensor([0, 1]))


@pytest.mark.slow  # native code is compiled
@pytest.mark.skipif(aoti.why_not() is not None, reason="no C++ compiler")
def test_compiled_ahead_of_time(conditional, tmp_path):
    network, out = conditional[0], tmp_path / "c.pt2"
    export(network, out, to="aoti")
    session = Session(out)
    z, y = torch.from_numpy(z_of(7)), torch.arange(7) % 3
    torch.testing.assert_close(session(z, y), network(z, y), atol=1e-5, rtol=1e-5)


class Plain:
    """Pictures of the class's gray, and of what z says; keeps the sizes of its batches."""

    spec = Spec("latent", latent_shape=(5,), classes=3)

    def __call__(self, z, y):
        labels.check(y, len(z), 3)
        made = np.clip(z[:, 0] / 100, -0.01, 0.01) + y - 1
        return np.broadcast_to(made[:, None, None, None], (len(z), 3, 20, 20)).astype(np.float32)


def grays(path):
    return np.asarray(Image.open(path))[10, 10, 0]


def test_a_seed_is_one_picture_of_one_class(tmp_path):
    for label in (None, 1):
        generate.save_pictures(Plain(), [4, 2, 9], tmp_path, 2, label)
        for seed in (4, 2, 9):
            of = seed % 3 if label is None else label
            assert abs(int(grays(tmp_path / f"seed{seed:04d}.png")) - [0, 127.5, 255][of]) < 3
    with pytest.raises(UsageError, match="class: expected a number from 0 to 2, got 3"):
        generate.save_sheet(Plain(), [1], tmp_path / "grid.png", label=3)
    Plain.spec, spec = Spec("latent", latent_shape=(5,)), Plain.spec
    try:
        with pytest.raises(UsageError, match="class: the generator was trained without labels"):
            generate.save_sheet(Plain(), [1], tmp_path / "grid.png", label=0)
    finally:
        Plain.spec = spec


def test_a_walk_stays_in_its_class(tmp_path, monkeypatch):
    frames = []

    class Writer:
        def __init__(self, *given, **more):
            self.frames = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, frame):
            frames.append(int(frame[0, 0, 0]))

    monkeypatch.setattr(generate, "VideoWriter", Writer)
    for label, gray in ((None, 255), (0, 0)):
        frames.clear()
        generate.save_walk(Plain(), [5, 1], tmp_path / "w.webp", frames=4, fps=4, label=label)
        assert len(frames) == 5
        assert all(abs(value - gray) < 3 for value in frames)
