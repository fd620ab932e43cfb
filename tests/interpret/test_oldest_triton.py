"""The compile tests with the Triton of the oldest supported torch: 2.11 brings 3.6, and other tests run a newer one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

OLDEST = "3.6.0"
ROOT = Path(__file__).parents[2]
NAMES = "targets", "convolutions", "filtered_lrelu", "resampling"
FILES = [f"tests/interpret/test_compile_{name}.py" for name in NAMES]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kernel_compiles_with_the_oldest_triton(tmp_path):
    """In a folder of its own, which the process that compiles searches first. With every assertion of these tests."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, f"triton=={OLDEST}"],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("triton-*.whl")
    packages = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for tool in packages.glob("triton/backends/nvidia/bin/*"):
        tool.chmod(0o755)  # zipfile drops the permissions
    environment = {**os.environ, "KERNEL_COMPILER_PACKAGES": str(packages)}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-m", "not full", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
