"""Which precision the Triton convolutions take for float32 products, also where old and new switches are mixed."""

import pytest
import torch

from fastgan.ops.conv.triton_launch import precision

X = torch.zeros(1)


@pytest.fixture(autouse=True)
def _restored():
    """By the old switch, which sets the new ones too."""
    torch.backends.cudnn.allow_tf32 = True
    matmul = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = matmul
    torch.backends.cudnn.allow_tf32 = True


def test_the_old_switch_decides():
    assert precision(X) == "tf32"
    torch.backends.cudnn.allow_tf32 = False
    assert precision(X) == "ieee"


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_mixed_switches_do_not_raise(setting):
    torch.backends.cudnn.allow_tf32 = setting == "ieee"
    torch.backends.cudnn.conv.fp32_precision = setting
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError):  # PyTorch's own check, which a call of an op must not run into
        torch.backends.cudnn.allow_tf32  # noqa: B018
    assert precision(X) == setting


def test_other_dtypes_are_multiplied_as_they_are():
    assert {precision(X.to(dtype)) for dtype in (torch.float16, torch.bfloat16, torch.float64)} == {"ieee"}
