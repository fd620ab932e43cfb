import numpy as np
import pytest

from fastgan.errors import ExportError, UsageError, WriteError
from fastgan.export.quantization import qdq, ranges, sensitivity
from fastgan.export.quantization.quantize import COUNT, SIDE, quantize
from fastgan.runtime.spec import KEY, Spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGE = Spec("image", scale=2, range=(0.0, 1.0))
LATENT = Spec("latent", latent_shape=(8,), channels=1)


class Graph:
    """Writes small networks as the exporter writes large ones."""

    def __init__(self, given, made, spec):
        self.rng = np.random.default_rng(0)
        self.nodes, self.weights, self.spec = [], [], spec
        names = ("z", "images") if spec.kind == "latent" else ("images", "upscaled")
        self.input, self.output = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in zip(names, (given, made), strict=True)
        )

    def weight(self, array, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, op, *given, made=None, **attributes):
        made = made or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(given), [made], **attributes))
        return made

    def random(self, *shape, gain=1.4):
        return self.weight(self.rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:])))

    def save(self, path):
        graph = helper.make_graph(self.nodes, "g", [self.input], [self.output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, self.spec.to_json(step=7)
        onnx.save(model, path)
        return path


@pytest.fixture
def upscaler(tmp_path):
    """SRVGGNetCompact ×2 in small: convolutions and PReLU whose channels differ in size, as in trained ones."""
    g = Graph(["n", 3, "h", "w"], ["n", 3, "2*h", "2*w"], IMAGE)
    x = "images"
    for i, channels in enumerate((3, 16, 16, 16)):
        scale = np.exp(g.rng.uniform(-2, 2, 16)).astype(np.float32)[:, None, None, None] if i else 1
        w = g.rng.standard_normal((16, channels, 3, 3)) * scale * 1.4 / np.sqrt(9 * channels)
        x = g.add("Conv", x, g.weight(w), g.weight(g.rng.standard_normal(16) * 0.05), pads=[1] * 4)
        x = g.add("PRelu", x, g.weight(g.rng.uniform(-0.2, 0.4, (16, 1, 1))))
    x = g.add("Conv", x, g.random(12, 16, 3, 3, gain=0.01), g.weight(np.zeros(12)), pads=[1] * 4)
    x = g.add("DepthToSpace", x, blocksize=2, mode="CRD")
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    base = g.add("Resize", "images", "", g.weight([1, 1, 2, 2]), **nearest)
    g.add("Add", x, base, made="upscaled")
    return g.save(tmp_path / "up.onnx")


@pytest.fixture
def generator(tmp_path):
    """DCGAN's in small: a matrix product, then transposed convolutions, then tanh."""
    g = Graph(["n", 8], ["n", 1, 16, 16], LATENT)
    x = g.add("Gemm", "z", g.random(256, 8), g.weight(np.zeros(256)), transB=1)
    x = g.add("Relu", g.add("Reshape", x, g.weight([-1, 16, 4, 4], np.int64)))
    x = g.add("ConvTranspose", x, g.random(16, 8, 4, 4), g.weight(np.zeros(8)), strides=[2, 2], pads=[1] * 4)
    x = g.add("Relu", x)
    x = g.add("ConvTranspose", x, g.random(8, 1, 4, 4), g.weight(np.zeros(1)), strides=[2, 2], pads=[1] * 4)
    g.add("Tanh", x, made="images")
    return g.save(tmp_path / "g.onnx")


def photos(n=4, side=24, seed=0):
    """Smooth images with an edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    for _ in range(n):
        waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
        image = 0.5 + 0.4 * np.stack(waves)
        image[:, x > rng.uniform(0.2, 0.8)] *= 0.6
        yield image[None].astype(np.float32)


def latents(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((8, 8), dtype=np.float32) for _ in range(n)]


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def psnr(a, b, low=0.0, high=1.0):
    return -10 * np.log10(np.mean(((np.clip(a, low, high) - np.clip(b, low, high)) / (high - low)) ** 2))


def test_an_upscaler_at_other_sizes(tmp_path, upscaler):
    out = tmp_path / "int8.onnx"
    facts = quantize(upscaler, out, IMAGE, photos())
    for shape in ((1, 24), (3, 24), (2, 31)):
        x = np.concatenate(list(photos(*shape, seed=5)))
        assert psnr(run(out, x), run(upscaler, x)) > 40
    x = x[:, :, :9, :17]
    assert run(out, x).shape == (2, 3, 18, 34)
    assert facts["layers_quantized"] == 4
    assert len(facts["layers_in_float"]) == 1
    assert facts["channels_equalized"] == 3  # from the second to the last; the first is left as it is
    assert facts["calibration_inputs"] == 4
    assert 0.8 < facts["work_quantized"] < 1

    before, after = onnx.load(upscaler), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    for field in ("input", "output"):
        assert list(getattr(after.graph, field)) == list(getattr(before.graph, field))
    assert [(e.key, e.value) for e in after.metadata_props] == [(e.key, e.value) for e in before.metadata_props]
    assert {e.domain for e in after.opset_import} == {""}
    # Float weights of the quantized layers are not carried along.
    assert sum(t.data_type == TensorProto.FLOAT and len(t.dims) == 4 for t in after.graph.initializer) == 1
    assert out.stat().st_size < 0.6 * upscaler.stat().st_size


def test_int8_kernels_run_it(tmp_path, upscaler):
    """ONNX Runtime merges what lies between a dequantization and a quantization, so it must find both."""
    quantize(upscaler, tmp_path / "int8.onnx", IMAGE, photos())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "merged.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "merged.onnx").graph.node]
    assert ops.count("QLinearConv") == 4


def test_a_generator_from_latents(tmp_path, generator):
    facts = quantize(generator, tmp_path / "int8.onnx", LATENT, latents())
    assert facts["layers_quantized"] == 2
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"), full_check=True)
    for n in (1, 5):
        z = np.random.default_rng(9).standard_normal((n, 8), dtype=np.float32)
        exact = run(generator, z)
        assert exact.std() > 0.1
        assert psnr(run(tmp_path / "int8.onnx", z), exact, -1, 1) > 35


def test_equalization_keeps_the_function_and_improves_the_psnr(tmp_path, upscaler, monkeypatch):
    x = next(iter(photos(1, seed=3)))
    exact = run(upscaler, x)
    quantize(upscaler, tmp_path / "with.onnx", IMAGE, photos())
    model = qdq.read(upscaler)
    layers = qdq.layers(model)[1:]
    assert qdq.equalize(model, layers, ranges.observe(model, layers, [(x,) for x in photos()])) == 3
    onnx.save(model, tmp_path / "equal.onnx")
    np.testing.assert_allclose(run(tmp_path / "equal.onnx", x), exact, atol=1e-5)
    monkeypatch.setattr(qdq, "equalize", lambda *given: 0)
    quantize(upscaler, tmp_path / "without.onnx", IMAGE, photos())
    gain = psnr(run(tmp_path / "with.onnx", x), exact) - psnr(run(tmp_path / "without.onnx", x), exact)
    assert gain > 2


def test_symmetric_for_tensorrt(tmp_path, upscaler):
    out = tmp_path / "int8.onnx"
    quantize(upscaler, out, IMAGE, photos(), symmetric=True)
    zeros = [t for t in onnx.load(out).graph.initializer if t.name.endswith("/zero")]
    assert len(zeros) == 12
    assert all(t.data_type == TensorProto.INT8 and not numpy_helper.to_array(t).any() for t in zeros)
    x = next(iter(photos(1, seed=3)))
    assert psnr(run(out, x), run(upscaler, x)) > 38


def test_harmful_layers_stay_in_float(tmp_path, monkeypatch):
    """Two layers between which large values stand for small differences: 8 bits of each leave nothing of those."""
    g = Graph(["n", 3, "h", "w"], ["n", 3, "h", "w"], Spec("image", range=(0.0, 1.0)))
    x = g.add("Conv", "images", g.random(3, 3, 3, 3), pads=[1] * 4)
    x = g.add("Conv", x, g.random(16, 3, 3, 3), pads=[1] * 4)
    x = g.add("Conv", x, g.random(16, 16, 3, 3, gain=1), pads=[1] * 4)
    x = g.add("Sigmoid", g.add("Conv", x, g.random(3, 16, 3, 3, gain=0.2), pads=[1] * 4))
    x = g.add("Conv", x, g.weight(np.concatenate([np.eye(3) * 51, -np.eye(3) * 50])[:, :, None, None]))
    g.add("Conv", x, g.weight(np.concatenate([np.eye(3), np.eye(3)], 1)[:, :, None, None]), made="upscaled")
    path = g.save(tmp_path / "g.onnx")
    x = next(iter(photos(1, seed=3)))
    facts = quantize(path, tmp_path / "a.onnx", g.spec, photos())
    assert facts["layers_in_float"] == ["Conv_0", "Conv_5", "Conv_6"]
    assert psnr(run(tmp_path / "a.onnx", x), run(path, x)) > 40
    monkeypatch.setattr(sensitivity, "TARGET_PSNR", 0.0)
    facts = quantize(path, tmp_path / "b.onnx", g.spec, photos())
    assert facts["layers_in_float"] == ["Conv_0"]
    assert psnr(run(tmp_path / "b.onnx", x), run(path, x)) < 35


def test_the_parameters_of_least_squared_error():
    counts = np.ones(2048)
    even = ranges.least_error_parameters(-1.0, 1.0, counts, symmetric=False)
    assert even.scale == pytest.approx(2 / 255)
    assert even.zero in (127, 128)
    assert ranges.least_error_parameters(0.5, 2.0, counts, symmetric=False) == ranges.Int8Parameters(
        pytest.approx(2 / 255), 0
    )
    assert ranges.least_error_parameters(-3.0, 1.0, counts, symmetric=True) == ranges.Int8Parameters(
        pytest.approx(3 / 127), 0, signed=True
    )
    outlier = np.zeros(2048)
    outlier[:200] = 1e6  # from 0 to 1
    outlier[-1] = 1  # one in 2e8 at 10
    assert ranges.least_error_parameters(0.0, 10.24, outlier, symmetric=False).scale < 2 / 255
    assert ranges.least_error_parameters(0.0, 0.0, counts, symmetric=False).scale == 1


def test_weights_within_half_a_step_per_channel():
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)) * np.array([1, 10, 0.1, 0])[:, None, None, None]
    for axis in (0, 1):
        w = np.moveaxis(weight, 0, axis).astype(np.float32)
        whole, scales = qdq.quantized_weight(w, axis)
        assert whole.dtype == np.int8
        shape = [1] * 4
        shape[axis] = -1
        assert (np.abs(whole * scales.reshape(shape) - w) <= scales.reshape(shape) * 0.5001).all()


def test_the_number_and_size_of_calibration_inputs_are_bounded(tmp_path, upscaler, monkeypatch):
    seen = []
    observe = ranges.observe
    monkeypatch.setattr(ranges, "observe", lambda m, layers, inputs: seen.append(inputs) or observe(m, layers, inputs))

    def endless():
        while True:
            yield np.full((3, 3, 150, 20), 0.5, np.float32)

    monkeypatch.setattr("fastgan.export.quantization.quantize.COUNT", 5)
    assert quantize(upscaler, tmp_path / "a.onnx", IMAGE, endless())["calibration_inputs"] == 5
    assert {x.shape for (x,) in seen[0]} == {(1, 3, SIDE, 20)}
    assert COUNT * SIDE * SIDE * 12 < 20e6


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "calibration: expected at least one input, got none"),
        ([np.zeros((1, 3, 8, 8))], "calibration: input 1: expected float32, got float64"),
        ([np.zeros((1, 4, 8, 8), np.float32)], r"input 1: expected \[N, 3, H, W\], got \[1, 4, 8, 8\]"),
        ([np.zeros((1, 3, 8, 8), np.float32), np.zeros((3, 8, 8), np.float32)], r"input 2: expected \[N, 3, H, W\]"),
        ([np.full((1, 3, 8, 8), np.nan, np.float32)], "input 1: expected finite values"),
        ([np.full((1, 3, 8, 8), 255, np.float32)], r"expected values in \[0, 1\], got some from 255 to 255"),
        ([np.zeros((1, 3, 0, 8), np.float32)], r"input 1: expected \[N, 3, H, W\]"),
    ],
)
def test_calibration_that_does_not_fit(tmp_path, upscaler, calibration, words):
    with pytest.raises(UsageError, match=words):
        quantize(upscaler, tmp_path / "out.onnx", IMAGE, calibration)
    assert not (tmp_path / "out.onnx").exists()


def test_other_bad_input(tmp_path, upscaler, generator):
    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match=r"input 1: expected \[N, 8\], got \[2, 9\]"):
        quantize(generator, out, LATENT, [np.zeros((2, 9), np.float32)])
    with pytest.raises(UsageError, match=r"source: .*none\.onnx cannot be read: No such file"):
        quantize(tmp_path / "none.onnx", out, IMAGE, photos())
    for name, text in (("text.onnx", "text"), ("empty.onnx", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=f"source: .*{name} is no ONNX file"):
            quantize(tmp_path / name, out, IMAGE, photos())
    g = Graph(["n", 3, "h", "w"], ["n", 3, "h", "w"], IMAGE)
    g.add("Relu", "images", made="upscaled")
    with pytest.raises(ExportError, match="the network has no convolution or matrix product"):
        quantize(g.save(tmp_path / "relu.onnx"), out, IMAGE, photos())
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="could not be written"):
        quantize(upscaler, tmp_path / "file" / "out.onnx", IMAGE, photos())
    quantize(upscaler, out, IMAGE, photos())
    with pytest.raises(UsageError, match="is quantized already; expected a float32 file"):
        quantize(out, tmp_path / "twice.onnx", IMAGE, photos())


def test_multiples(tmp_path, upscaler):
    spec = Spec("image", scale=2, multiple=4, range=(0.0, 1.0))
    with pytest.raises(UsageError, match=r"\[N, 3, H, W\] with H and W in multiples of 4, got \[1, 3, 26, 26\]"):
        quantize(upscaler, tmp_path / "out.onnx", spec, photos(side=26))
    assert quantize(upscaler, tmp_path / "out.onnx", spec, photos(side=28))["layers_quantized"] == 4
