"""README and docs: links resolve, named commands and flags exist, tables hold the measured figures, the site builds."""

import ast
import csv
import importlib
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("**/*.md")])
REFERENCE = ("ops", "nn", "losses", "degradation", "tasks", "engine", "export", "runtime", "upscale")
#: Flags of other programs that the pages name.
FOREIGN_FLAGS = {
    "--standalone", "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint",  # torchrun
    "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--signal", "--requeue",  # SLURM
    "--rm", "--gpus", "--model-repository",  # docker and Triton server
    "--durations", "--dist",  # pytest
    "--create-dirs", "--check",  # curl, sha256sum
}  # fmt: skip


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@cache
def prose(page):
    """The text of a page without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


@cache
def code(page):
    """The code of a page, blocks and spans, a line or a span each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.S | re.M)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`]+)`", prose(page))


def anchors(page):
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_has_the_usual_headings():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    headings = re.findall(r"^## (.*)$", readme, flags=re.M)
    assert headings[:6] == ["Quickstart", "Install", "Performance", "Training", "Export and deployment", "Features"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_script_and_make_target_exists(page):
    text = " ".join(page.read_text().split())
    scripts = set(re.findall(r"(?:python |^| |`)((?:benchmarks|examples)/[\w/]+\.(?:py|sh))", text))
    missing = [script for script in scripts if not (ROOT / script).is_file()]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    missing += [f"make {name}" for name in re.findall(r"`make ([\w-]+)", text) if name not in targets]
    assert not missing


def test_commands_of_the_pages_are_commands_of_the_program():
    from fastgan.cli import COMMANDS

    found = (re.match(r"(?:.*-m )?fastgan ([a-z]+)\b", text) for page in PAGES for text in code(page))
    named = {match[1] for match in found if match}
    assert named <= set(COMMANDS)
    assert len(named) > 8


def test_every_flag_of_the_pages_exists():
    """Some source file defines each `--flag`, as a string or as the field of a dataclass."""
    sources = [ROOT / "fastgan" / "doctor.py"]
    for package in ("cli", "train", "losses", "metrics", "regularization"):
        sources += (ROOT / "fastgan" / package).glob("*.py")
    sources += [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples/studies").glob("*.py")]
    known = set()
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                known.add("--" + node.target.id.strip("_").replace("_", "-"))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                known.update(re.findall(r"--[a-z][a-z0-9-]*", node.value))
    unknown = {}
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # it names old flags too
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?![\w.])", page.read_text()):
            if flag not in known | FOREIGN_FLAGS:
                unknown.setdefault(name_of(page), set()).add(flag)
    assert not unknown


def table(name):
    with (ROOT / "benchmarks" / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def row(name, **wanted):
    """The one row of a CSV file in which these columns have these values."""
    (found,) = [r for r in table(name) if all(r[column] == value for column, value in wanted.items())]
    return found


def line(page, start, after=""):
    """The numbers in a row of a table: the row that begins with `start`, the first one behind the text `after`."""
    text = page.read_text()
    rest = text[text.index(after) :]
    (cells,) = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", rest, flags=re.M)[:1]
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", cells)]


CPU_STEPS = {
    "gradient penalty, forward and backward: DCGAN": "gradient_penalty",
    "R1, forward and backward: discriminator of six blocks": "r1_six_blocks",
    "WGAN-GP discriminator step": "wgan_gp_discriminator_step",
    "hinge discriminator step": "sngan_discriminator_step",
}


@pytest.mark.parametrize("start", CPU_STEPS)
def test_steps_on_the_cpu_are_as_measured(start):
    def ratio(provider, layout):
        return float(row("cpu.csv", case=CPU_STEPS[start], provider=provider, layout=layout)["ratio_vs_eager"])

    last = [ratio(name, "channels_last") for name in ("fastgan", "fastgan+compile", "eager+compile")]
    assert line(ROOT / "README.md", start) == last
    assert line(ROOT / "docs" / "performance.md", start) == [ratio("fastgan", "contiguous"), *last]


def test_iterations_on_the_cpu_are_as_measured():
    def ratio(provider, preset):
        return float(row("training.csv", preset=preset, provider=provider, precision="fp32")["ratio_vs_eager"])

    for start, preset in (("WGAN-GP 64×64", "wgan-gp-64"), ("DCGAN 64×64", "dcgan-64")):
        best = max(ratio(name, preset) for name in ("eager channels_last", "compile"))
        found = line(ROOT / "README.md", f"`Trainer`, whole iteration: {start}")
        assert found == [ratio("fastgan", preset), ratio("fastgan+compile", preset), best]


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_steps_on_a_gpu_are_as_measured_and_compare_graphs_with_graphs(page):
    cases = [
        ("gradient penalty, DCGAN", "the first", "gradient_penalty", "256x3x64x64", "float32"),
        ("the same, bf16", "batch 256, TF32", "gradient_penalty", "256x3x64x64", "bfloat16"),
        ("gradient penalty, batch 64", "", "gradient_penalty", "64x3x64x64", "float32"),
        ("the same, bf16", "gradient penalty, batch 64", "gradient_penalty", "64x3x64x64", "bfloat16"),
        ("WGAN-GP discriminator step with Adam, batch 64", "", "wgan_gp_discriminator_step", "64x3x64x64", "float32"),
    ]
    for start, after, case, shape, dtype in cases:
        what = {"case": case, "shape": shape, "dtype": dtype, "layout": "channels_last"}
        plain, ours = (float(row("steps_cuda.csv", provider=name, **what)["graph_ms"]) for name in ("eager", "fastgan"))
        found = line(ROOT / page, start, after if after != "the first" else "")
        assert found == [round(plain, 2), round(ours, 2), round(plain / ours, 1)], start


def test_tables_of_a_gpu_have_wall_host_and_graph_times():
    """The clock before left out time of the host. Its rows are withdrawn, except for replays of graphs."""
    for path in (ROOT / "benchmarks" / "results").glob("*_cuda.csv"):
        for measured in table(path.name):
            assert {"wall_ms", "host_ms", "graph_ms", "cache"} <= set(measured), path.name
            assert not {"median_ms", "iteration_ms"} & set(measured), path.name
            assert bool(measured["wall_ms"]) == bool(measured["host_ms"]), measured
            assert bool(measured["graph_ms"]) == (measured["cache"] in ("cleared", "rotated")), measured
            if measured.get("wall_vs_eager") or measured.get("images_per_second"):
                assert measured["wall_ms"], measured


PERFORMANCE = ROOT / "docs" / "performance.md"


def check(start, after, expected):
    """Compare a row of docs/performance.md with (value, ratio) pairs, rounded as on the page; a ratio may be None."""
    flat = [number for pair in expected for number in pair if number is not None]
    found = line(PERFORMANCE, start, after)
    assert len(found) == len(flat), start
    for shown, measured in zip(found, flat, strict=True):
        digits = 2 if measured < 0.5 else 1 if shown != int(shown) or measured < 10 else 0
        ratio = any(measured == pair[1] for pair in expected)
        assert shown == pytest.approx(measured, abs=0.006 if ratio else 0.51 * 10**-digits), start


def speeds(name, preset, *wanted, unit="images_per_second", **columns):
    """(speed, ratio) of the best row for each (precision, providers); nothing where no such row was measured."""
    found = []
    for precision, providers in wanted:
        rows = [
            r
            for r in table(name)
            if r.get("preset", r.get("case")) == preset
            and r["precision"] == precision
            and r["provider"] in providers
            and r["ratio_vs_eager"]
            and all(r[column] == value for column, value in columns.items())
        ]
        if rows:
            best = max(rows, key=lambda r: float(r["ratio_vs_eager"]))
            ratio = None if providers == ["eager"] else float(best["ratio_vs_eager"])
            found.append((float(best[unit]), ratio))
    return found


RUNTIMES = ["fastgan torch", "fastgan compile", "onnxruntime", "openvino"]
PLAIN, OURS = ["eager channels_last", "compile"], ["fastgan", "fastgan+compile"]


@pytest.mark.parametrize(
    ("start", "preset"),
    [
        ("DCGAN 64², batch norm", "dcgan-64"),
        ("WGAN-GP 64²", "wgan-gp-64"),
        ("SNGAN ResNet 32²", "sngan-resnet-32"),
        ("R1, non-saturating, 128²", "r1-128"),
    ],
)
def test_table_of_iterations_on_the_cpu(start, preset):
    wanted = [("fp32", ["eager"]), ("fp32", PLAIN), ("fp32", OURS), ("bf16", PLAIN), ("bf16", OURS)]
    check(start, "## Whole iterations on the CPU", speeds("training.csv", preset, *wanted))


@pytest.mark.parametrize(
    ("start", "preset"),
    [
        ("`mlp`", "mlp (original)"),
        ("`dcgan`", "dcgan, R1"),
        ("`resnet` 32² of SNGAN", "resnet (SNGAN)"),
        ("`resnet` 32² of WGAN-GP", "resnet (WGAN-GP)"),
        ("`biggan`", "biggan"),
        ("`progan`", "progan"),
        ("`r3gan`", "r3gan"),
    ],
)
def test_table_of_families_on_the_cpu(start, preset):
    wanted = [("fp32", [name]) for name in ("eager", *PLAIN, *OURS)]
    check(start, "The networks of", speeds("families.csv", preset, *wanted))


@pytest.mark.parametrize(
    ("start", "case", "batch", "psnr"),
    [
        ("SRVGGNetCompact ×2", "srvgg-x2", "1", None),
        ("realesr-animevideov3-x2", "srvgg-x2-animevideo", "1", 41.1),
        ("realesr-animevideov3-x4", "srvgg-x4-animevideo", "1", 41.7),
        ("realesrgan-x4plus", "rrdbnet-x4", "1", None),
        ("DCGAN 64², one image", "dcgan-64", "1", None),
        ("DCGAN 64², 64 images", "dcgan-64", "64", None),
    ],
)
def test_table_of_exported_networks(start, case, batch, psnr):
    wanted = [("fp32", ["eager"]), ("fp32", PLAIN), ("fp32", RUNTIMES), ("fp32", ["ncnn"]), ("int8", RUNTIMES)]
    found = speeds("deploy.csv", case, *wanted, unit="fps", batch=batch, task="model")
    check(start, "## Exported networks", [*found, (psnr, None)])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_reference_has_every_public_name(site):
    missing = []
    for package in REFERENCE:
        page = (site / "reference" / f"{package}.html").read_text()
        module = importlib.import_module(f"fastgan.{package}")
        for name in module.__all__:
            if not (inspect.isclass(public := getattr(module, name)) or inspect.isroutine(public)):
                continue  # constants and type aliases have no docstrings
            if not re.search(rf'id="fastgan\.[\w.]*\.{name}"', page):
                missing.append(f"fastgan.{package}.{name}")
    assert not missing


def test_the_site_loads_nothing_from_another_host(site):
    loaded = []
    for path in site.rglob("*.html"):
        loaded += re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:[^\s\">]+)", path.read_text())
        loaded += [
            tag for tag in re.findall(r"<link[^>]*href=\"?https?:[^>]*>", path.read_text()) if "canonical" not in tag
        ]
    assert not loaded
