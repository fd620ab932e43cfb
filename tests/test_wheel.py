"""The package installed without compiler, Triton and GPU."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "csrc", "fastgan")


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory):
    """A folder with fastgan installed from a wheel that was built with compilers that fail."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source).mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    for built in source.rglob("*.so"):
        built.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    env = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false", "FASTGAN_CUDA": "0"}
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(base), str(source)], env=env, check=True)
    (wheel,) = base.glob("fastgan-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(base / "site"), str(wheel)], check=True)
    return wheel, base / "site"


# An editable install would provide modules that the wheel lacks.
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]\n"


def run(site, code, cwd):
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", ALONE + code], env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_contains_the_package_and_nothing_else(without_compiler):
    names = zipfile.ZipFile(without_compiler[0]).namelist()
    for name in ("fastgan/py.typed", "fastgan/cuda_sources/spectral_norm.cuh", "fastgan/cuda_sources/primitives.cuh",
                 "fastgan/report/templates/page.css", "fastgan/report/templates/run.html.j2",
                 "fastgan/data/embedded/t10k-images-idx3-ubyte.gz",
                 "fastgan/data/embedded/LICENSE"):  # fmt: skip
        assert name in names
    assert not [name for name in names if name.endswith((".so", ".cpp", ".cu")) or name.startswith(("tests", "csrc"))]


@pytest.mark.slow
def test_it_works_without_compiler_and_triton_and_reports_what_is_missing(without_compiler, tmp_path):
    site = without_compiler[1]
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fastgan, torch; print(fastgan.__file__)\n"
        "from fastgan.ops import bias_act\n"
        "x = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)\n"
        "torch.autograd.gradcheck(bias_act, (x, torch.randn(3, dtype=torch.double)))\n"
        "from fastgan._util import nvrtc; print('device code:', *nvrtc.device_sources())\n"
        "from fastgan.doctor import examine; print(examine())"
    )
    said = run(site, code, tmp_path)
    assert str(site) in said
    assert "fastgan._cpu was not built: no working compiler was found" in said
    assert "apt install g++" in said
    assert re.search(r"device code: .*spectral_norm\.cuh", said)
    assert "triton is not installed" in said
    assert "bias_act             on cpu: reference" in said

    train = "from fastgan.cli import main; main('train demo --steps 2 --width 4 --batch 8 --out run'.split())"
    assert "trained 2 steps" in run(site, train, tmp_path)
    assert (tmp_path / "run" / "report.html").exists()
