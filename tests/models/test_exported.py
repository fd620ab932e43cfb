"""ONNX exports of every family: the exporter's own comparison with the network, and one here for each class."""

import itertools

import pytest
import torch

from fastgan.export import export
from fastgan.runtime import Session
from fastgan.runtime.session import latents
from fastgan.testing.families import FAMILIES, family, latents_and_labels

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


#: Together they have each kind of layer; all families take minutes.
QUICK = ("dcgan concat", "biggan projection", "progan concat", "r3gan", "stylegan2 labels")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]
)
def test_exported_for_any_batch(tmp_path, name):
    generator, _ = family(name)
    with torch.no_grad():
        for parameter in generator.parameters():  # zeros and ones could hide an error of the export
            parameter.add_(0.1 * torch.randn_like(parameter))
    generator(*latents_and_labels(generator, 64))  # sets the running statistics of batch norms
    figures = export(generator, tmp_path / "generator.onnx")
    assert figures["psnr"] > 90
    generator.eval().requires_grad_(False)
    session = Session(tmp_path / "generator.onnx", backend="onnxruntime")
    assert session.spec.classes == generator.classes
    for batch in (1, 5):
        z = torch.from_numpy(latents(batch, (generator.latent,), 3))
        images = []
        for y in [torch.full((batch,), label) for label in range(generator.classes)] or [None]:
            expected = generator(z) if y is None else generator(z, y)
            torch.testing.assert_close(session(z, y), expected, rtol=1e-4, atol=1e-4)
            images.append(expected)
        for one, other in itertools.pairwise(images):
            assert (one - other).flatten(1).norm(dim=1).min() > 1e-2  # otherwise an ignored label would not be found
    if name.startswith("stylegan"):
        y = torch.zeros(batch, dtype=torch.int64) if generator.classes else None
        expected = generator(z, y, truncation_psi=0.5)
        torch.testing.assert_close(session(z, y, truncation_psi=0.5), expected, rtol=1e-4, atol=1e-4)
        assert (expected - images[0]).norm() > 1e-2
