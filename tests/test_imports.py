"""The architecture, held by its imports (the tree is in CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan

ROOT = Path(fastgan.__file__).parent

#: package → packages that it may import from. Every one may import the FREE ones.
ALLOWED = {
    "ops": set(),
    "nn": {"ops"},
    "models": {"nn", "ops"},
    "losses": {"engine", "models", "ops"},
    "regularization": {"losses", "nn", "ops"},
    "degradation": {"ops"},
    "tasks": {"degradation", "losses", "metrics", "models", "nn", "regularization"},
    "engine": {"ops"},
    "data": set(),
    "report": set(),
    "metrics": {"data", "losses", "models", "ops"},
    "train": {"data", "engine", "losses", "metrics", "models", "nn", "ops", "regularization", "report", "tasks"},
    "runtime": {"nn"},
    "export": {"models", "nn", "ops", "runtime"},
    "upscale": {"export", "models", "runtime"},
    "augmentation": {"data", "metrics", "report"},
    "editing": {"engine", "losses", "runtime"},
    "testing": {"losses", "models", "nn", "ops"},
    "doctor": {"export", "ops", "runtime"},
    "cli": {
        "augmentation",
        "data",
        "doctor",
        "editing",
        "engine",
        "export",
        "metrics",
        "models",
        "report",
        "runtime",
        "tasks",
        "train",
        "upscale",
    },
}
FREE = {"_util", "errors"}


def imports_of(path, types=True):
    """Modules below fastgan that a file imports anywhere, also inside functions. types: those for type checkers too."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from fastgan.train import state` imports a module, `from fastgan.train.state import save` a function.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if module_path(name) else node.module for name in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "fastgan")


def module_path(name):
    """The file of a module below fastgan, or None."""
    base = ROOT.parent / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def test_imports_run_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in ("__init__", "__main__", *FREE):
            continue
        assert package in ALLOWED, f"{path}: a new package needs a line in this table"
        for name in imports_of(path):
            other = name.split(".")[1] if "." in name else ""
            if other not in {"", package} | FREE | ALLOWED[package]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_util_imports_no_other_package():
    wrong = [
        f"{path.name} imports {name}"
        for path in (ROOT / "_util").rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[1] not in FREE
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["train", "tasks", "regularization", "runtime", "export", "report", "engine"])
def test_no_import_cycle_inside_a_package(package):
    """At run time; imports for type checkers alone do not count. A package's __init__ collects, and is left out."""
    files = {
        path: f"fastgan.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        for path in (ROOT / package).rglob("*.py")
    }
    graph = {
        name: {other for other in imports_of(path, types=False) if other in files.values() and other != name}
        for path, name in files.items()
        if path.name != "__init__.py"
    }
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"in a cycle, or importing one: {sorted(graph)}"


def test_only_env_reads_the_environment():
    readers = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"_util/env.py"}


@pytest.mark.parametrize(
    "module",
    [
        "fastgan",
        "fastgan.data",
        "fastgan.export",
        "fastgan.upscale",
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
    """Beyond torch's own, importing fastgan and its ops takes under 0.3 s of the processor's time."""
    code = (
        "import torch, torch.library, time; start = time.process_time()\n"
        "import fastgan; fastgan.ops; print(time.process_time() - start)"
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
