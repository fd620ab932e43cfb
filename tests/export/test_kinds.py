"""Networks of the kinds that public code has: vocoders, translation with other channels and labels, casts inside."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

from fastgan.errors import ExportError, UsageError
from fastgan.export import export
from fastgan.export import verify as verify_module
from fastgan.export.targets import aoti, tensorrt, triton_server
from fastgan.export.verification_inputs import verification_batches
from fastgan.export.verify import Reference, memory_bound
from fastgan.runtime import Session
from fastgan.runtime.backends import registry
from fastgan.runtime.network_spec import spec_of
from fastgan.runtime.onnx_metadata import read_metadata
from fastgan.runtime.spec import KEY, Spec

pytest.importorskip("onnxscript")


class Snake(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(channels, 1) + 0.5)

    def forward(self, x):
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


class Vocoder(nn.Module):
    """Spectrogram frames [N, 10, T] → waveform [N, 1, 8·T]."""

    def __init__(self, norm=old_weight_norm):
        super().__init__()
        torch.manual_seed(0)
        self.pre = norm(nn.Conv1d(10, 16, 7, padding=3))
        self.ups = nn.ModuleList(
            norm(nn.ConvTranspose1d(16 >> i, 8 >> i, 2 * hop, hop, padding=hop // 2)) for i, hop in enumerate((4, 2))
        )
        self.snakes = nn.ModuleList(Snake(8 >> i) for i in range(2))
        self.post = norm(nn.Conv1d(4, 1, 7, padding=3))

    def forward(self, x):
        x = self.pre(x)
        for up, snake in zip(self.ups, self.snakes, strict=True):
            x = snake(up(F.leaky_relu(x, 0.1)))
        return torch.tanh(self.post(x))


class EdgesToPhoto(nn.Module):
    """A small U-Net, 1 → 3 channels, sides in multiples of 4."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down1, self.down2 = nn.Conv2d(1, 8, 4, 2, 1), nn.Conv2d(8, 8, 4, 2, 1)
        self.norm = nn.InstanceNorm2d(8)
        self.up2, self.up1 = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, x):
        a = F.leaky_relu(self.down1(x), 0.2)
        b = F.relu(self.up2(F.leaky_relu(self.down2(a), 0.2)))
        return torch.tanh(self.up1(torch.cat([self.norm(b), a], 1)))


class Attributes(nn.Module):
    """(images, a vector of five attributes) → images; the vector becomes five planes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh())

    def forward(self, x, c):
        planes = c[:, :, None, None].expand(-1, -1, x.size(2), x.size(3))
        return self.body(torch.cat([x, planes], 1))


class ByClass(nn.Module):
    """(z [N, 6], labels) → images, with an embedding that is multiplied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.label_emb = nn.Embedding(4, 6)
        self.body = nn.Sequential(nn.Linear(6, 2 * 16), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 3, 3, padding=1))

    def forward(self, noise, labels):
        return self.body(noise * self.label_emb(labels))


class Casting(nn.Module):
    """(z, one-hot c) → images, with casts to float32 and constants that double() leaves, as in StyleGAN2 and R3GAN."""

    def __init__(self, c_dim=3, strict=False):
        super().__init__()
        torch.manual_seed(0)
        self.z_dim, self.c_dim, self.strict = 6, c_dim, strict
        self.embed = nn.Linear(c_dim, 6) if c_dim else None
        self.first = nn.Linear(6, 16)
        self.weight = nn.Parameter(torch.randn(3, 1, 3, 3))
        self.gain = torch.tensor(0.7)

    def forward(self, z, c):
        if self.embed is not None:
            z = z + self.embed(c.to(torch.float32))
        x = self.first(z).to(torch.float32).reshape(-1, 1, 4, 4)
        weight = self.weight.to(x.dtype) * torch.ones(3, 1, 1, 1, dtype=torch.float32)
        if self.strict:
            assert x.dtype == weight.dtype == torch.float32
        return F.conv2d(x, weight, padding=1) * self.gain


SIGNAL = Spec("signal", channels=10, out_channels=1, scale=8)
SPECS = [
    (Vocoder, SIGNAL),
    (lambda: Vocoder(parametrizations.weight_norm), SIGNAL),
    (EdgesToPhoto, Spec("image", channels=1, out_channels=3, multiple=4)),
    (Attributes, Spec("image", channels=3, out_channels=3, classes=5, label_vectors=True)),
    (ByClass, Spec("latent", (6,), classes=4)),
    (Casting, Spec("latent", (6,), classes=3, label_vectors=True)),
    (lambda: Casting(c_dim=0), Spec("latent", (6,))),
    (lambda: nn.Sequential(nn.ConvTranspose2d(9, 4, 4), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 1, 4, 2, 1)),
     Spec("latent", (9, 1, 1), channels=1)),
    (lambda: nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)),
     Spec("image", out_channels=3, scale=2, range=(0.0, 1.0))),
]  # fmt: skip


@pytest.mark.parametrize(("make", "spec"), SPECS)
def test_what_attributes_do_not_state_is_found(make, spec):
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert spec_of(network) == spec
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert Spec.from_json(spec.to_json())[0] == spec


class Three(nn.Module):
    def forward(self, noise, labels, code):
        return noise


class Pair(EdgesToPhoto):
    def forward(self, x):
        y = super().forward(x)
        return y, y


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, 24, 24))
        self.body = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.body(x + self.position)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Three(), r"Three\.forward\(\) takes 3 arguments; .* Export a module whose forward\(\) sets the others"),
        (Pair(), r"it returns a tuple of 2, expected one tensor\)\. Set the attributes `channels` and `scale`"),
        (OneSize(), r"inputs of OneSize cannot be found by running it at several sizes \(for \[2, 3, 512, 256\]: .*24"),
    ],
)
def test_what_cannot_be_found_is_refused_with_the_cure(tmp_path, network, sentence):
    with pytest.raises(UsageError, match=sentence):
        export(network, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


class Grouped(nn.Module):
    """Each sample's own weights, as groups of one convolution: StyleGAN's fused modulated convolution."""

    def __init__(self):
        super().__init__()
        self.z_dim = 6
        self.weight = nn.Linear(6, 9)

    def forward(self, z):
        x = z.new_ones(1, len(z), 4, 4)
        return F.conv2d(x, self.weight(z).view(-1, 1, 3, 3), padding=1, groups=len(z)).transpose(0, 1)


def test_a_batch_that_is_fixed_while_it_runs_is_refused_with_the_cure(tmp_path):
    with pytest.raises(
        ExportError, match=r"fixes the batch size while it runs, .* \(fused_modconv=False in StyleGAN\)"
    ):
        export(Grouped(), tmp_path / "out.onnx")


def backends():
    return [name for name in ("onnxruntime", "openvino") if registry()[name].why_not("cpu") is None]


INPUTS = {
    "signal": [(1, 10, 5), (3, 10, 44)],
    "edges": [(1, 1, 8, 12), (5, 1, 20, 4)],
    "attributes": [(1, 3, 5, 7), (4, 3, 9, 2)],
    "casting": [(1, 6), (7, 6)],
}
NETWORKS = {"signal": Vocoder, "edges": EdgesToPhoto, "attributes": Attributes, "casting": Casting}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that exports one of NETWORKS once: the network, the file, the report."""
    folder, done = tmp_path_factory.mktemp("kinds"), {}

    def of(name):
        if name not in done:
            network = NETWORKS[name]().eval()
            done[name] = network, folder / f"{name}.onnx", export(network, folder / f"{name}.onnx")
        return done[name]

    return of


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_with_any_batch_and_size(exported, name):
    network, path, report = exported(name)
    assert report["psnr"] > 110
    assert report["reference"] == "float64"
    for backend in backends():
        session = Session(path, backend=backend)
        for shape in INPUTS[name]:
            x = torch.randn(shape)
            labels = [torch.rand(shape[0], session.spec.classes)] if session.spec.classes else []
            with torch.no_grad():
                expected = network(x, *labels)
            torch.testing.assert_close(session(x, *labels), expected, atol=1e-5, rtol=1e-5)


def test_the_metadata_describe_the_file(exported):
    found = {name: json.loads(read_metadata(exported(name)[1]).metadata[KEY]) for name in ("signal", "attributes")}
    assert found["signal"].items() >= {"kind": "signal", "channels": 10, "out_channels": 1, "scale": 8}.items()
    assert found["attributes"].items() >= {"kind": "image", "classes": 5, "label_vectors": True}.items()
    text = Session(exported("signal")[1], backend="onnxruntime").describe()
    assert "signals [N, 10, T] → waveforms of 1 channels, 8 samples for each frame" in text


def test_a_session_of_signals(exported):
    session = Session(exported("signal")[1], backend="onnxruntime")
    for wrong in ((1, 9, 5), (10, 5), (1, 10, 0), (1, 10, 4, 4)):
        with pytest.raises(UsageError, match=r"x: expected \[N, 10, T\], got "):
            session(np.zeros(wrong, np.float32))
    with pytest.raises(UsageError, match="expected an image-to-image model; this one generates signals"):
        session.pixels(np.zeros((1, 4, 4, 3), np.uint8))
    assert session.figures(0.01)["samples_per_second"] > 0


def test_labels_as_vectors(exported):
    session = Session(exported("attributes")[1], backend="onnxruntime")
    x = np.random.default_rng(0).random((6, 3, 4, 4), np.float32)
    labels = np.array([0, 1, 2, 3, 4, 0])
    by_label = session(x, labels)
    np.testing.assert_array_equal(by_label, session(x, np.eye(5, dtype=np.float32)[labels]))
    np.testing.assert_array_equal(by_label, session(x))  # in turn
    tensors = session(torch.from_numpy(x), torch.from_numpy(labels))
    np.testing.assert_array_equal(by_label, tensors.numpy())
    frames = np.random.default_rng(1).integers(0, 256, (2, 5, 6, 3), np.uint8)
    expected = session(frames.transpose(0, 3, 1, 2) * np.float32(2 / 255) - 1, labels[3:5])
    for backend in backends():
        pixels = Session(exported("attributes")[1], backend=backend).pixels(frames, labels[3:5])
        assert np.abs(pixels - (expected.transpose(0, 2, 3, 1) + 1) * 127.5).max() <= 0.51
    for y, sentence in (
        (
            np.zeros((6, 4), np.float32),
            r"y: expected float32 \[6, 5\], or int64 \[6\] for one-hot",
        ),
        (np.full(6, 5), "expected labels from 0 to 4, got 5"),
    ):
        with pytest.raises(UsageError, match=sentence):
            session(x, y)


def test_a_session_of_the_module_itself():
    network = Casting(c_dim=0).eval()
    z = torch.randn(3, 6)
    session = Session(network, backend="torch")
    with torch.no_grad():
        torch.testing.assert_close(session(z), network(z, None))


def test_a_network_that_insists_on_float32_is_compared_in_float32():
    network = Casting(strict=True).eval()
    spec = spec_of(network)
    reference = Reference.of(network, spec)
    assert reference.dtype == "float32"
    assert reference.limit == pytest.approx(1e-4 * max(np.abs(y).max() for y in reference.outputs))

    def off_by(relative):
        def run(z, c):
            with torch.no_grad():
                return network(torch.from_numpy(z), torch.from_numpy(c)).numpy() * np.float32(1 + relative)

        return run

    assert reference.compare(off_by(1e-6))["reference"] == "float32"
    with pytest.raises(ExportError, match="has an error of"):
        reference.compare(off_by(1e-3))
    # The casts of the other are computed in float64: its own float32 is not exact, and determines the limit.
    casting = Reference.of(Casting().eval(), spec)
    assert casting.dtype == "float64"
    assert 0 < casting.limit < 1e-5


class Deep(nn.Module):
    """Sides in multiples of 256, which pix2pix's U-Net takes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(8))
        self.up = nn.ConvTranspose2d(8, 3, 256, 256)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.up(x)


def test_memory_is_bounded_before_anything_runs(monkeypatch):
    network = Deep()
    spec = spec_of(network)
    assert spec.multiple == 256
    monkeypatch.setattr(verify_module, "MEMORY", 40 * 2**20)  # 3 channels of 1280 × 1280 in float64 are 37.5 MiB
    bounded = [x.shape for (x,) in verification_batches(spec, 1, 1, memory_bound(network, spec, 1))]
    assert bounded[0][2:] < (1280, 1280)  # 1792 × 1792 without a bound
    assert {shape[2] % 256 for shape in bounded} == {0}
    assert len(set(bounded)) > 1
    monkeypatch.setattr(verify_module, "free_host_memory", lambda: 10**6)
    with pytest.raises(ExportError, match=r"takes 0\.0 GB at its smallest input \[1, 3, 256, 256\], 0\.0 GB of memory"):
        memory_bound(network, spec, 1)


def test_other_targets(exported, tmp_path):
    files = [exported(name)[1] for name in ("signal", "attributes")]
    signal, attributes = (Spec.from_json(read_metadata(file).metadata[KEY])[0] for file in files)
    triton_server.write_repository(exported("signal")[1], tmp_path, "vocoder", signal)
    text = " ".join((tmp_path / "vocoder" / "config.pbtxt").read_text().split())
    assert 'input [ { name: "signal" data_type: TYPE_FP32 dims: [ 10, -1 ] } ]' in text
    assert 'output [ { name: "waveform" data_type: TYPE_FP32 dims: [ 1, -1 ] } ]' in text
    triton_server.write_repository(exported("attributes")[1], tmp_path, "attributes", attributes)
    text = " ".join((tmp_path / "attributes" / "config.pbtxt").read_text().split())
    assert 'input [ { name: "c" data_type: TYPE_FP32 dims: [ 5 ] } ]' in text
    command = tensorrt.command(exported("signal")[1], tmp_path / "v.engine", signal)
    assert "--optShapes=signal:1x10x640" in command
    command = tensorrt.command(exported("attributes")[1], tmp_path / "a.engine", attributes)
    assert "--maxShapes=images:8x3x1088x1920,c:8x5" in command


@pytest.mark.parametrize("name", ["signal", "edges"])
def test_files_without_metadata_are_described_by_running_them(exported, tmp_path, name):
    import onnx

    network, path, _ = exported(name)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    session = Session(tmp_path / "other.onnx", backend="onnxruntime")
    spec = spec_of(network)
    assert (session.spec.kind, session.spec.result_channels) == (spec.kind, spec.result_channels)
    assert (session.spec.scale, session.spec.multiple) == (spec.scale, spec.multiple)


def test_int8_of_images_with_labels(exported, tmp_path):
    calibration = [np.random.default_rng(i).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32) for i in range(4)]
    network = exported("attributes")[0]
    report = export(network, tmp_path / "int8.onnx", precision="int8", calibration=calibration)
    assert report["psnr"] > 30
    assert report["quantization"]["layers_quantized"] == 2
    with pytest.raises(UsageError, match="int8 is for networks from images or latents; export signals in"):
        export(exported("signal")[0], tmp_path / "none", precision="int8")


@pytest.mark.slow  # native code is compiled
@pytest.mark.skipif(aoti.why_not() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_ahead_of_time(exported, tmp_path, name):
    network, out = exported(name)[0], tmp_path / "c.pt2"
    export(network, out, to="aoti")
    session = Session(out, trust=True)
    for shape in INPUTS[name]:
        x = torch.randn(shape)
        labels = [torch.rand(shape[0], session.spec.classes)] if session.spec.classes else []
        with torch.no_grad():
            torch.testing.assert_close(session(x, *labels), network(x, *labels), atol=1e-5, rtol=1e-5)
