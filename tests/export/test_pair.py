"""Pairs of exported halves: their numbers, controls, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from fastgan.errors import UsageError
from fastgan.export import export_pair
from fastgan.export.targets import aoti
from fastgan.export.targets.onnx import write_metadata
from fastgan.models.stylegan.stylegan2 import Generator
from fastgan.models.stylegan.stylegan3 import Generator3
from fastgan.runtime import Session
from fastgan.runtime.onnx_metadata import read_metadata
from fastgan.runtime.pair import StylePair, is_pair, pair_files
from fastgan.runtime.session import latents
from fastgan.runtime.spec import KEY, Spec
from fastgan.testing.stylegan import randomize

pytest.importorskip("onnxscript")

SMALL = {"channel_base": 128, "channel_max": 8, "mapping_kwargs": {"num_layers": 2}}
GENERATORS = {
    "stylegan2": lambda: Generator(8, 3, 8, 16, 3, **SMALL),
    "stylegan2 gray": lambda: Generator(8, 0, 8, 8, 1, **SMALL),
    "stylegan3-t": lambda: Generator3(8, 0, 8, 16, 3, num_layers=3, **SMALL),
    "stylegan3-r": lambda: Generator3(8, 2, 8, 16, 3, num_layers=3, conv_kernel=1, use_radial_filters=True, **SMALL),
}


def generator_of(name, seed=0):
    torch.manual_seed(seed)
    return randomize(GENERATORS[name]()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A StyleGAN2, the path of its pair, and the reports."""
    generator = generator_of("stylegan2")
    out = tmp_path_factory.mktemp("pair") / "g.onnx"
    return generator, out, export_pair(generator, out)


def opened(path):
    return StylePair.open(path, backend="onnxruntime")


@pytest.mark.full  # seconds for each file
@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "stylegan2"])
def test_the_images_of_other_generators(tmp_path, name):
    generator = generator_of(name)
    check_images(generator, tmp_path / "g.onnx", export_pair(generator, tmp_path / "g.onnx"))


def test_the_images_are_the_generators(exported):
    check_images(*exported)


def check_images(generator, out, reports):
    for report in reports.values():
        assert len({row["batch"] for row in report["parity"]}) == 3
    pair = opened(pair_files(out)[0])
    for batch in (1, 5):
        z = torch.from_numpy(latents(batch, (8,), 3))
        y = torch.arange(batch) % generator.classes if generator.classes else None
        for psi in (1.0, 0.4):
            expected = generator(z, y, truncation_psi=psi)
            torch.testing.assert_close(pair(z, y, truncation_psi=psi), expected, rtol=1e-4, atol=1e-4)
    w = pair.styles(z, y, 0.4)
    torch.testing.assert_close(w, generator.mapping(z, y, truncation_psi=0.4), rtol=1e-4, atol=1e-5)


def test_noise_is_an_input(exported):
    generator, out, _ = exported
    synthesis = opened(out).synthesis
    w = generator.mapping(torch.from_numpy(latents(3, (8,), 1)), torch.tensor([0, 1, 2]))
    constant, none = generator.synthesis(w, noise_mode="const"), generator.synthesis(w, noise_mode="none")
    assert (constant - none).abs().max() > 1e-2
    torch.testing.assert_close(synthesis(w), constant, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(synthesis(w, noise_strength=0.0), none, rtol=1e-4, atol=1e-4)
    (_, noise) = synthesis.spec.controls
    drawn = torch.randn(3, noise.size)
    sides = synthesis.about["noise_maps"].values()
    maps = [
        part.unflatten(1, (1, side, side))
        for part, side in zip(drawn.split([side**2 for side in sides], 1), sides, strict=True)
    ]
    expected = generator.synthesis(w, noise=maps)
    torch.testing.assert_close(synthesis(w, noise=drawn, noise_strength=0.0), expected, rtol=1e-4, atol=1e-4)
    strength = torch.tensor([0.0, 1.0, 0.0])
    one_each = torch.stack([none[0], constant[1], none[2]])
    torch.testing.assert_close(synthesis(w, noise_strength=strength), one_each, rtol=1e-4, atol=1e-4)


def test_each_sample_has_its_truncation(exported):
    generator, out, _ = exported
    pair, z = opened(out), latents(2, (8,), 4)
    w = pair.mapping(z, [0, 2], truncation_psi=np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose(w[0], generator.mapping.w_avg.expand(generator.num_ws, -1), atol=1e-6)
    np.testing.assert_allclose(
        w[1], generator.mapping(torch.from_numpy(z), torch.tensor([0, 2]))[1], rtol=1e-4, atol=1e-5
    )


def test_reports_and_metadata(exported):
    _, out, reports = exported
    for file, half in zip(pair_files(out), ("mapping", "synthesis"), strict=True):
        report = json.loads(file.with_name(f"{file.name}.json").read_text())
        assert report == reports[half]
        assert report["file"] == file.name
        assert Session(file, backend="onnxruntime").about["pair"] == report["pair"]
    assert reports["synthesis"]["noise_maps"] == {
        "b4.conv1.noise_const": 4, "b8.conv0.noise_const": 8, "b8.conv1.noise_const": 8, "b16.conv0.noise_const": 16,
        "b16.conv1.noise_const": 16,
    }  # fmt: skip


@pytest.mark.full  # seconds for each file
def test_half_precision_is_that_of_the_synthesis_alone(tmp_path):
    generator = generator_of("stylegan2")
    reports = export_pair(generator, tmp_path / "half.onnx", precision="fp16")
    assert [report["precision"] for report in reports.values()] == ["fp32", "fp16"]
    assert reports["synthesis"]["psnr"] > 50
    images = opened(tmp_path / "half.onnx")(latents(4, (8,), 0), [0, 1, 2, 0])
    exact = generator(torch.from_numpy(latents(4, (8,), 0)), torch.tensor([0, 1, 2, 0]))
    assert (torch.from_numpy(images) - exact).norm() < 5e-3 * exact.norm()


def test_the_names_of_a_pair(tmp_path):
    mapping, synthesis = tmp_path / "a.mapping.onnx", tmp_path / "a.synthesis.onnx"
    for path in (tmp_path / "a.onnx", mapping, synthesis):
        assert pair_files(path) == (mapping, synthesis)
    assert is_pair(mapping)
    assert not is_pair(tmp_path / "a.onnx")
    mapping.touch()
    synthesis.touch()
    assert is_pair(tmp_path / "a.onnx")
    assert not is_pair(tmp_path / "a.pkl")


def test_what_is_refused(exported, tmp_path):
    generator, out, _ = exported
    mapping, synthesis = pair_files(out)
    other, _ = pair_files(tmp_path / "g.onnx")
    other.write_bytes(mapping.read_bytes())
    with pytest.raises(UsageError, match=r"needs the other half of its pair beside it, g.synthesis.onnx"):
        opened(other)
    shutil.copy(synthesis, tmp_path / "g.synthesis.onnx")
    spec, facts = Spec.from_json(read_metadata(synthesis).metadata[KEY])
    write_metadata(tmp_path / "g.synthesis.onnx", spec, {**facts, "pair": "0"})
    one, two = (Session(file, backend="onnxruntime") for file in (mapping, tmp_path / "g.synthesis.onnx"))
    with pytest.raises(UsageError, match=r"g.synthesis.onnx belongs to another generator than .*g.mapping.onnx"):
        StylePair(one, two)
    with pytest.raises(UsageError, match="mapping: expected a mapping network, got one from styles"):
        StylePair(two, two)
    session = Session(synthesis, backend="onnxruntime")
    w = np.zeros((2, *session.spec.latent_shape), np.float32)
    for call, message in (
        (lambda: session(w[:, 1:]), r"w: expected \[N, 6, 8\], got \[2, 5, 8\]"),
        (lambda: session(w[..., 1:]), r"w: expected \[N, 6, 8\], got \[2, 6, 7\]"),
        (lambda: session(w, noise=np.zeros((2, 3), np.float32)), r"noise: expected float32 \[2, 656\]"),
        (lambda: session(w, noise_strength=np.zeros(2)), "noise_strength: expected float32, got float64"),
        (lambda: session(w, psi=1.0), "psi: not an input of this model; it takes noise_strength, noise"),
        (lambda: export_pair(generator, tmp_path / "t", to="triton"), "to: a pair is exported to onnx or aoti"),
        (lambda: export_pair(torch.nn.Linear(2, 2), tmp_path / "n.onnx"), "pair: expected a generator with mapping"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


@pytest.mark.slow  # native code is compiled
@pytest.mark.skipif(aoti.why_not() is not None, reason="no C++ compiler")
def test_compiled_ahead_of_time(tmp_path):
    generator = generator_of("stylegan2")
    export_pair(generator, tmp_path / "g.pt2", to="aoti")
    pair = StylePair.open(tmp_path / "g.pt2", trust=True)
    z, y = torch.from_numpy(latents(3, (8,), 3)), torch.tensor([0, 2, 1])
    expected = generator(z, y, truncation_psi=0.5)
    torch.testing.assert_close(pair(z, y, truncation_psi=0.5), expected, rtol=1e-4, atol=1e-4)
