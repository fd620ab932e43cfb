"""fastgan upscale, from the command line to the file."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.cli import run
from fastgan.cli.upscale import kind_of
from fastgan.errors import DataError, UsageError
from fastgan.models.esrgan import SRVGGNetCompact
from fastgan.upscale.image.read import _PLUGINS, read
from fastgan.upscale.upscaler import open_upscaler


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call("upscale", ...) in tmp_path: exit code, stdout, and the error: the last line of stderr, or all of tyro's."""
    monkeypatch.chdir(tmp_path)

    def run_it(*words):
        code = run([*map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        last = err.strip().splitlines()[-1] if err.strip() else ""
        return code, out, last if last.startswith("fastgan:") else err

    return run_it


@pytest.fixture
def photo(tmp_path, noise):
    Image.fromarray(noise(40, 30)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.fixture
def weights(tmp_path):
    """A small network as a user's file."""
    torch.manual_seed(0)
    network = SRVGGNetCompact(scale=2, width=4, blocks=1)
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    return network.eval()


def expected(network, path):
    pixels = np.asarray(Image.open(path))
    with torch.no_grad():
        y = network(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0]
    return (y.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().astype(int)


def test_an_image_with_an_exported_file(call, upscaler, photo, tmp_path):
    network, model = upscaler
    code, out, _ = call("upscale", "in.png", "out.png", "--model", model, "--backend", "onnxruntime", "--tile", 32)
    assert code == 0
    assert out.startswith("30×40 → 60×80 in ")
    assert "tiles of 30×32 (onnxruntime, CPUExecutionProvider): out.png" in out
    assert np.abs(read(tmp_path / "out.png").pixels - expected(network, photo)).max() <= 1


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_weights(call, weights, photo, tmp_path, backend):
    """Weights are exported once for a runtime of exported files."""
    for out in ("a.png", "b.png"):
        code, _, _ = call("upscale", "in.png", out, "--model", "net.pth", "--backend", backend, "--device", "cpu")
        assert code == 0
        assert np.abs(read(tmp_path / out).pixels - expected(weights, photo)).max() <= 1
    exported = list((tmp_path / "cache" / "exported").glob("net-*.onnx"))
    assert len(exported) == (backend == "onnxruntime")
    if exported:
        before = exported[0].stat().st_mtime_ns
        open_upscaler("net.pth", backend=backend)
        assert exported[0].stat().st_mtime_ns == before
        torch.save({"params": SRVGGNetCompact(scale=2, width=4, blocks=2).state_dict()}, "net.pth")
        open_upscaler("net.pth", backend=backend)
        assert len(list(exported[0].parent.glob("net-*.onnx"))) == 2


def test_a_folder_with_a_failed_image_fails(call, upscaler, photo, tmp_path):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    (tmp_path / "in" / "c.txt").write_text("")
    words = ("upscale", "in", "out", "--model", upscaler[1], "--backend", "onnxruntime")
    code, out, error = call(*words)
    assert code == 1
    assert out.startswith("1 images in ")
    assert "1 other files passed over" in out
    assert "1 of the images could not be upscaled: in/b.png" in error
    (tmp_path / "in" / "b.png").unlink()
    code, out, _ = call(*words)
    assert code == 0
    assert "0 images in" in out
    assert "1 skipped" in out
    (tmp_path / "empty").mkdir()
    code, _, error = call("upscale", "empty", "out", *words[3:])
    assert (code, error) == (1, "fastgan: empty contains no image")


def test_a_video_is_passed_to_upscale_video(call, upscaler, tmp_path, monkeypatch):
    import fastgan.upscale.video as video

    calls = []

    def upscale_video(session, source, out, **options):
        calls.append((session.spec.scale, str(source), str(out), options))
        return {"frames": 5, "fps": 2.5}

    monkeypatch.setattr(video, "upscale_video", upscale_video)
    (tmp_path / "clip").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))  # no suffix: by its content
    words = ("upscale", "clip", "out.mp4", "--model", upscaler[1], "--backend", "onnxruntime")
    code, out, error = call(*words, "--batch", 4, "--crf", 20)
    assert code == 0, error
    assert "5 frames at 2.5 per second" in out
    (scale, source, where, options) = calls[0]
    assert (scale, source, where) == (2, "clip", "out.mp4")
    assert (options["batch"], options["crf"], options["codec"], options["overwrite"]) == (4, 20, "auto", False)
    assert len(options["model"]) == 64
    assert call(*words, "--tile", 64)[2] == "fastgan: tile: is for images and folders only, got the video clip"


def test_wrong_arguments_before_the_model_is_opened(call, photo, tmp_path):
    """The model does not exist, which is not noticed."""
    (tmp_path / "folder").mkdir()
    for words, code, error in (
        (("in.png",), 2, "OUT"),
        (("none.png", "out.png"), 2, "source: none.png does not exist"),
        (("in.png", "out.psd"), 2, "out: expected a name that ends in .png"),
        (("in.png", "in.png"), 2, "another file than the source"),
        (("folder", "folder"), 2, "another folder than the source"),
        (("folder", "in.png"), 2, "got the file in.png"),
        (("in.png", "out.png", "--tile", "many"), 2, "tile: expected auto or a number, got 'many'"),
        (("in.png", "out.png", "--suffix", "x"), 2, "suffix: is for folders only, got the image in.png"),
        (("in.png", "out.png", "--batch", "3"), 2, "batch: is for videos"),
        (("in.png", "out.png", "--quality", "3"), 2, "--quality"),
    ):
        got = call("upscale", *words, "--model", "no such model")
        assert got[0] == code
        assert error in got[2], got
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["folder", "in.png"]


def test_unsuitable_models(call, generator, photo, tmp_path):
    code, _, error = call("upscale", "in.png", "out.png", "--model", generator[1])
    assert code == 2
    assert "expected a network from images to images, got a generator from latents" in error
    assert call("upscale", "in.png", "out.png", "--model", "realesrgan-x4pluss")[0] == 2
    (tmp_path / "net.pth").write_bytes(b"not weights")
    assert call("upscale", "in.png", "out.png", "--model", "net.pth")[0] in (1, 2)
    assert not (tmp_path / "out.png").exists()


def test_kinds_of_input(tmp_path, noise):
    Image.fromarray(noise(4, 4)).save(tmp_path / "image.mp4", format="PNG")
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(20))
    (tmp_path / "a.ts").write_bytes(b"G" + bytes(20))
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(20))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(20))
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert kind_of(tmp_path) == "folder"
    assert kind_of(tmp_path / "image.mp4") == kind_of(tmp_path / "torn.jpg") == "image"
    if "AVIF" in _PLUGINS:
        assert kind_of(tmp_path / "a.avif") == "image"
    assert kind_of(tmp_path / "a.mkv") == kind_of(tmp_path / "a.ts") == "video"
    for name, words in (("a.txt", "neither"), ("a.heic", "HEIC image, which is not"), ("empty.mp4", "is empty")):
        with pytest.raises(DataError, match=words):
            kind_of(tmp_path / name)
    with pytest.raises(UsageError, match="does not exist"):
        kind_of(tmp_path / "none")


def test_an_exported_file_imports_neither_torch_nor_data_nor_train(upscaler, photo, tmp_path):
    words = ["upscale", "in.png", "out.png", "--model", str(upscaler[1]), "--backend", "onnxruntime"]
    code = f"import sys; from fastgan.cli import run; print(run({words})); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    *_, exit_code, modules = done.stdout.splitlines()
    assert exit_code == "0", done.stderr
    packages = {name.split(".")[0] if name.split(".")[0] != "fastgan" else name for name in modules.split()}
    assert "fastgan.upscale.images" in packages
    forbidden = ("torch", "triton", "fastgan.data", "fastgan.train", "fastgan.metrics", "fastgan.models", "fastgan.ops")
    assert not [name for name in packages if any(name == f or name.startswith(f + ".") for f in forbidden)]
    assert read(tmp_path / "out.png").pixels.shape == (80, 60, 3)
