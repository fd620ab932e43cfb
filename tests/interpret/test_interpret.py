"""The Triton kernels on the CPU, through Triton's interpreter, in processes of its own: it must be chosen before triton
is imported, for the whole process.

By default each op runs in float32 on one core case; the full run takes all cases and dtypes (tests/ops/conftest.py)."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
# Triton 3.6 converts arrays of one element to integers, which NumPy warns of and refuses from 2.4 on.
NUMPY = "ignore:Conversion of an array with ndim:DeprecationWarning"
#: The whole contract took 240 s on one computer, and more than 500 on a slower one with other tests running.
SECONDS = 1500


def _release(package):
    return tuple(int(part) for part in version(package).split(".")[:2])


pytestmark = [
    pytest.mark.timeout(SECONDS + 60),
    pytest.mark.skipif(
        _release("triton") == (3, 6) and _release("numpy") >= (2, 4),
        reason="the interpreter of Triton 3.6 does not work with NumPy 2.4",
    ),
]


def interpret(*words):
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=short", "-W", NUMPY, *words]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FASTGAN_BACKEND": "triton"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    # pytest exits with 5, not 0, when nothing was selected.
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


CONTRACT = ["tests/ops/test_contract.py", "tests/ops/test_contract_memory.py"]
SUITE = [
    *CONTRACT,
    "tests/ops/test_channel_scale_triton.py",
    "tests/ops/test_conv_triton.py",
    "tests/ops/test_elementwise_triton.py",
    "tests/ops/test_filtered_lrelu_triton.py",
    "tests/ops/test_instance_norm_triton.py",
    "tests/ops/test_spectral_norm.py",
    "tests/ops/test_upfirdn2d_triton.py",
]
#: All cases of these run by default.
NOTHING_FULL = tuple(
    f"tests/ops/test_{name}_triton.py"
    for name in ("channel_scale", "elementwise", "filtered_lrelu", "instance_norm", "upfirdn2d")
)


def test_one_case_of_each_op_passes_in_the_interpreter():
    interpret("-k", "cpu-triton or _triton.py", "-m", "not full", *SUITE)


@pytest.mark.full
@pytest.mark.parametrize("file", [file for file in SUITE if file not in NOTHING_FULL])
def test_all_other_cases_pass_in_the_interpreter(file):
    interpret("-k", "cpu-triton or _triton.py", "-m", "full", file)
