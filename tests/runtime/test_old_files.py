"""Files that earlier versions of fastgan exported can still be opened. The files are in tests/data_old."""

from pathlib import Path

import numpy as np
import pytest

from fastgan.runtime import Session
from fastgan.runtime.session import latents
from fastgan.runtime.spec import Spec

MODEL = Path(__file__).parents[1] / "data_old" / "generator-mlp-0.1.0.onnx"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_onnx_file_of_version_0_1(backend):
    """The numbers were computed by the code of version 0.1."""
    pytest.importorskip(backend)
    session = Session(MODEL, backend=backend, threads=1)
    assert session.spec == Spec("latent", latent_shape=(4,), channels=1)
    assert session.about == {
        "step": 40, "dataset": "embedded", "model": "mlp", "to": "onnx", "precision": "fp32", "fastgan": "0.1.0",
        "opset": 18,
    }  # fmt: skip
    images = session(latents(2, (4,), 0))
    assert images.shape == (2, 1, 28, 28)
    corner = [-0.131998, -0.337063, 0.233253, -0.157252, 0.191207, 0.186819, -0.094957, -0.363119, 0.231917, -0.058956]
    np.testing.assert_allclose(images[0, 0, ::4, ::5].ravel()[:10], corner, atol=2e-6)
    row = [-0.003324, 0.458207, -0.015233, -0.116446, -0.013581, 0.320592, 0.307003, -0.336204]
    np.testing.assert_allclose(images[1, 0, 6, :8], row, atol=2e-6)
    np.testing.assert_allclose([images.mean(), images.std()], [-0.00188812, 0.25161955], atol=1e-6)


def test_the_report_beside_it(capsys):
    import json

    from fastgan.cli.export import print_figures

    print_figures(json.loads(MODEL.with_name(MODEL.name + ".json").read_text()))
    assert "parity at batch 64: max abs error 4.4e-07 (allowed 1e-06), PSNR 151.5 dB" in capsys.readouterr().out
