"""Every family as an ONNX file, compared with the network by the exporter itself; conditional ones for one class."""

import pytest
import torch

from fastgan.deploy import Session, export
from fastgan.deploy.session import latents
from fastgan.models import OfClass
from fastgan.testing.families import FAMILIES, family, latents_and_labels

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


#: One of each kind of layer; the others take minutes.
QUICK = ("dcgan projection", "biggan projection", "progan concat", "r3gan")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_exported_for_any_batch(tmp_path, name):
    generator, _ = family(name)
    with torch.no_grad():
        for parameter in generator.parameters():  # no zeros and ones, behind which a wrong rewriting could hide
            parameter.add_(0.1 * torch.randn_like(parameter))
    generator(*latents_and_labels(generator, 64))  # batch norm's statistics
    network = OfClass(generator, 1) if generator.classes else generator
    figures = export(network, tmp_path / "generator.onnx")
    assert figures["psnr"] > 90
    z = latents(5, (generator.latent,), 3)
    network.eval()
    expected = network(torch.from_numpy(z)).detach()
    images = torch.from_numpy(Session(tmp_path / "generator.onnx")(z))
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
