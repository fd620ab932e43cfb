import subprocess
import sys
import zipfile

import pytest

from fastgan.errors import UsageError, WriteError
from fastgan.export.targets import triton_server
from fastgan.runtime.spec import Spec

onnx = pytest.importorskip("onnx")

IMAGE = Spec("image", scale=2, range=(0.0, 1.0))
LATENT = Spec("latent", latent_shape=(8,))


def identity(path, given, made, names=("images", "upscaled"), dtype=1):
    """A model of those shapes that does nothing."""
    inputs, outputs = (
        onnx.helper.make_tensor_value_info(name, dtype, dims) for name, dims in zip(names, (given, made), strict=True)
    )
    node = onnx.helper.make_node("Identity", [names[0]], [names[1]])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [inputs], [outputs])), path)
    return path


@pytest.fixture
def upscaler(tmp_path):
    return identity(tmp_path / "up.onnx", ["n", 3, "h", "w"], ["n", 3, "2*h", "2*w"])


@pytest.fixture
def generator(tmp_path):
    return identity(tmp_path / "g.onnx", ["n", 8], ["n", 1, 28, 28], ("z", "images"))


@pytest.fixture(scope="session")
def parse(tmp_path_factory):
    """From text to ModelConfig, strictly, by the schema that NVIDIA publishes in its client's package.

    Of the package only that file is wanted: its requirements do not go with ours.
    """
    import importlib.util

    from google.protobuf import text_format

    folder = tmp_path_factory.mktemp("tritonclient")
    words = ["download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, "tritonclient==2.73.0"], check=True, timeout=300)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        file = wheel.extract("tritonclient/grpc/model_config_pb2.py", folder)
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    return lambda path: text_format.Parse((path / "config.pbtxt").read_text(), schema.ModelConfig())


@pytest.mark.network
def test_the_configuration_of_an_upscaler_by_the_servers_schema(tmp_path, upscaler, parse):
    repository = triton_server.write_repository(upscaler, tmp_path / "models", "up_x2", IMAGE)
    assert repository == tmp_path / "models" / "up_x2"
    assert sorted(str(p.relative_to(repository)) for p in repository.rglob("*")) == [
        "1",
        "1/model.onnx",
        "config.pbtxt",
    ]
    assert (repository / "1" / "model.onnx").read_bytes() == upscaler.read_bytes()
    config = parse(repository)
    assert (config.name, config.backend, config.max_batch_size) == ("up_x2", "onnxruntime", 8)
    for tensor, name in ((config.input, "images"), (config.output, "upscaled")):
        assert [(t.name, list(t.dims)) for t in tensor] == [(name, [3, -1, -1])]
        assert type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number[
            tensor[0].data_type
        ].name == ("TYPE_FP32")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == triton_server.DELAY_US
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, config.instance_group[0].KIND_AUTO)]
    assert config.version_policy.latest.num_versions == 1
    assert not config.HasField("optimization")


@pytest.mark.network
def test_a_generator_has_the_files_own_size(tmp_path, generator, parse):
    config = parse(
        triton_server.write_repository(generator, tmp_path / "models", "g", LATENT, max_batch=1, tensorrt=True)
    )
    assert (config.input[0].name, list(config.input[0].dims)) == ("z", [8])
    assert (config.output[0].name, list(config.output[0].dims)) == ("images", [1, 28, 28])
    assert config.max_batch_size == 1
    assert list(config.dynamic_batching.preferred_batch_size) == [1]
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_engine_cache_enable"] == "true"


@pytest.mark.network
def test_labels_are_a_tensor_of_a_batch_alone(tmp_path, conditional, parse):
    spec = Spec("latent", latent_shape=(5,), classes=3)
    config = parse(triton_server.write_repository(conditional[1], tmp_path / "models", "c", spec))
    z, y = config.input
    types = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    assert (z.name, list(z.dims), z.HasField("reshape")) == ("z", [5], False)
    assert (y.name, list(y.dims), types[y.data_type].name) == ("y", [1], "TYPE_INT64")
    assert (y.HasField("reshape"), list(y.reshape.shape)) == (True, [])
    assert (config.output[0].name, list(config.output[0].dims)) == ("images", [3, 4, 4])


@pytest.mark.network
def test_an_engine(tmp_path, parse):
    (tmp_path / "g.engine").write_bytes(b"engine")
    repository = triton_server.write_repository(tmp_path / "g.engine", tmp_path / "models", "g", LATENT)
    assert (repository / "1" / "model.plan").read_bytes() == b"engine"
    config = parse(repository)
    assert (config.backend, config.max_batch_size, len(config.input)) == ("tensorrt", 64, 0)


def test_another_model_of_the_name_is_replaced_and_the_others_stay(tmp_path, upscaler, generator):
    folder = tmp_path / "models"
    triton_server.write_repository(upscaler, folder, "a", IMAGE)
    triton_server.write_repository(generator, folder, "b", LATENT)
    triton_server.write_repository(upscaler, folder, "a", IMAGE)  # its own: replaced without a word
    (folder / "a" / "2").mkdir()
    with pytest.raises(UsageError, match="holds '2', which no export has written; --overwrite replaces it as a whole"):
        triton_server.write_repository(generator, folder, "a", LATENT)
    triton_server.write_repository(generator, folder, "a", LATENT, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
    assert [p.name for p in (folder / "a" / "1").iterdir()] == ["model.onnx"]
    assert (folder / "a" / "1" / "model.onnx").read_bytes() == generator.read_bytes()
    assert 'name: "z"' in (folder / "a" / "config.pbtxt").read_text()


def test_the_server_may_read_what_was_written(tmp_path, upscaler):
    repository = triton_server.write_repository(upscaler, tmp_path / "models", "a", IMAGE)
    assert all(p.stat().st_mode & 0o004 for p in (repository, *repository.rglob("*")))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", ".hidden", "ä", 'a"', "x" * 129])
def test_names_that_are_none(tmp_path, upscaler, name):
    with pytest.raises(UsageError, match="name: expected letters, digits"):
        triton_server.write_repository(upscaler, tmp_path / "models", name, IMAGE)
    assert not (tmp_path / "models").exists()


def test_bad_input(tmp_path, upscaler, generator):
    folder = tmp_path / "models"

    def refused(model, words, error=UsageError, spec=IMAGE, **options):
        with pytest.raises(error, match=words):
            triton_server.write_repository(model, folder, "a", spec, **options)
        assert not (folder / "a" / "config.pbtxt").exists()

    refused(upscaler, "max_batch: expected 1 or more, got 0", max_batch=0)
    refused(tmp_path / "none.onnx", "is not a file")
    (tmp_path / "text.onnx").write_text("text")
    refused(tmp_path / "text.onnx", "is no ONNX file")
    (tmp_path / "g.plan").touch()
    refused(tmp_path / "g.plan", "is an engine already", tensorrt=True)
    refused(identity(tmp_path / "one.onnx", [1, 3, "h", "w"], [1, 3, "h", "w"]), "expected a dynamic batch, the input")
    refused(generator, r"expected latents \[9\], .* takes \[8\]", spec=Spec("latent", latent_shape=(9,)))
    half = identity(tmp_path / "half.onnx", ["n", 3, "h", "w"], ["n", 3, "h", "w"], dtype=10)
    refused(half, "expected one float32 input")
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "notes.txt").touch()
    refused(upscaler, "is no model of a repository; it is not replaced")
    assert (folder / "a" / "notes.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="could not be written"):
        triton_server.write_repository(upscaler, tmp_path / "file", "a", IMAGE)
