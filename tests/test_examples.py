"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES.glob("*.py")])
def test_runs(name, tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / name, "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.png"))
