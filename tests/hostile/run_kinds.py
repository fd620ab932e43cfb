"""Tampered run directories and mutated configuration files."""

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from random import Random

import mutations
from array_kinds import _zip_of, npz_seeds
from weight_kinds import safetensors_header

#: Flags of the run that is tampered with: seconds in all.
RUN = (
    "--model=mlp", "--width=4", "--latent=4", "--steps=4", "--checkpoint-every=2", "--sample-every=2",
    "--log-every=1", "--batch=4", "--device=cpu", "--compile=off",
)  # fmt: skip
_STEP = "checkpoints/00000004"
_RUN_FILES = (
    *["config.json"] * 3, *["metrics.jsonl"] * 2, "status.json", "layers.json", "eval.json", "generator.onnx.json",
    *[f"{_STEP}/state.json"] * 2, f"{_STEP}/SHA256SUMS", f"{_STEP}/ema.safetensors", f"{_STEP}/optimizer.safetensors",
    "samples/fixed-00000004.png",
)  # fmt: skip


def run_seeds(folder: Path) -> list[bytes]:
    from fastgan import cli

    run = folder / "run"
    data = folder / "tiny.npz"
    data.write_bytes(npz_seeds(folder)[0])
    assert cli.run(["train", f"--data={data}", f"--out={run}", *RUN]) == 0
    (run / "eval.json").write_text(
        json.dumps(
            [{"step": 4, "data": "tiny", "fid": 1.5, "samples": 10, "extractor": "digits", "real": {"fid": 0.5}}]
        )
    )
    (run / "generator.onnx").write_bytes(b"")
    (run / "generator.onnx.json").write_text(
        json.dumps({"step": 4, "parity": [{"batch": 1, "max_abs_error": 1e-6}], "runtime": {"provider": "CPU"}})
    )
    for name in set(_RUN_FILES):
        assert (run / name).is_file(), name
    shutil.make_archive(str(folder / "run"), "zip", run)
    return [(folder / "run.zip").read_bytes()]


def run_tamper(random: Random, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    name = random.choice(_RUN_FILES)
    if name.endswith(".jsonl"):
        way = mutations.of_json_lines
    elif name.endswith(".json") and random.random() < 0.8:
        way = mutations.of_json
    elif name.endswith(".safetensors") and random.random() < 0.6:
        way = safetensors_header
    else:
        way = mutations.of_bytes
    files[name] = way(random, files[name])
    if name.startswith("checkpoints") and not name.endswith("SUMS"):  # as whoever tampers with it would
        folder = name.rpartition("/")[0]
        files[f"{folder}/SHA256SUMS"] = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {each.rpartition('/')[2]}\n"
            for each, content in files.items()
            if each.startswith(folder) and not each.endswith("SUMS")
        ).encode()
    return _zip_of(files)


_RUN_COMMANDS = (
    ("report", "{run}"),
    ("compare", "{run}", "{good}", "--out", "{out}/c.html"),
    ("sample", "{run}", "--n", "2", "--out", "{out}/g.png"),
    ("sample", "{run}", "--n", "2", "--keep-best", "0.5", "--out", "{out}/g.png"),
    ("train", "--resume", "{run}", "--steps", "5"),
    ("export", "{run}", "--out", "{out}/g.onnx"),
)


def open_run(path: Path) -> object:
    """One of the commands that read runs; which, the content decides."""
    from fastgan import cli

    folder = path.parent
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "run")
    shutil.copytree(folder.parent / "seeds" / "run", folder / "good")
    words = _RUN_COMMANDS[zlib.crc32(path.read_bytes()) % len(_RUN_COMMANDS)]
    return cli.run(["--debug", *(w.format(run=folder / "run", good=folder / "good", out=folder) for w in words)])


TOML = b"""steps = 7
seed = 3
[optim]
lr_g = 1e-3
beta1 = 0.5
[data]
batch = 8
source = "embedded"
[logging]
log_every = 5
"""
YAML = b"""steps: 7
seed: 3
optim:
  lr_g: 1e-3
  beta1: 0.5
data: {batch: 8, source: embedded}
model:
  family: mlp
  options: {}
"""
JSON = b'{"steps": 7, "seed": 3, "optim": {"lr_g": 0.001, "beta1": 0.5}, "data": {"batch": 8}}'


def open_config(path: Path) -> object:
    from fastgan.cli import train

    return train._options(["--config", str(path)])
