"""Every back-end computes what the module computes, accepts and returns the same types, and refuses the same inputs."""

import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fastgan.errors import BackendError, ExportError, UsageError
from fastgan.runtime import backends, pixel_conversion
from fastgan.runtime.session import Session, latents
from fastgan.runtime.spec import Spec

FILES = ["onnxruntime", "openvino"]
ALL = [*FILES, "torch"]


@pytest.fixture(autouse=True)
def _needs(request):
    """Without openvino its cases are skipped."""
    if "openvino" in str(request.node.name):
        pytest.importorskip("openvino")


def session_of(pair, backend, **options):
    network, path = pair
    return Session(path if backend in FILES else network, backend=backend, threads=1, **options)


def images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def frames(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(network, x):
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("backend", ALL)
def test_images_of_every_size_and_batch(upscaler, backend):
    session = session_of(upscaler, backend)
    assert (session.backend, session.device, session.threads) == (backend, "cpu", 1)
    for shape in [(1, 3, 16, 16), (3, 3, 7, 9), (2, 3, 1, 1), (1, 3, 16, 16)]:
        x = images(*shape)
        before = x.copy()
        y = session(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected(upscaler[0], x), atol=1e-5)
        assert np.array_equal(x, before)


@pytest.mark.parametrize("backend", ALL)
def test_latents_of_every_batch(generator, backend):
    session = session_of(generator, backend)
    assert session.latent_shape == (5,)
    for n in (1, 3, 64):
        z = latents(n, (5,), seed=n)
        np.testing.assert_allclose(session(z), expected(generator[0], z), atol=1e-5)


@pytest.mark.parametrize("backend", ALL)
def test_later_calls_do_not_overwrite_results(upscaler, backend):
    session = session_of(upscaler, backend)
    x, f = images(1, 3, 8, 8), frames(1, 8, 8, 3)
    first, first_frames = session(x), session.pixels(f)
    kept, kept_frames = first.copy(), first_frames.copy()
    session(images(1, 3, 8, 8, seed=1))
    session.pixels(frames(1, 8, 8, 3, seed=1))
    assert np.array_equal(first, kept)
    assert np.array_equal(first_frames, kept_frames)
    first += 1  # writable


@pytest.mark.parametrize("backend", ALL)
def test_tensors_in_tensors_out(upscaler, backend):
    session = session_of(upscaler, backend)
    # Several strides; ONNX Runtime runs the second call of a shape by another code path than the first.
    whole = torch.rand(2, 12, 10, 3)
    for x in [whole.permute(0, 3, 1, 2), torch.rand(2, 3, 24, 10)[:, :, ::2], torch.rand(2, 3, 12, 10)]:
        for _ in range(2):
            y = session(x)
            assert isinstance(y, torch.Tensor)
            assert (y.dtype, y.device) == (torch.float32, x.device)
            torch.testing.assert_close(y, upscaler[0](x).detach(), atol=1e-5, rtol=0)
    f = torch.from_numpy(frames(2, 6, 5, 3))
    for _ in range(2):
        y = session.pixels(f)
        assert y.dtype == torch.uint8
        assert np.array_equal(y.numpy(), session.pixels(f.numpy()))
    assert not session(torch.rand(1, 3, 4, 4, requires_grad=True)).requires_grad
    with torch.enable_grad():
        (session(torch.rand(1, 3, 4, 4)) * torch.ones(1, requires_grad=True)).sum().backward()  # usable in a graph


@pytest.mark.parametrize("backend", ALL)
def test_arrays_of_every_layout(upscaler, backend):
    session = session_of(upscaler, backend)
    plain, turned = images(1, 3, 8, 10), frames(1, 8, 10, 3)
    for x in (plain[:, :, ::-1], plain.transpose(0, 1, 3, 2), plain[:, ::-1, ::2]):
        np.testing.assert_allclose(session(x), session(x.copy()), atol=1e-6)
    assert np.array_equal(session.pixels(turned[:, ::-1, :, ::-1]), session.pixels(turned[:, ::-1, :, ::-1].copy()))
    for array, call in ((plain, session), (turned, session.pixels)):
        wanted = call(array)
        array.flags.writeable = False
        assert np.array_equal(call(array), wanted)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("backend", ALL)
def test_pixels_equal_the_plain_conversion(make, tmp_path, backend, limits):
    network = make.Upscaler(gain=1.5).eval()
    network.range = limits
    session = session_of((network, make.upscaler(tmp_path / "u.onnx", network)), backend)
    assert session.spec.range == limits
    f = frames(2, 13, 17, 3)
    got = session.pixels(f)
    values = session(pixel_conversion.to_float(f, limits))
    assert values.min() < limits[0]  # something to clip at both ends
    assert values.max() > limits[1]
    plain = pixel_conversion.to_bytes(values, limits)
    assert got.shape == (2, 26, 34, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - plain).max() <= 1
    assert (got != plain).mean() < 0.01
    assert not session.describe().count("outside of the graph")


class Given(nn.Module):
    """Returns its weight for any input: NaN, infinities, halves."""

    channels, scale = 1, 1

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values).view(1, 1, 1, -1))

    def forward(self, x):
        return x * 0 + self.values


@pytest.mark.parametrize("backend", ALL)
def test_no_value_wraps(make, tmp_path, backend):
    values = [float("nan"), float("inf"), -float("inf"), -0.1, 1.1, 1e9, -1e9, 0.0, 1.0, 100.4 / 255, 100.6 / 255]
    wanted = [0, 255, 0, 0, 255, 255, 0, 0, 255, 100, 101]
    network = Given(values)
    width = len(values)
    nodes = [helper.make_node("Mul", ["x", "zero"], ["a"]), helper.make_node("Add", ["a", "values"], ["y"])]
    weights = {"zero": np.float32(0).reshape(1), "values": network.values.detach().numpy()}
    path = make.write(tmp_path / "g.onnx", nodes, weights, ("x", ["n", 1, "h", width]), ("y", ["n", 1, "h", width]),
                      metadata='{"kind": "image", "channels": 1, "range": [0, 1]}')  # fmt: skip
    session = session_of((network, path), backend)
    got = session.pixels(frames(1, 1, width, 1))
    assert got.ravel().tolist() == wanted
    assert pixel_conversion.to_bytes(network.values.detach().numpy(), (0, 1)).ravel().tolist() == wanted


def test_bytes_and_back():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for limits in ((0.0, 1.0), (-1.0, 1.0)):
        x = pixel_conversion.to_float(every, limits)
        assert (x.min(), x.max()) == limits
        assert np.array_equal(pixel_conversion.to_bytes(x, limits), every)


class Halving(nn.Module):
    """Accepts heights and widths in multiples of 4 only."""

    channels, scale, multiple = 3, 2, 4

    def forward(self, x):
        x = nn.functional.pixel_shuffle(nn.functional.pixel_unshuffle(x, 4), 4)
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def halving_file(make, path, metadata):
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=4),
        helper.make_node("DepthToSpace", ["a"], ["b"], blocksize=4),
        helper.make_node("Resize", ["b", "", "scales"], ["y"], mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
    ]  # fmt: skip
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    return make.write(path, nodes, weights, ("x", ["n", 3, "h", "w"]), ("y", ["n", 3, "h2", "w2"]), metadata=metadata)


@pytest.mark.parametrize("backend", ALL)
def test_frames_are_padded_to_a_multiple(make, tmp_path, backend):
    path = halving_file(make, tmp_path / "h.onnx", '{"kind": "image", "scale": 2, "multiple": 4, "range": [0, 1]}')
    session = session_of((Halving(), path), backend)
    f = frames(2, 5, 11, 3)
    for given in (f, torch.from_numpy(f)):
        got = np.asarray(session.pixels(given))
        assert got.shape == (2, 10, 22, 3)
        assert np.array_equal(got[:, ::2, ::2], f)
    with pytest.raises(UsageError, match=r"x: expected .* with H and W in multiples of 4, got \[1, 3, 5, 8\]"):
        session(images(1, 3, 5, 8))


@pytest.mark.parametrize("backend", ALL)
def test_wrong_inputs(upscaler, generator, backend):
    session = session_of(upscaler, backend)
    for call, given, sentence in [
        (session, images(1, 3, 8, 8).astype(np.float64), "x: expected float32, got float64"),
        (session, torch.zeros(1, 3, 8, 8).half(), "x: expected float32, got float16"),
        (session, frames(1, 3, 8, 8), "x: expected float32, got uint8"),
        (session, images(1, 4, 8, 8), r"x: expected \[N, 3, H, W\], got \[1, 4, 8, 8\]"),
        (session, images(3, 8, 8), r"x: expected \[N, 3, H, W\], got \[3, 8, 8\]"),
        (session, images(0, 3, 8, 8), r"x: expected \[N, 3, H, W\], got \[0, 3, 8, 8\]"),
        (session, [[1.0]], "x: expected a numpy array or a torch tensor, got list"),
        (session.pixels, images(1, 8, 8, 3), "frames: expected uint8, got float32"),
        (session.pixels, frames(1, 8, 8, 4), r"frames: expected \[N, H, W, 3\], got \[1, 8, 8, 4\]"),
        (session.pixels, frames(8, 8, 3), r"frames: expected \[N, H, W, 3\], got \[8, 8, 3\]"),
        (session.pixels, frames(0, 8, 8, 3), r"frames: expected \[N, H, W, 3\], got \[0, 8, 8, 3\]"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            call(given)
    session = session_of(generator, backend)
    with pytest.raises(UsageError, match=r"z: expected \[N, 5\], got \[2, 6\]"):
        session(latents(2, (6,), 0))
    with pytest.raises(UsageError, match="frames: expected an image-to-image model"):
        session.pixels(frames(1, 8, 8, 3))


def test_arguments_are_checked(upscaler, tmp_path):
    network, path = upscaler
    for model, options, sentence in [
        (path, {"backend": "tvm"}, "backend: expected auto, aoti, compile, onnxruntime, openvino, .*, got 'tvm'"),
        (path, {"backend": "torch"}, r"backend: torch does not run \.onnx files; expected onnxruntime or openvino"),
        (network, {"backend": "openvino"}, "backend: openvino does not run torch modules; expected compile or torch"),
        (path, {"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (path, {"threads": 0}, "threads: expected a number >= 1, got 0"),
        (7, {}, "model: expected a path or a torch module, got int"),
        (nn.Linear(2, 2), {}, "network: the inputs of Linear cannot be found"),
        (tmp_path / "missing.onnx", {}, "model: .*missing.onnx is not a file"),
        (tmp_path, {}, "model: .* is a directory"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            Session(model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu(upscaler):
    network, path = upscaler
    with pytest.raises(
        UsageError, match=r"device: cuda cannot run in ONNX Runtime .*CUDAExecutionProvider: this build"
    ):
        Session(path, device="cuda", backend="onnxruntime")
    with pytest.raises(UsageError, match=r"openvino: OpenVINO runs on the CPU|openvino is not installed"):
        Session(path, device="cuda", backend="openvino")
    with pytest.raises(UsageError, match=r"device: cuda:1 cannot run in PyTorch .* CUDA"):
        Session(network, device="cuda:1")


@pytest.mark.parametrize("backend", FILES)
def test_files_that_are_no_models(upscaler, tmp_path, backend):
    path = tmp_path / "bad.onnx"
    whole = upscaler[1].read_bytes()
    for content in (b"", b"not a model", whole[:200], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"bad.onnx is no ONNX file, or an incomplete one"):
            Session(path, backend=backend)
    model = onnx.load(upscaler[1])
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"bad.onnx cannot be opened by"):
        Session(path, backend=backend)
    with pytest.raises(BackendError, match=r"bad.onnx cannot be opened by"):
        Session(path)


def test_ctrl_c_after_openvino(make, tmp_path):
    """Sessions destroyed in the order of their creation once left a dangling signal stack: a segmentation fault."""
    path = make.upscaler(tmp_path / "m.onnx", make.Upscaler().eval())
    code = (
        "import faulthandler, signal, sys; from fastgan.runtime.session import Session; faulthandler.enable()\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "first, second = (Session(sys.argv[1], backend='openvino') for _ in range(2))\n"
        "del first; del second\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('heard')"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


# --- files of other tools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", FILES)
def test_the_spec_of_a_file_without_metadata_is_inferred(make, tmp_path, backend):
    network = make.Upscaler().eval()
    path = make.upscaler(tmp_path / "other_tool.onnx", network, spec=False)
    session = Session(path, backend=backend, threads=1)
    assert (session.spec.kind, session.spec.channels, session.spec.scale) == ("image", 3, 2)
    assert (session.spec.multiple, session.spec.range) == (1, (0.0, 1.0))
    x = images(2, 3, 5, 6)
    np.testing.assert_allclose(session(x), expected(network, x), atol=1e-5)
    assert "inferred by running it" in session.describe()
    other = make.upscaler(tmp_path / "other.onnx", make.Upscaler(scale=3), spec=False)
    assert Session(other, backend=backend).spec.scale == 3
    unshuffled = Session(halving_file(make, tmp_path / "h.onnx", None), backend=backend)
    assert (unshuffled.spec.scale, unshuffled.spec.multiple) == (2, 4)


@pytest.mark.parametrize("backend", FILES)
def test_a_file_of_one_size_and_batch(make, tmp_path, backend):
    network = make.Upscaler().eval()
    path = make.upscaler(tmp_path / "fixed.onnx", network, spec=False, size=(10, 12), batch=2)
    session = Session(path, backend=backend, threads=1)
    assert session.fixed == (10, 12)
    assert session.spec.scale == 2
    x = images(4, 3, 10, 12)
    np.testing.assert_allclose(session(x), expected(network, x), atol=1e-5)
    assert isinstance(session(torch.from_numpy(x)), torch.Tensor)
    assert session.pixels(frames(4, 10, 12, 3)).shape == (4, 20, 24, 3)
    for call, given in ((session, images(2, 3, 10, 14)), (session.pixels, frames(2, 10, 14, 3))):
        with pytest.raises(UsageError, match="this model takes images of 12×10 only, got 14×10"):
            call(given)
    with pytest.raises(UsageError, match="x: expected a multiple of 2 at a time, got 3"):
        session(images(3, 3, 10, 12))
    assert session.measure(seconds=0.01) > 0


@pytest.mark.parametrize("backend", FILES)
def test_files_without_metadata_that_are_no_image_models(make, generator, tmp_path, backend):
    make.generator(tmp_path / "latent.onnx", generator[0], spec=False)
    n, five = ("x", ["n", 3, "h", "w"]), ("y", ["n", 3, "h", "w"])
    make.write(tmp_path / "ints.onnx", [helper.make_node("Neg", ["x"], ["y"])], {}, (*n, TensorProto.INT32),
               (*five, TensorProto.INT32))  # fmt: skip
    gray = [helper.make_node("ReduceMean", ["x", "axis"], ["y"])]
    make.write(tmp_path / "gray.onnx", gray, {"axis": np.array([1])}, n, ("y", ["n", 1, "h", "w"]))
    make.write(tmp_path / "wide.onnx", [helper.make_node("Concat", ["x", "x"], ["y"], axis=3)], {}, n,
               ("y", ["n", 3, "h", "v"]))  # fmt: skip
    for name, sentence in [
        ("latent", r"its metadata 'fastgan' is missing\), and is no model .* z is \[any, 5\], expected \[N, channels"),
        ("ints", "its input x is int32|its input x is tensor"),
        ("wide", "whose size is no whole multiple"),
    ]:
        with pytest.raises(ExportError, match=sentence):
            Session(tmp_path / f"{name}.onnx", backend=backend)
    spec = Session(tmp_path / "gray.onnx", backend=backend).spec
    assert spec == Spec("image", channels=3, out_channels=1, range=(0.0, 1.0))


@pytest.mark.parametrize("backend", FILES)
def test_a_half_precision_file_takes_and_gives_float32(make, tmp_path, backend):
    network = make.Upscaler().eval()
    session = Session(make.upscaler(tmp_path / "half.onnx", network, half=True), backend=backend, threads=1)
    x, f = images(1, 3, 8, 8), frames(1, 8, 9, 3)
    y = session(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected(network, x), atol=5e-3)
    plain = pixel_conversion.to_bytes(session(pixel_conversion.to_float(f, (0, 1))), (0, 1)).astype(int)
    assert np.abs(session.pixels(f).astype(int) - plain).max() <= 1
    for _ in range(2):
        assert np.array_equal(session(torch.from_numpy(x)).numpy(), y)
    assert "fp16" in session.describe()


def test_a_half_precision_module_takes_and_gives_float32(make):
    network = make.Upscaler().eval()
    session = Session(network.to(torch.bfloat16), threads=1)
    x = images(1, 3, 8, 8)
    assert session(x).dtype == np.float32
    np.testing.assert_allclose(session(x), expected(network.float(), x), atol=0.05)


def test_int8_files_give_the_same_pixels(upscaler, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": images(1, 3, 16, 16, seed=i)} for i in range(2)]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = tmp_path / "int8.onnx"
    quantize_static(upscaler[1], path, Reader(), quant_format=QuantFormat.QDQ)
    f = frames(1, 16, 16, 3)
    for backend in (name for name in FILES if backends.registry()[name].why_not("cpu") is None):
        session = Session(path, backend=backend, threads=1)
        plain = pixel_conversion.to_bytes(session(pixel_conversion.to_float(f, (0, 1))), (0, 1)).astype(int)
        assert np.abs(session.pixels(f).astype(int) - plain).max() <= 1


# --- missing packages ------------------------------------------------------------------------------------------------


def test_missing_packages_are_named(upscaler, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    session = Session(upscaler[1], threads=1)
    assert session.backend == "onnxruntime"
    assert session.choice is None  # nothing to choose from
    assert "not openvino: openvino is not installed; install it with: pip install 'fastgan[openvino]'" in (
        session.describe()
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        UsageError, match=r"no back-end can run it here: onnxruntime: onnxruntime is not installed.*; openvino"
    ):
        Session(upscaler[1])
    with pytest.raises(UsageError, match=r"onnxruntime is not installed; install it with: pip install 'fastgan\[onnx"):
        Session(upscaler[1], backend="onnxruntime")


def test_pixels_without_the_package_onnx(upscaler, monkeypatch):
    f = frames(1, 9, 9, 3)
    wanted = Session(upscaler[1], backend="onnxruntime", threads=1).pixels(f).astype(int)
    monkeypatch.setitem(sys.modules, "onnx", None)
    session = Session(upscaler[1], backend="onnxruntime", threads=1)
    assert np.abs(session.pixels(f).astype(int) - wanted).max() <= 1
    assert np.abs(session.pixels(torch.from_numpy(f)).numpy().astype(int) - wanted).max() <= 1
    assert "converted by numpy, outside of the graph: the package onnx is not installed" in session.describe()


def test_files_run_without_torch_and_other_packages_of_fastgan(upscaler):
    """Of fastgan, running an ONNX file imports the runtime and _util only."""
    code = f"""
import sys
import numpy as np
from fastgan.runtime import Session
for backend in {[name for name in FILES if backends.registry()[name].why_not("cpu") is None] + ["auto"]!r}:
    session = Session({str(upscaler[1])!r}, threads=1, backend=backend)
    session(np.zeros((1, 3, 4, 4), np.float32))
    session.pixels(np.zeros((1, 5, 4, 3), np.uint8))
    session.describe()
print([name for name in ("torch", "triton") if name in sys.modules])
print(sorted({{name.split(".")[1] for name in sys.modules if name.startswith("fastgan.")}}))
"""
    torch_modules, packages = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert torch_modules == "[]"
    assert packages == "['_util', 'errors', 'runtime']"


# --- other properties ------------------------------------------------------------------------------------------------


def test_threads_are_respected(upscaler, make):
    assert Session(upscaler[1], backend="onnxruntime", threads=3)._backend._session.get_session_options(
    ).intra_op_num_threads == 3  # fmt: skip
    seen = []

    class Watching(make.Upscaler):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    before = torch.get_num_threads()
    Session(Watching(), threads=before + 2)(images(1, 3, 4, 4))
    assert seen == [before + 2]
    assert torch.get_num_threads() == before


def test_openvino_threads_are_respected(upscaler):
    session = Session(upscaler[1], backend="openvino", threads=1)
    assert session._backend._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert session._backend._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_the_module_is_not_changed(make):
    network = make.Upscaler().train()
    session = Session(network, threads=1)
    assert network.training
    assert network.first.weight.requires_grad
    assert network.first.weight.is_contiguous()
    x = images(1, 3, 8, 8)
    before = session(x)
    with torch.no_grad():
        network.first.weight.zero_()
    assert np.array_equal(session(x), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_compiled_back_end(upscaler, generator):
    for (network, _), x in ((upscaler, images(1, 3, 8, 9)), (generator, latents(3, (5,), 0))):
        session = Session(network, backend="compile", threads=1)
        np.testing.assert_allclose(session(x), expected(network, x), atol=1e-5)
        assert session.backend == "compile"
        if network is upscaler[0]:
            f = frames(1, 8, 9, 3)
            assert np.abs(session.pixels(f).astype(int) - Session(network).pixels(f)).max() <= 1


@pytest.mark.parametrize("backend", ALL)
def test_several_threads_may_call(upscaler, backend):
    session = session_of(upscaler, backend)
    given = [images(1, 3, 6 + i, 8, seed=i) for i in range(4)]
    wrong = []

    def work(x):
        for _ in range(10):
            if np.abs(session(x) - expected(upscaler[0], x)).max() > 1e-5:
                wrong.append(x.shape)

    threads = [threading.Thread(target=work, args=(x,)) for x in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Picky(nn.Module):
    channels, scale = 3, 1

    def forward(self, x):
        if x.shape[3] > 64:
            raise RuntimeError("too wide\nat line 7")
        return x


def test_a_failure_inside_a_library_is_one_sentence():
    session = Session(Picky(), threads=1)
    session(images(1, 3, 4, 64))
    with pytest.raises(BackendError, match=r"PyTorch .* fails on \[1, 3, 4, 65\] \(CPU\): too wide$"):
        session(images(1, 3, 4, 65))


@pytest.mark.parametrize("backend", ALL)
def test_description_and_measurements(upscaler, generator, backend):
    session = session_of(upscaler, backend)
    text = session.describe()
    assert "images [N, 3, H, W] → 2 times as large" in text
    assert f"back-end: {backend} (" in text
    assert "1 thread" in text
    if backend in FILES:
        assert "opset 18" in text
        assert session.about["step"] == 7
    assert session.measure(2, seconds=0.02, size=(16, 12)) > 0
    session.warm_up(frames(1, 8, 8, 3))
    figures = session_of(generator, backend).figures(seconds=0.02)
    assert figures["latency_ms_batch1"] > 0
    assert figures["images_per_second_batch64"] > 0
