"""export(): networks are written, opened in ONNX Runtime, compared, and published or refused."""

import importlib
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan import models
from fastgan.errors import ExportError, UsageError
from fastgan.export import export
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact
from fastgan.runtime import Session
from fastgan.runtime.session import latents
from fastgan.runtime.spec import Spec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def generator(name="dcgan", **options):
    torch.manual_seed(0)
    network, _ = models.build(name, **{"resolution": 28, "channels": 1, "latent": 8, "width": 4} | options)
    with torch.no_grad():
        for parameter in network.parameters():  # larger than at the start, so that a wrong one shows
            parameter.mul_(3)
    network(torch.randn(64, 8))  # batch norm's statistics
    return network


def operators(path):
    model = onnx.load(path)
    assert {(node.domain or "ai.onnx") for node in model.graph.node} == {"ai.onnx"}
    assert {(entry.domain or "ai.onnx") for entry in model.opset_import} == {"ai.onnx"}
    assert not model.functions
    return [node.op_type for node in model.graph.node]


def facts_in(path):
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return Spec.from_json(entries["fastgan"])


#: The other families: tests/models/test_exported.py.
GENERATORS = [{}, {"resolution": 32}, {"resolution": 64, "channels": 3}, {"name": "mlp"}]


@pytest.mark.parametrize("options", GENERATORS)
def test_every_generator_at_any_batch(tmp_path, options):
    network = generator(**options)
    path = tmp_path / "generator.onnx"
    figures = export(network, path, about={"step": 7, "dataset": "mnist"})
    assert [row["batch"] for row in figures["parity"]] == [1, 3, 64]
    assert max(row["max_abs_error"] for row in figures["parity"]) <= figures["limit"] < 1e-4
    assert figures["psnr"] > 100
    assert json.loads((tmp_path / "generator.onnx.json").read_text()) == figures
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generator.onnx", "generator.onnx.json"]
    assert not {"BatchNormalization", "Where", "Greater"} & set(operators(path))  # merged; activations are whole

    assert b".py" not in path.read_bytes()  # no call stack, which holds paths of the machine that exported

    spec, facts = facts_in(path)
    assert spec == Spec("latent", latent_shape=(8,), channels=options.get("channels", 1))
    expected = {"step": 7, "dataset": "mnist", "precision": "fp32", "opset": 18, "fastgan": fastgan.__version__}
    assert expected.items() <= facts.items()
    assert figures["opset"] == 18

    session = Session(path)
    z = latents(17, (8,), 3)
    assert network.training  # the original is as it was
    expected = network.eval()(torch.from_numpy(z)).detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(session(z), expected, atol=1e-4)


def compact(scale=2, **options):
    torch.manual_seed(0)
    return SRVGGNetCompact(scale, width=12, blocks=1, **options)


def dense(scale):
    torch.manual_seed(0)
    return RRDBNet(scale, width=8, growth=4, blocks=1)


class Translator(nn.Module):
    """Output of the same size, with instance norm and reflection padding that needs four pixels."""

    scale, channels, range = 1, 1, (-1.0, 1.0)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(1, 8, 7, bias=False), nn.InstanceNorm2d(8, affine=True), nn.ReLU(),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 1, 1), nn.Tanh(),
        )  # fmt: skip
        self.body(torch.rand(4, 1, 8, 8))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("network", "precision"),
    [
        (compact(2), "fp32"),
        (compact(4), "fp16"),
        (compact(3), "bf16"),
        (compact(2, shuffle=4), "fp32"),  # with a reduction at the end
        (dense(4), "fp32"),
        (dense(2), "fp16"),
        (dense(1), "bf16"),
        (fastgan.fuse(Translator()), "fp32"),
        (Translator(), "fp16"),
        (Translator(), "bf16"),
    ],
)
def test_image_networks_at_any_size_in_every_precision(tmp_path, network, precision):
    path = tmp_path / "upscaler.onnx"
    figures = export(network, path, precision=precision)
    multiple = getattr(network, "multiple", 1)
    rows = figures["parity"]
    assert {row["batch"] for row in rows} == {1, 2, 3}
    assert len({(row["height"], row["width"]) for row in rows}) == 4
    smallest = 5 if isinstance(network, Translator) else multiple
    assert min(row["height"] for row in rows) == min(row["width"] for row in rows) == smallest
    assert figures["psnr"] > {"fp32": 110, "fp16": 55, "bf16": 38}[precision]
    spec, facts = facts_in(path)
    assert spec == replace(Spec.of(network), out_channels=network.channels)
    assert facts["precision"] == precision
    assert facts["opset"] == (22 if precision == "bf16" else 18)

    names = operators(path)
    model = onnx.load(path)
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [1, 1]
    kinds = {initializer.data_type for initializer in model.graph.initializer if len(initializer.dims) == 4}
    assert kinds == {{"fp32": 1, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]}
    casts = {"fp32": 0, "fp16": 2, "bf16": 2}[precision]  # at inputs and outputs, and around a norm
    assert names.count("Cast") == (casts * 2 if isinstance(network, Translator) else casts)
    assert "BatchNormalization" not in names
    assert ("rounded" in figures["verified_by"]) == (precision != "fp32")
    assert ("runtime" in figures) == (precision != "bf16")


class Sized(nn.Module):
    """Specialized without an error: during export, the width is a constant."""

    scale, channels = 1, 3

    def forward(self, x):
        width = 29 if torch.compiler.is_exporting() else x.shape[3]
        return x * (width / 64)


class Random(nn.Module):
    scale, channels = 1, 3

    def forward(self, x):
        return x + torch.randn_like(x)


class Branching(nn.Module):
    scale, channels = 1, 3

    def forward(self, x):
        return x * 2 if x.shape[2] > 12 else x


class Unsupported(nn.Module):
    scale, channels = 1, 3

    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Sized(), "the exported model has an error of .* at batch 1 of 57×49 pixels; .* is allowed"),
        (Random(), "network: its output is random: two calls on the same input differ by"),
        (Branching(), "cannot be exported: it works at some sizes only. Not all values of height"),
        (Unsupported(), "cannot be exported: .*bessel_j0"),
    ],
)
def test_a_wrong_export_is_refused_and_older_files_stay(tmp_path, network, sentence):
    path, figures = tmp_path / "generator.onnx", tmp_path / "generator.onnx.json"
    path.write_text("older")
    figures.write_text("older figures")
    with pytest.raises(ExportError, match=sentence):
        export(network, path, overwrite=True)
    assert path.read_text() == "older"
    assert figures.read_text() == "older figures"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generator.onnx", "generator.onnx.json"]


class Returns(nn.Module):
    scale, channels = 2, 3

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("network", "options", "sentence"),
    [
        (lambda x: x, {}, "network: expected a torch.nn.Module, got function"),
        (nn.Linear(8, 4), {}, r"inputs of Linear cannot be found by .* \(for \[N, 8\] it returns \[2, 4\]\)"),
        (nn.Linear(8, 4), {"latent_shape": (8,)}, r"expected images \[2, C, H, W\] for 2 latents, got \[2, 4\]"),
        (Returns(lambda x: (x, x)), {}, "network: expected one that returns a tensor of images, got tuple"),
        (Returns(lambda x: x), {}, r"expected \[2, C, 42, 58\] for \[2, 3, 21, 29\], from its scale 2, got \["),
        (compact(), {"to": "tflite"}, "to: expected one of aoti, onnx, tensorrt, triton, got 'tflite'"),
        (compact(), {"precision": "fp8"}, "precision: expected one of fp32, fp16, bf16, int8, got 'fp8'"),
        (compact(), {"precision": "int8"}, "calibration: int8 needs images like those the network will see, got none"),
        (compact(), {"precision": "int8", "to": "aoti"}, "precision: aoti supports fp32, fp16, bf16, got 'int8'"),
    ],
)  # fmt: skip
def test_arguments(tmp_path, network, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        export(network, tmp_path / "out.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"out: .* cannot be written: it is a directory"):
        export(compact(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"out: .* cannot be written: (Not a directory|File exists)"):
        export(compact(), tmp_path / "file" / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"{name} is not installed; install it with: pip install 'fastgan\[onnx\]'"):
        export(compact(), tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_more_than_a_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("fastgan.export.targets.onnx.MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="an ONNX file holds less than 2 GB"):
        export(compact(), tmp_path / "out.onnx")


def stand_in(monkeypatch, name, **content):
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, own = name.rpartition(".")
    monkeypatch.setattr(importlib.import_module(package), own, module, raising=False)


def coarse(steps):
    """A quantizer that rounds weights, all of them alike: `steps` to a side."""

    def quantize(source, out, spec, calibration, *, symmetric=False):
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if tensor.data_type == 1 and len(tensor.dims) == 4:
                values = onnx.numpy_helper.to_array(tensor)
                unit = np.abs(values).max() / steps
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values / unit) * unit, tensor.name))
        onnx.save(model, out)
        return {"inputs": len(list(calibration)), "symmetric": symmetric}

    return quantize


def test_int8_is_published_or_refused_by_its_psnr(tmp_path, monkeypatch):
    photos = [np.random.default_rng(i).random((1, 3, 16, 16), np.float32) for i in range(3)]
    stand_in(monkeypatch, "fastgan.export.quantization.quantize", quantize=coarse(127))
    network = dense(4)
    nn.init.normal_(network.conv_last.weight, 0, 2.0)  # else nearly everything is gray
    figures = export(network, tmp_path / "a.onnx", precision="int8", calibration=photos)
    assert figures["quantization"] == {"inputs": 3, "symmetric": False}
    assert 40 < figures["psnr"] < 80
    assert figures["psnr_floor"] == 30
    assert figures["limit"] is None
    assert facts_in(tmp_path / "a.onnx")[1]["precision"] == "int8"
    stand_in(monkeypatch, "fastgan.export.quantization.quantize", quantize=coarse(2))
    with pytest.raises(ExportError, match=r"has a PSNR of .* dB against the network; int8 needs 30"):
        export(network, tmp_path / "b.onnx", precision="int8", calibration=photos)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]


def test_other_targets_are_built_from_what_was_verified(tmp_path, monkeypatch):
    seen = {}

    def build(file, out, spec):
        seen["tensorrt"] = (operators(file), spec)
        out.write_text("engine")
        return {"gpu": "none"}

    def write_repository(file, folder, name, spec, *, overwrite):
        seen["triton"] = (operators(file), folder, name)
        (folder / name).mkdir()

    monkeypatch.setattr("fastgan.export.targets.tensorrt.build", build)
    monkeypatch.setattr("fastgan.export.targets.triton_server.write_repository", write_repository)
    network = nn.Sequential(nn.Unflatten(1, (8, 1, 1)), nn.ConvTranspose2d(8, 1, 4), nn.Tanh())
    figures = export(network, tmp_path / "g.engine", to="tensorrt", latent_shape=(8,))
    assert figures["engine"] == {"gpu": "none"}
    assert figures["file"] == "g.onnx"
    assert json.loads((tmp_path / "g.onnx.json").read_text()) == figures
    assert seen["tensorrt"][1] == Spec("latent", (8,), channels=1)
    export(network, tmp_path / "models" / "g", to="triton", latent_shape=(8,))
    assert seen["triton"][1:] == (tmp_path / "models", "g")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.engine", "g.onnx", "g.onnx.json", "models"]
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["g", "g.json"]


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_a_compiled_package_is_compared_like_a_file(tmp_path, monkeypatch, error):
    written = {}

    def write(network, spec, path, about):
        path.write_text("package")
        written[path] = (network, about)

    def load(path):
        return lambda x: written[path][0](x) + error

    monkeypatch.setattr("fastgan.export.targets.aoti.write", write)
    monkeypatch.setattr("fastgan.export.targets.aoti.load", load)
    path = tmp_path / "g.pt2"
    if error:
        with pytest.raises(ExportError, match=r"the exported model has an error of 1\.00e-03"):
            export(compact(), path, to="aoti")
        assert not list(tmp_path.iterdir())
    else:
        figures = export(compact(), path, to="aoti")
        assert figures["runtime"]["provider"] == "AOTInductor"
        assert path.read_text() == "package"


def test_latents_are_standard_normal_and_repeat():
    z = latents(2000, (8,), seed=1)
    assert z.dtype == np.float32
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    assert np.array_equal(z, latents(2000, (8,), seed=1))
    assert not np.array_equal(z, latents(2000, (8,), seed=2))


def test_session_refuses_what_is_no_exported_generator(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        Session(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match="is no ONNX file"):
        Session(tmp_path / "broken.onnx")
    export(generator(), tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="was not written by fastgan export"):
        Session(tmp_path / "other.onnx")
    with pytest.raises(UsageError, match=r"z: expected \[N, 8\], got \[2, 9\]"):
        Session(tmp_path / "g.onnx")(np.zeros((2, 9), np.float32))
