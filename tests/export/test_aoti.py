import json
import shutil
import zipfile

import pytest
import torch
from torch import nn

from fastgan.errors import ExportError, UsageError, WriteError
from fastgan.export.targets import aoti
from fastgan.models.esrgan import SRVGGNetCompact
from fastgan.runtime.backends.aoti import load
from fastgan.runtime.spec import Spec

IMAGE = Spec("image", scale=2, range=(0.0, 1.0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(network, file, facts): compiled once for all tests."""
    if aoti.why_not() is not None:
        pytest.skip(aoti.why_not())
    # With the reduction that ncnn's files have, which Inductor could not index in an earlier version of the network.
    torch.manual_seed(0)
    network = SRVGGNetCompact(scale=2, shuffle=4, width=8, blocks=1).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("aoti") / "upscaler.any"
    facts = aoti.write(network, IMAGE, path, {"step": 7})
    assert [p.name for p in path.parent.iterdir()] == ["upscaler.any"]
    return network, path, facts


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 24, 36), (3, 3, 17, 45), (5, 3, 8, 8)])
def test_the_package_computes_what_the_network_computes(written, shape):
    network, path, _ = written
    package = load(path)
    x = torch.rand(shape)
    torch.testing.assert_close(package(x), network(x), atol=1e-5, rtol=1e-5)
    x = torch.rand((*shape[:1], *shape[2:], 3)).permute(0, 3, 1, 2)  # channels_last
    torch.testing.assert_close(package(x), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_metadata_of_a_package(written):
    _, path, facts = written
    package = load(path)
    assert package.spec == IMAGE
    assert package.device == torch.device("cpu")
    here = {"torch": torch.__version__, "device": "cpu", "hardware": torch.backends.cpu.get_cpu_capability()}
    assert package.facts == {"step": 7, **here}
    assert facts["bytes"] == path.stat().st_size
    assert {name: facts[name] for name in here} == here


@pytest.mark.slow
@pytest.mark.parametrize(
    "x",
    [
        torch.rand(1, 4, 8, 8),
        torch.rand(3, 8, 8),
        torch.rand(0, 3, 8, 8),
        torch.rand(1, 3, 8, 8).double(),
        torch.rand(1, 3, 8, 8, device="meta"),
    ],
)
def test_inputs_that_native_code_does_not_check(written, x):
    with pytest.raises(UsageError, match=r"x: expected \[N, 3, H, W\], float32 on cpu, got \["):
        load(written[1])(x)


@pytest.mark.slow
def test_a_package_for_other_hardware_is_not_run(written, tmp_path, monkeypatch):
    """Its code may have instructions that this CPU does not have."""
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("it was run"))

    def changed(**changes):
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(written[1]) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name.endswith("_metadata.json"):
                    entries = json.loads(data)
                    facts = json.loads(entries["fastgan"]) | changes
                    entries["fastgan"] = json.dumps({key: value for key, value in facts.items() if value is not None})
                    data = json.dumps(entries).encode()
                new.writestr(name, data)
        return path

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for hardware in ("AVX512", "SVE256"):
        message = f"was compiled for {hardware}, this computer has AVX2; export it again"
        with pytest.raises(ExportError, match=message):
            load(changed(hardware=hardware))
        with pytest.raises(ExportError, match=message):
            load(changed(hardware=None, machine=hardware))  # the name in older files
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExportError, match="was compiled for a GPU"):
        load(changed(device="cuda", hardware="compute capability 9.0"))
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: len)
    assert load(changed(hardware="DEFAULT")).facts["hardware"] == "DEFAULT"


@pytest.mark.slow
def test_a_truncated_package(written, tmp_path):
    whole = written[1].read_bytes()
    (tmp_path / "truncated.pt2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="is no package of PyTorch's compiler, or is damaged"):
        load(tmp_path / "truncated.pt2")


def test_without_a_compiler(tmp_path):
    import torch._inductor.config as config

    missing = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with missing, pytest.raises(UsageError, match=r"to: aoti needs a C\+\+ compiler: .*install g\+\+ or clang"):
        aoti.write(SRVGGNetCompact(scale=2, width=8, blocks=1).eval(), IMAGE, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


class OneSize(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3, 24, 36)


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no compiler")
def test_a_network_of_one_size_and_a_missing_folder(tmp_path):
    with pytest.raises(ExportError, match="the network cannot be exported"):
        aoti.write(OneSize(), IMAGE, tmp_path / "m.pt2")
    with pytest.raises(WriteError, match="could not be written"):
        aoti.write(SRVGGNetCompact(scale=2, width=8, blocks=1).eval(), IMAGE, tmp_path / "no" / "m.pt2")
    assert not list(tmp_path.iterdir())
