"""benchmarks/gpu.sh and the kernels that are compiled beforehand for it."""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import ceilings
import precompile as precompile_module
import pytest

ROOT = Path(__file__).parents[1]


def test_the_script_for_a_gpu_calls_what_exists(tmp_path, monkeypatch):
    words = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    parts = [line.split(": ", 1) for line in done.stdout.splitlines()]
    assert len(parts) > 10
    names = [head.split()[0] for head, _ in parts]
    assert names[:4] == ["tests", "ceilings", "host_cuda", "steps_cuda"]
    assert len(set(names)) == len(names)
    for _, command in parts:
        given = shlex.split(command)
        scripts = [word for word in given if word.startswith("benchmarks/")]
        for script in scripts:
            assert (ROOT / script).is_file()
            rest = given[given.index(script) + 1 :]
            floors = str(tmp_path / "ceilings.csv")
            if floors in rest and not Path(floors).exists():
                ceilings.main(["--seconds", "0.001", "--out", floors])
            module = importlib.import_module(Path(script).stem)
            options = module.arguments(["cpu" if word == "cuda" else word for word in rest])
            assert options.device == "cpu"
    asked = subprocess.run([*words, "steps_cuda"], capture_output=True, text=True, check=True).stdout
    assert asked.count("\n") == 1


def test_the_script_for_a_gpu_keeps_to_its_budget(tmp_path):
    words = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", str(tmp_path), "tests"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "BUDGET": "65"}
    )
    assert done.stdout.startswith("tests 60: ")


PYTHON = """#!/bin/bash
# In place of Python: notes its script, and what becomes of it.
all="$*"
case $all in
    *benchmarks/*) script=${all#*benchmarks/}; name=${script%%.py*} ;;
    *"-m pytest "*) name=pytest ;;
    *) exit 0 ;;
esac
echo "$name" >>"$CALLS"
[ "$name" = host ] && exit 3
[ "$name" = "$SLOW" ] && exec sleep 60
exit 0
"""


@pytest.mark.slow  # waits until a part is cut off
def test_the_script_for_a_gpu_skips_what_is_complete_and_goes_on_after_failures(tmp_path):
    python, calls, results = tmp_path / "python", tmp_path / "calls", tmp_path / "results"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(slow="", budget="590"):
        calls.write_text("")
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "CALLS": str(calls), "SLOW": slow, "BUDGET": budget}
        words = [str(ROOT / "benchmarks" / "gpu.sh"), str(results)]
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60)
        return done.returncode, calls.read_text().split(), done.stdout

    # The fourth part takes longer than the budget: it is cut off, which is no failure, and the rest is not started.
    code, called, said = call(slow="run", budget="17")
    assert called == ["pytest", "ceilings", "host", "run"]
    assert "host_cuda: exit 3" in said
    assert "steps_cuda: exit 124" in said
    assert "profile_cuda: not started" in said
    assert code == 1  # host
    assert sorted(path.stem for path in results.glob("*.done")) == ["ceilings", "tests"]
    code, called, said = call()
    assert called[:4] == ["host", "run", "profile_steps", "convolutions"]
    assert "tests: complete" in said
    assert (results / "steps_cuda.done").exists()
    assert call()[1] == ["host"]


PRECOMPILE = """
import collections, sys
import triton
import precompile
from fastgan.testing.cases import CASES

hits = collections.Counter()
triton.knobs.compilation.listener = lambda *, cache_hit, **_: hits.update([cache_hit])
precompile.CASES = [case for case in CASES if case.name == "bias_act-silu"]
precompile.steps.STEPS = []
precompile.stylegan_ops.entries = lambda: []
precompile.convolutions.LAYERS = (precompile.convolutions.LAYERS[1],) if sys.argv[1:] else ()
precompile.convolutions.passes = lambda layer: ("conv_slope",)
code = precompile.main([])
print(code, hits[False], hits[True])
"""


def test_kernels_compiled_beforehand_are_found_where_the_cache_is_copied_to(tmp_path):
    pytest.importorskip("triton")

    def precompile(cache, *words):
        env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, "-c", PRECOMPILE, *words], capture_output=True, text=True, cwd=ROOT / "benchmarks",
            env={**env, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        code, compiled, found = map(int, done.stdout.splitlines()[-1].split())
        assert code == 0
        assert not done.stderr, done.stderr
        return compiled, found

    compiled, found = precompile(tmp_path / "first", "convolutions")
    # Forward, backward and its backward in two layouts and dtypes; all candidates of one convolution.
    assert compiled >= 12 + 4
    assert found == 0
    assert len(list((tmp_path / "first").rglob("*.cubin"))) == compiled
    shutil.move(tmp_path / "first", tmp_path / "second")
    assert precompile_module.relocate(tmp_path / "second") == compiled
    assert precompile(tmp_path / "second", "convolutions") == (0, compiled)
