import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def made(tmp_path):
    """made(target): what make would run, in a copy of the files that it looks at, with an environment that exists."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "fastgan").mkdir()
    (tmp_path / "fastgan" / "a.py").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()

    def run(target):
        done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.replace(str(tmp_path), "")

    return run


def test_pip_runs_only_where_something_changed(made, tmp_path):
    assert "pip" in made("lint")
    (tmp_path / ".venv" / "dev").touch()
    assert "pip" not in made("lint")
    assert "ruff check" in made("lint")
    later = time.time() + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert "pip" in made("test")


def test_the_demo_installs_a_copy_which_any_changed_file_replaces(made, tmp_path):
    (tmp_path / ".venv" / "dev").touch()
    assert "pip" in made("demo")
    assert "rm -f .venv/dev" in made("demo")
    (tmp_path / ".venv" / "demo").touch()
    assert "pip" not in made("demo")
    later = time.time() + 10
    os.utime(tmp_path / "fastgan" / "a.py", (later, later))
    assert "pip" in made("demo")
