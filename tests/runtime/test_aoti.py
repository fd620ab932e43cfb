"""Opening AOTInductor packages; tests/export/test_aoti.py compiles some."""

import zipfile

import pytest
import torch

from fastgan.errors import ExportError, UsageError
from fastgan.runtime.backends.aoti import Package, load
from fastgan.runtime.spec import Spec

SPEC = Spec("latent", latent_shape=(5,), classes=3)


def test_other_files(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path / "none.pt2")
    (tmp_path / "empty.pt2").touch()
    with pytest.raises(ExportError, match="is no package of PyTorch's compiler"):
        load(tmp_path / "empty.pt2")
    with zipfile.ZipFile(tmp_path / "other_tool.pt2", "w") as file:
        file.writestr("model/wrapper_metadata.json", '{"AOTI_MACHINE": "x86_64"}')
    with pytest.raises(ExportError, match="was not written by fastgan export"):
        load(tmp_path / "other_tool.pt2")


def test_labels_are_checked_before_native_code_runs():
    package = Package(lambda z, y: z, SPEC, {"device": "cpu"})
    z = torch.zeros(2, 5)
    assert package(z, torch.tensor([0, 2])) is z
    for y in (None, torch.tensor([0, 3]), torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([0, 1]).int()):
        with pytest.raises(UsageError, match="y: expected"):
            package(z, *([] if y is None else [y]))
    with pytest.raises(UsageError, match="y: expected no labels, got 1 inputs"):
        Package(lambda z: z, Spec("latent", latent_shape=(5,)), {"device": "cpu"})(z, torch.tensor([0, 1]))
