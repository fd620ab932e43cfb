"""Building TensorRT engines, with a stand-in for the package tensorrt that checks the calls."""

import importlib.util
import shlex
import types

import pytest

from fastgan.errors import ExportError, UsageError, WriteError
from fastgan.export.targets import tensorrt
from fastgan.export.targets.tensorrt import Sizes
from fastgan.runtime.spec import Spec

IMAGE = Spec("image", scale=2, multiple=2, range=(0.0, 1.0))
LATENT = Spec("latent", latent_shape=(8,))
MODEL = b"a network"


class Tensor:
    def __init__(self, name, known):
        self.name, self.known = name, known


class Module(types.ModuleType):
    """A stand-in for `tensorrt`; `words` records the calls, in order."""

    def __init__(self, version="10.9.0", flag=1):
        super().__init__("tensorrt")
        self.__version__ = version
        self.words = []
        self.inputs = ["images"]
        self.error = self.nothing = None
        fake = self

        class ILogger:
            class Severity:
                INTERNAL_ERROR, ERROR, WARNING = range(3)

            def __init__(self):
                self.ready = True

        class Network:
            def __init__(self, flags):
                assert flags == (0 if flag is None else 1 << flag)
                self.parsed = False

            def get_input(self, i):
                assert self.parsed
                return Tensor(fake.inputs[i], True)

        class Parser:
            def __init__(self, network, logger):
                assert logger.ready
                self.network, self.logger = network, logger

            @property
            def num_errors(self):
                return 1 if fake.error else 0

            def get_error(self, i):
                assert i == 0
                return types.SimpleNamespace(desc=lambda: fake.error)

            def parse(self, data):
                assert isinstance(data, bytes)
                fake.words.append("parse")
                self.network.parsed = fake.error is None
                return self.network.parsed

        class Profile:
            def __init__(self):
                self.shapes = []

            def set_shape(self, name, low, best, high):
                assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
                self.shapes.append((name, low, best, high))

        class Timing:
            def __init__(self, data):
                self.data = data

            def serialize(self):
                return memoryview(self.data + b"+")

        class Config:
            timing = profile = None

            def add_optimization_profile(self, profile):
                assert profile.shapes
                self.profile = profile
                fake.words += profile.shapes
                return 0

            def create_timing_cache(self, data):
                fake.words.append(("timings", bytes(data)))
                return Timing(bytes(data))

            def set_timing_cache(self, timing, ignore_mismatch):
                assert ignore_mismatch is False
                self.timing = timing
                return True

        class Builder:
            def __init__(self, logger):
                assert logger.ready
                self.logger = logger

            def create_network(self, flags=0):
                return Network(flags)

            def create_optimization_profile(self):
                return Profile()

            def create_builder_config(self):
                return Config()

            def build_serialized_network(self, network, config):
                assert network.parsed
                assert config.profile
                assert config.timing
                fake.words.append("build")
                if fake.nothing:
                    self.logger.log(ILogger.Severity.ERROR, f"{fake.nothing}\n")
                    self.logger.log(ILogger.Severity.WARNING, "afterwards")
                    return None
                return memoryview(b"engine " + fake.__version__.encode())

        self.ILogger = self.Logger = ILogger
        self.Builder, self.OnnxParser = Builder, Parser
        names = {} if flag is None else {"STRONGLY_TYPED": flag}
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**names)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "up.onnx"
    path.write_bytes(MODEL)
    return path


@pytest.fixture
def install(monkeypatch, tmp_path):
    """install(module, **gpu): makes the module importable as tensorrt, and a GPU present."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))

    def put(module, gpu="NVIDIA H100 80GB", driver="570.1", compute_capability="9.0"):
        facts = {"gpu": gpu, "compute_capability": compute_capability, "driver": driver}
        monkeypatch.setitem(__import__("sys").modules, "tensorrt", module)
        monkeypatch.setattr(tensorrt, "_gpu", lambda: facts)
        return module

    return put


@pytest.mark.parametrize("flag", [1, None])
def test_an_engine_is_built_once(model, tmp_path, install, flag):
    trt = install(Module(flag=flag))
    out = tmp_path / "up.engine"
    facts = tensorrt.build(model, out, IMAGE)
    low, best, high = (1, 3, 32, 32), (1, 3, 480, 640), (8, 3, 1088, 1920)
    assert trt.words == ["parse", ("images", low, best, high), ("timings", b""), "build"]
    assert out.read_bytes() == b"engine 10.9.0"
    assert facts == {
        "gpu": "NVIDIA H100 80GB", "compute_capability": "9.0", "driver": "570.1", "tensorrt": "10.9.0",
        "shapes": {
            "min": {"images": [1, 3, 32, 32]},
            "opt": {"images": [1, 3, 480, 640]},
            "max": {"images": [8, 3, 1088, 1920]},
        },
        "engine": "up.engine", "bytes": 13, "from_cache": False,
    }  # fmt: skip
    out.unlink()
    again = tensorrt.build(model, out, IMAGE)
    assert trt.words.count("build") == 1
    assert again == facts | {"from_cache": True}
    assert out.read_bytes() == b"engine 10.9.0"


def test_the_cache_of_engines_and_timings(model, tmp_path, install):
    out = tmp_path / "up.engine"

    def built(version="10.9.0", sizes=None, spec=IMAGE, **gpu):
        trt = install(Module(version), **gpu)
        tensorrt.build(model, out, spec, sizes=sizes)
        return trt.words

    assert built()[2] == ("timings", b"")
    assert built() == []
    assert built(sizes=Sizes(batch=(1, 2, 4)))[2] == ("timings", b"+")
    model.write_bytes(MODEL + b" changed")
    assert built()[2] == ("timings", b"++")
    assert built() == []
    for other in ({"version": "10.10.0"}, {"driver": "580.2"}, {"gpu": "A100"}, {"compute_capability": "8.0"}):
        assert built(**other)[2] == ("timings", b""), other


def test_latents(model, tmp_path, install):
    trt = install(Module())
    tensorrt.build(model, tmp_path / "g.engine", LATENT)
    assert trt.words[1][1:] == ((1, 8), (16, 8), (64, 8))


def test_latents_and_labels(model, tmp_path, install):
    trt = install(Module())
    trt.inputs = ["z", "y"]
    spec = Spec("latent", latent_shape=(8,), classes=10)
    tensorrt.build(model, tmp_path / "g.engine", spec)
    assert trt.words[1:3] == [("z", (1, 8), (16, 8), (64, 8)), ("y", (1,), (16,), (64,))]
    assert "--optShapes=z:16x8,y:16" in tensorrt.command(model, tmp_path / "g.engine", spec)


def test_failures_have_tensorrts_reason_and_leave_nothing(model, tmp_path, install):
    trt = install(Module())
    out = tmp_path / "up.engine"
    trt.error = "No importer registered for op: Frobnicate"
    with pytest.raises(ExportError, match=r"TensorRT 10\.9\.0 cannot read .*up\.onnx: No importer .* Frobnicate"):
        tensorrt.build(model, out, IMAGE)
    trt.error, trt.nothing = None, "out of memory while timing"
    with pytest.raises(ExportError, match=r"cannot build an engine of .*up\.onnx: out of memory while timing$"):
        tensorrt.build(model, out, IMAGE)
    assert not out.exists()
    trt.nothing = None
    assert not tensorrt.build(model, out, IMAGE)["from_cache"]
    with pytest.raises(WriteError, match="could not be written"):
        tensorrt.build(model, tmp_path / "no" / "up.engine", IMAGE)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_error_has_the_command(model, tmp_path):
    why = tensorrt.why_not()
    assert why.startswith("the Python package tensorrt is not installed")
    out = tmp_path / "an engine"
    with pytest.raises(UsageError) as caught:
        tensorrt.build(model, out, IMAGE, sizes=Sizes(height=(1, 481, 1080)))
    sentence, line = str(caught.value).split("\n")
    assert why in sentence
    assert shlex.split(line) == [
        "trtexec",
        f"--onnx={model}",
        "--stronglyTyped",
        f"--saveEngine={out}",
        "--minShapes=images:1x3x2x32",
        "--optShapes=images:1x3x482x640",
        "--maxShapes=images:8x3x1080x1920",
    ]
    assert "--optShapes=z:16x8" in tensorrt.command(model, out, LATENT)
    assert model.read_bytes() == MODEL
    assert not out.exists()


def test_an_empty_package_and_no_gpu(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", types.ModuleType("tensorrt"))
    assert "has no Builder" in tensorrt.why_not()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", Module())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tensorrt.why_not() == "there is no GPU that PyTorch can use"


def test_bad_input(tmp_path, model):
    with pytest.raises(UsageError, match=r"onnx: .* cannot be read: No such file"):
        tensorrt.build(tmp_path / "none.onnx", tmp_path / "e", IMAGE)
    with pytest.raises(UsageError, match=r"expected 1 ≤ least ≤ best ≤ most for batch, got 4, 2, 8"):
        tensorrt.build(model, tmp_path / "e", IMAGE, sizes=Sizes(batch=(4, 2, 8)))


def test_the_driver(monkeypatch, tmp_path):
    import pathlib

    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26\nGCC version: 12.3.0\n"
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self, **options: text)
    assert tensorrt._driver() == "570.124.06"
