import ast
from pathlib import Path

import pytest

import fastgan
from fastgan import Config
from fastgan._util.options import as_flags, named, option
from fastgan.cli import run
from fastgan.errors import UsageError


def test_options_are_arguments_in_python_and_flags_on_the_command_line():
    assert option("d_norm", "none") == "d_norm='none'"
    assert option("resume", True) == "resume=True"
    assert option("batch") == "batch"
    with as_flags():
        assert option("d_norm", "none") == "--d-norm none"
        assert option("resume", True) == "--resume"
        assert named("a penalty (--r1-weight), --d-norm spectral") == "a penalty (--r1-weight), --d-norm spectral"
    assert named("a penalty (--r1-weight), --d-norm spectral") == "a penalty (r1_weight), d_norm spectral"
    assert named("a -- b, x--y, ---") == "a -- b, x--y, ---"


def test_one_error_in_both_words(capsys):
    with pytest.raises(UsageError, match=r"d_norm: batch norm couples .*; use d_norm='none' or spectral"):
        Config.from_flags(loss="wgan-gp", d_norm="batch")
    assert run(["train", "--loss", "wgan-gp", "--d-norm", "batch"]) == 2
    assert "use --d-norm none or spectral" in capsys.readouterr().err


def test_no_error_of_the_library_names_a_flag():
    """In the packages that Python calls; `option` names them."""
    found = []
    for package in ("train", "tasks", "regularization", "losses", "data", "metrics", "models", "nn", "engine"):
        for path in (Path(fastgan.__file__).parent / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
                    texts = [
                        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    found += [f"{path.name}: {text}" for text in texts if isinstance(text, str) and named(text) != text]
    assert not found
