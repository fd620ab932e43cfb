"""The Triton kernels on the CPU, through Triton's interpreter. It must be chosen before triton is imported, and it
stays for the life of a process: hence one of its own."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
# Triton 3.6 turns arrays of one element into integers, which NumPy warns of and from 2.4 on refuses.
NUMPY = "ignore:Conversion of an array with ndim:DeprecationWarning"
#: The contract took 240 s on one machine and more than 500 on a slower one beside other tests.
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


@pytest.mark.parametrize("file", ["test_contract.py", "test_contract_memory.py"])
def test_the_contract_holds_in_the_interpreter(file):
    interpret("-k", "cpu-triton", f"tests/ops/{file}")


def test_the_convolutions_agree_with_the_reference_in_the_interpreter():
    interpret("tests/ops/test_conv_triton.py")


def test_groups_of_weights_hold_in_the_interpreter():
    interpret("-k", "cpu-triton", "tests/ops/test_spectral_norm.py")
