import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastgan._util import memory
from fastgan.errors import DataError, UsageError
from fastgan.models import esrgan
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact


def network(seed=0):
    torch.manual_seed(seed)
    return SRVGGNetCompact(scale=2, width=4, blocks=1)


def assert_loads(path, expected):
    """The file gives the expected network."""
    found = esrgan.load(path)
    assert type(found) is type(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["net.safetensors", "net.bin", "net"])
def test_safetensors(tmp_path, name):
    rrdb = RRDBNet(scale=2, width=4, growth=2, blocks=1)
    save_file(rrdb.state_dict(), tmp_path / name)
    assert_loads(tmp_path / name, rrdb)
    assert_loads(str(tmp_path / name), rrdb)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_safetensors_files_that_begin_like_other_formats(tmp_path, start):
    expected, path = network(), tmp_path / "net.bin"  # newer versions of torch.load also read .safetensors
    save_file(expected.state_dict(), path, {"about": ""})
    shortest = int.from_bytes(path.read_bytes()[:8], "little")
    length = int.from_bytes(start, "little")
    length += max(0, -(length - shortest) // 256 + 1) * 256 if len(start) == 1 else 0
    save_file(expected.state_dict(), path, {"about": "." * (length - shortest)})
    assert path.read_bytes().startswith(start)
    assert_loads(path, expected)


@pytest.mark.parametrize("name", ["net.pth", "net.bin", "net.param"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path, name, zipped):
    state = network().state_dict()
    averaged, latest = ({key: value + i for key, value in state.items()} for i in (1.0, 2.0))
    expected = network()
    expected.load_state_dict(averaged)
    for content in ({"params": latest, "params_ema": averaged}, {"params": averaged, "epoch": 3}, averaged):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert_loads(tmp_path / name, expected)


def test_half_precision_is_converted_to_float32(tmp_path):
    half = network().half()
    torch.save({"params_ema": half.state_dict()}, tmp_path / "half.pth")
    save_file(half.state_dict(), tmp_path / "half.safetensors")
    for name in ("half.pth", "half.safetensors"):
        assert_loads(tmp_path / name, half.float())
        assert {parameter.dtype for parameter in esrgan.load(tmp_path / name).parameters()} == {torch.float32}


class MaliciousObject:
    """Unpickling it without weights_only writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo written > {self.path}",)


@pytest.mark.parametrize("kind", ["torch.save", "before torch 1.6", "pickle", "pickle of protocol 5", "in a zip"])
def test_a_malicious_pickle_runs_nothing(tmp_path, kind):
    path, written = tmp_path / "net.pth", tmp_path / "written"
    content = {**network().state_dict(), "body.0.weight": MaliciousObject(written)}
    if kind in ("torch.save", "before torch 1.6"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch.save")
    elif kind == "in a zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickle.dumps(content, protocol=2))
            archive.writestr("net/version", "3\n")
    else:
        path.write_bytes(pickle.dumps(content, protocol=5 if "5" in kind else 2))
    with pytest.raises(DataError, match=r"net.pth: this PyTorch file .*") as error:
        esrgan.load(path)
    assert "\n" not in str(error.value)
    assert "trust" not in str(error.value)  # PyTorch's advice to set weights_only=False is not shown
    assert not written.exists()
    if kind in ("torch.save", "before torch 1.6"):
        assert f"this PyTorch file loads {os.system.__module__}.system, which could run any code" in str(error.value)
        torch.load(path, weights_only=False)
        assert written.exists()  # otherwise this test could not fail


def test_pickled_modules_are_errors(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(DataError, match=r"loads torch\.nn\.modules\.linear\.Linear, .* only tensors are read"):
        esrgan.load(tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict of weights in this PyTorch file, got list"),
        ({"epoch": 3}, "expected a dict of weights, or one under params_ema or params, got a int under 'epoch'"),
        ({"params": {"a": 1}}, "got a int under 'a'"),
        ({1: torch.zeros(1)}, "got a Tensor under 1"),
        ({"params": {}}, "the first keys are: none"),
        ({"params": nn.Linear(2, 2).state_dict()}, "the first keys are: weight, bias"),
    ],
)
def test_pytorch_files_of_other_content_are_errors(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(DataError, match=message) as error:
        esrgan.load(tmp_path / "net.pth")
    assert str(error.value).startswith(f"{tmp_path / 'net.pth'}: ")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(network().state_dict(), path)
    else:
        save_file(network().state_dict(), path)
    whole = path.read_bytes()
    for length in (12, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=r"net\.\w+: this (PyTorch|safetensors) file (is damaged|cannot be read)"
        ) as e:
            esrgan.load(path)
        assert "\n" not in str(e.value)


def test_files_that_are_no_weight_files_are_errors(tmp_path):
    with pytest.raises(UsageError, match=r"weights: expected a file, got .*nowhere.pth, which does not exist"):
        esrgan.load(tmp_path / "nowhere.pth")
    with pytest.raises(UsageError, match=r"weights: expected a file, got .*, which is a folder"):
        esrgan.load(tmp_path)
    for name in ("net.pth", "net.param", "net.bin", "net.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=rf"{name}: is empty"):
            esrgan.load(tmp_path / name)
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello", bytes(100)):
        (tmp_path / "net.pth").write_bytes(content)
        with pytest.raises(
            DataError, match=r"net.pth: expected a safetensors file, a PyTorch file, or the .param and .bin"
        ):
            esrgan.load(tmp_path / "net.pth")


def test_a_file_without_read_permission(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    path.write_bytes(b"x")

    def deny(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    with pytest.raises(DataError, match=r"net.pth cannot be read: Permission denied"):
        esrgan.load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx", ".weights"])
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_the_content_tells_the_format_and_not_the_name(tmp_path, kind, suffix):
    state = SRVGGNetCompact(2, 3, 4, 1, 2).state_dict()
    path = tmp_path / f"weights{suffix}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    loaded = esrgan.load(path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: torch.zeros(1).expand(30_000, 30_000, 3, 3), "has 8,100,000,000 values that share 4 bytes"),
        (lambda: torch.empty(4, 3, 3, 3, device="meta"), "is on the device meta"),
        (lambda: torch.zeros(4, 3, 3, 3).to_sparse(), "is of layout torch.sparse_coo"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "is nested"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_tensors_that_are_not_their_values_are_refused(tmp_path, make, text):
    state = {**SRVGGNetCompact(2, 3, 4, 1, 2).state_dict(), "body.0.weight": make()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match=text):
        esrgan.load(tmp_path / "w.pth")


def test_a_compressed_file_is_measured_before_it_is_read(tmp_path, monkeypatch):
    torch.save(SRVGGNetCompact(2, 3, 4, 1, 2).state_dict(), tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/99", bytes(1 << 24))
    esrgan.load(tmp_path / "w.pth")
    monkeypatch.setattr(memory, "free_host_memory", lambda: 1 << 20)
    with pytest.raises(DataError, match=r"reading this PyTorch file takes 16\.8 MB of memory, and 1\.0 MB are free"):
        esrgan.load(tmp_path / "w.pth")
