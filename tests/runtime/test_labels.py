"""Labels as the second input of a session."""

import tracemalloc

import numpy as np
import pytest
import torch

from fastgan.errors import UsageError
from fastgan.runtime import Session, labels
from fastgan.runtime.benchmark import BenchmarkOptions, bench
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


def test_the_number_of_classes_of_a_generator(make, conditional):
    assert Spec.of(conditional[0]) == SPEC
    assert SPEC.inputs == ("z", "y")
    assert Spec.from_json(SPEC.to_json()) == (SPEC, {})
    assert (Spec.of(make.Generator()).inputs, Spec("image").inputs) == (("z",), ("images",))
    conditional[0].classes = np.int64(3)  # numpy's labels.max() + 1
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
            for _ in range(2):  # the second time, ONNX Runtime uses torch's memory
                torch.testing.assert_close(session(z, y), expected, atol=1e-6, rtol=1e-5)
        mixed = torch.tensor([2, 0, 1, 1, 0, 2, 2])[:n]
        np.testing.assert_allclose(session(z.numpy(), mixed.numpy()), network(z, mixed), atol=1e-6)
        in_turn = network(z, torch.arange(n) % 3)
        np.testing.assert_allclose(session(z.numpy()), in_turn, atol=1e-6)
        torch.testing.assert_close(session(z), in_turn, atol=1e-6, rtol=1e-5)
    assert session.example(4).shape == (4, 5)
    assert session.figures(0.01)["latency_ms_batch1"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_labels(conditional, backend):
    session, z = opened(conditional, backend), z_of(2)
    for y, sentence in (
        (np.array([0, 3]), "y: expected labels from 0 to 2, got 3"),
        (np.array([-1, 0]), "y: expected labels from 0 to 2, got -1"),
        (np.array([0, 1, 2]), r"y: expected int64 \[2\], a label for each z, got int64 \[3\]"),
        (np.array([[0], [1]]), r"y: expected int64 \[2\], a label for each z, got int64 \[2, 1\]"),
        (np.array([0.0, 1.0]), "y: expected int64, got float64"),
        (np.array([0, 1], np.int32), "y: expected int64, got int32"),
        (7, "y: expected a numpy array or a torch tensor, got int"),
        ([0, 3], "class: expected a number from 0 to 2, got 3"),
        ([0], r"y: expected int64 \[2\], a label for each z, got int64 \[1\]"),
        (np.eye(3)[:2], r"y: .* got float64 \[2, 3\]; of one-hot rows take y.argmax\(1\)"),
        (torch.tensor([0, 1]), "y: expected ndarray as z is one, got Tensor"),
    ):
        with pytest.raises(UsageError, match=sentence):
            session(z, y)


def test_vectors_of_labels_take_memory_for_these_labels_alone():
    y = np.array([999_999, 0, 3])
    tracemalloc.start()
    vectors = labels.one_hot(y, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 4 * vectors.nbytes
    tracemalloc.stop()
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 1_000_000))
    assert (vectors.argmax(1) == y).all()
    assert (vectors.sum(1) == 1).all()


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
    rows = bench({"conditional": opens}, BenchmarkOptions((1, 4), seconds=0.01))
    assert [(row["backend"], row["batch"]) for row in rows] == [
        ("onnxruntime", 1), ("onnxruntime", 4), ("torch", 1), ("torch", 4),
    ]  # fmt: skip
    assert all(float(row["p50_ms"]) > 0 for row in rows)
