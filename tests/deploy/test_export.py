import json

import numpy as np
import pytest
import torch
from torch import nn

from fastgan import models
from fastgan.deploy import Session, export
from fastgan.deploy.session import latents
from fastgan.errors import ExportError, UsageError

onnx = pytest.importorskip("onnx")


def generator(name="dcgan", **options):
    torch.manual_seed(0)
    network, _ = models.build(name, **{"resolution": 28, "channels": 1, "latent": 8, "width": 4} | options)
    with torch.no_grad():
        for parameter in network.parameters():  # larger than at the start, so that a wrong one shows
            parameter.mul_(5)
    network(torch.randn(64, 8))  # batch norm's statistics
    return network


@pytest.mark.parametrize("options", [{}, {"resolution": 64, "channels": 3}, {"name": "mlp"}])
def test_the_file_computes_what_the_network_computes_at_any_batch(tmp_path, options):
    network = generator(**options)
    path = tmp_path / "generator.onnx"
    figures = export(network, path, latent_shape=(8,), about={"step": 7})
    assert [row["batch"] for row in figures["parity"]] == [1, 3, 64]
    assert max(row["max_abs_error"] for row in figures["parity"]) <= 1e-4
    assert json.loads((tmp_path / "generator.onnx.json").read_text()) == figures
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generator.onnx", "generator.onnx.json"]

    domains = {(i.domain or "ai.onnx") for i in onnx.load(path).opset_import}
    assert domains == {"ai.onnx"}
    session = Session(path)
    assert session.about["step"] == 7
    z = latents(17, (8,), 3)
    assert network.training  # the original is as it was
    expected = network.eval()(torch.from_numpy(z)).detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(session(z), expected, atol=1e-4)


class Different(nn.Module):
    """Computes other things when traced than when called."""

    def forward(self, z):
        return torch.tanh(z * (2.0 if torch.compiler.is_exporting() else 1.0))


class Random(nn.Module):
    def forward(self, z):
        return torch.tanh(z + torch.randn_like(z))


class NotANumber(nn.Module):
    def forward(self, z):
        return torch.sqrt(z)  # NaN for negative latents, in both


@pytest.mark.parametrize("network", [Different(), Random(), NotANumber()])
def test_a_wrong_export_is_refused_and_an_older_file_stays(tmp_path, network):
    path = tmp_path / "generator.onnx"
    path.write_text("older")
    with pytest.raises(ExportError, match=r".+"):
        export(network, path, latent_shape=(8,))
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["generator.onnx"]


def test_spectral_norm_is_folded(tmp_path):
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)), nn.Tanh())
    export(network, tmp_path / "g.onnx", latent_shape=(8,))
    assert network[0].weight.shape == (4, 8)  # the original still has its norm, and the class that reads it
    initializers = {i.name for i in onnx.load(tmp_path / "g.onnx").graph.initializer}
    assert not any("parametrizations" in name for name in initializers)


def test_session_refuses_what_is_no_exported_generator(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        Session(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match="is no ONNX file"):
        Session(tmp_path / "broken.onnx")
    export(generator(), tmp_path / "g.onnx", latent_shape=(8,))
    model = onnx.load(tmp_path / "g.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="was not written by fastgan export"):
        Session(tmp_path / "foreign.onnx")
    with pytest.raises(UsageError, match=r"z: expected \[N, 8\], got \[2, 9\]"):
        Session(tmp_path / "g.onnx")(np.zeros((2, 9), np.float32))


def test_latents_are_standard_normal_and_repeat():
    z = latents(2000, (8,), seed=1)
    assert z.dtype == np.float32
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    assert np.array_equal(z, latents(2000, (8,), seed=1))
    assert not np.array_equal(z, latents(2000, (8,), seed=2))
