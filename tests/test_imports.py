"""The architecture, held by its imports (the table is in the README of the house: CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan

ROOT = Path(fastgan.__file__).parent

#: room → rooms it may import from. Everybody may import the FREE ones.
ALLOWED = {
    "_native": set(),
    "ops": {"_native"},
    "nn": {"ops"},
    "models": {"ops", "nn"},
    "losses": {"ops"},
    "engine": {"ops"},
    "data": set(),
    "report": set(),
    "metrics": {"data", "models", "ops"},
    "train": {"_native", "ops", "engine", "nn", "models", "losses", "data", "metrics", "report"},
    "export": {"models", "nn", "ops", "runtime"},
    "runtime": {"nn"},
    "testing": {"_native", "ops", "nn", "models", "losses"},
    "doctor": {"export", "runtime", "ops"},
    "cli": {"train", "export", "runtime", "upscale", "data", "report", "doctor", "metrics"},
}
FREE = {"errors", "_util"}


def imported_by(path):
    """Modules below fastgan that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "fastgan" else [f"fastgan.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "fastgan")


def test_imports_run_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", *FREE):
            continue
        assert room in ALLOWED, f"{path}: a new room needs a line in this table"
        for name in imported_by(path):
            other = name.split(".")[1] if "." in name else ""
            if other not in FREE | ALLOWED[room] | {room, "__version__"}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_only_env_reads_the_environment():
    readers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"_env.py"}


@pytest.mark.parametrize(
    "module",
    [
        "fastgan",
        "fastgan.data",
        "fastgan.cli",
        "fastgan.runtime.session",
        "fastgan.runtime.generate",
        "fastgan.upscale.video",
        "fastgan.upscale.video.pipeline",
        "fastgan.report.page",
    ],
)
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'triton', 'onnxruntime', 'av') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_importing_everything_touches_neither_triton_nor_cuda():
    code = (
        "import sys, torch, fastgan\n"
        "before = 'triton' in sys.modules\n"
        "for name in fastgan.__all__: getattr(fastgan, name)\n"
        "print(before, 'triton' in sys.modules, torch.cuda.is_initialized())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False", "False"]


def test_import_is_quick():
    """Beyond torch's own, importing fastgan and its ops takes under 0.3 s."""
    code = (
        "import torch, torch.library, time; start = time.perf_counter()\n"
        "import fastgan; fastgan.ops; print(time.perf_counter() - start)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(times) < 0.3


def test_curated_names():
    assert fastgan.__all__ == sorted(fastgan.__all__)
    assert set(fastgan.__all__) <= set(dir(fastgan))
    for name in fastgan.__all__:
        assert getattr(fastgan, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastgan.nothing
