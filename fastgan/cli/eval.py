"""fastgan eval: FID, KID and other metrics of generated images against real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fastgan._util.files import not_a_source, overwritable
from fastgan._util.locks import locked
from fastgan.cli._parse import parse
from fastgan.cli._source import code, no_code
from fastgan.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fastgan.data import ImageSet

_BATCH = 100


@dataclass
class _Eval:
    """Evaluate samples against real images. A metric's name holds its protocol: only values of the same name are
    comparable. docs/metrics.md explains which metric to use."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL.onnx|SOURCE")]
    """what to evaluate: a run, an exported generator, or a source of images"""
    against: str
    """the real images: a name or path as for --data"""
    metrics: str = ""
    """some of fid,kid,is,pr,dc,class_fid,spectral,diversity,copies (all of these when left out), cas,c2st (these
    train classifiers), psnr,ssim (paired)"""
    extractor: str = "auto"
    """feature extractor: digits, efficientnet, inception, inception_legacy, a file of weights, or auto"""
    n: int = 5000
    """number of samples, and largest number of real images"""
    seed: int = 0
    """seed of the latents and of the choice of images"""
    device: str = "auto"
    """cpu, cuda or cuda:N"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    out: Path | None = None
    """JSON file to write, with c2st.png beside it for c2st; the results of a run are written into RUN as well"""
    overwrite: bool = False
    """replace existing files"""


def evaluate(argv: list[str]) -> None:
    """fastgan eval RUN|MODEL.onnx|SOURCE --against DATA [--metrics fid,kid] [--extractor NAME] [--n 5000] ..."""
    options = parse(_Eval, argv, "eval")
    if options.n < 2:
        raise UsageError(f"n: expected at least 2 images, got {options.n}")
    from fastgan.metrics import evaluate as evaluation
    from fastgan.metrics.extractors import open_extractor
    from fastgan.metrics.registry import METRICS, select
    from fastgan.train.device import resolve_device

    device = resolve_device(options.device)
    names = select(options.metrics or None)
    if options.out is not None:
        for path in (options.out, options.out.with_name("c2st.png")) if "c2st" in names else (options.out,):
            not_a_source(path, options.source, options.against, options.extractor)
            overwritable(path, options.overwrite)
    samples, facts = _samples(options.source, options.n, options.seed, device, options.network)
    reference, warnings = _reference(options.against, samples.images.shape[1:])
    needs = any(METRICS[name].network for name in names if name != "copies")
    extractor = open_extractor(options.extractor, reference, device) if needs else None
    found = evaluation.evaluate(samples, reference, extractor, metrics=names, n=options.n, seed=options.seed)
    found.facts.update(facts)
    found.warnings.extend(warnings)
    print(f"{facts['what']} against {reference.name}" + (f", by {extractor.about}" if extractor else ""))
    print(found.describe())
    run = Path(options.source) if facts["kind"] == "run" else None
    _write(found.to_json(), options.out, run)
    _write_pictures(found.pictures, {path for path in (run, options.out and options.out.parent) if path is not None})


def _samples(
    source: str, n: int, seed: int, device: torch.device, network: str | None = None
) -> tuple[ImageSet, dict[str, Any]]:
    """n samples of a run or an exported generator, or the images of a source; and facts about them."""
    from fastgan.data import ImageSet, open_source

    path = Path(source)
    is_run = (path / "config.json").is_file()
    if not is_run:
        no_code(network, source)
    if path.suffix == ".onnx":
        images, labels, names = _from_file(path, n, seed)
        return ImageSet(images, labels, path.stem, "", names), {"kind": "model", "what": f"{n:,} samples of {path}"}
    if is_run:
        images, labels, names, step = _from_run(path, n, seed, device, network)
        what = f"{n:,} samples of {path} at step {step:,}"
        return ImageSet(images, labels, path.name, "", names), {"kind": "run", "what": what, "step": step}
    found = open_source(source)
    return found, {"kind": "source", "what": f"{found.name} ({len(found):,} images)"}


_Samples = tuple["np.ndarray", "np.ndarray | None", tuple[str, ...] | None]


def _from_run(run: Path, n: int, seed: int, device: torch.device, network: str | None) -> tuple[*_Samples, int]:
    """Images, the class of each where the generator is conditional, the names of the classes, and the step."""
    import torch

    from fastgan.runtime.session import latents
    from fastgan.train.networks import load_generator
    from fastgan.train.samples import sample

    trained = load_generator(run, network=code(network))
    trained.require_latents()
    generator = trained.generator.to(device)

    def draw(z: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        return sample(generator, torch.from_numpy(z), device, None if y is None else torch.from_numpy(y))

    images, labels = _draw(draw, latents(n, trained.latent_shape, seed), trained.classes, trained.range)
    return images, labels, trained.class_names or None, trained.step


def _from_file(path: Path, n: int, seed: int) -> _Samples:
    from fastgan.runtime.pair import open_generator
    from fastgan.runtime.session import latents

    session = open_generator(path)
    spec = session.spec
    if spec.kind != "latent":
        why = "; run it, and give the folder of its images instead" if spec.kind == "image" else ""
        raise UsageError(f"model: expected a generator from latents, got one from {spec.origin} in {path}{why}")
    found = _draw(session, latents(n, spec.latent_shape, seed), spec.classes, spec.range)
    return *found, session.class_names or None


def _draw(
    generator: Callable[..., Any], z: np.ndarray, classes: int, span: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 [N, C, H, W] from latents, in batches, and their labels (0, 1, 2, ... in turn) if there are classes.

    Raises DataError if an image is not finite.
    """
    import numpy as np

    from fastgan.report.images import to_uint8
    from fastgan.runtime.labels import in_turn

    low, high = span
    labels = in_turn(len(z), classes) if classes else None
    parts = []
    for start in range(0, len(z), _BATCH):
        batch = slice(start, start + _BATCH)
        images = np.asarray(generator(z[batch]) if labels is None else generator(z[batch], labels[batch]))
        if not np.isfinite(images).all():
            raise DataError("the generator returns images that are NaN or infinite")
        parts.append(to_uint8((images - low) * (2 / (high - low)) - 1))
    return np.concatenate(parts), labels


def _reference(source: str, shape: tuple[int, ...]) -> tuple[ImageSet, list[str]]:
    """The real images, resized to the shape of the samples where they differ, and a warning that says so."""
    from fastgan.data import open_source

    reference = open_source(source)
    original = reference.images.shape[1:]
    if original == shape:
        return reference, []
    channels, height, width = shape
    if height != width:
        raise UsageError(
            f"against: expected images {list(shape)} as the samples, got {list(original)}; only square images can be"
            " resized"
        )
    reference = open_source(source, resolution=height, channels=channels)
    return reference, [
        f"the real images were {list(original)}; cropped and resized (LANCZOS) to {list(shape)}, as for training"
    ]


def _write(result: dict[str, Any], out: Path | None, run: Path | None) -> None:
    from fastgan._util.files import write_whole

    if out is not None:
        try:
            write_whole(out, json.dumps(result, indent=1).encode())
        except OSError as error:
            raise UsageError(f"out: {out} cannot be written: {error.strerror or error}") from error
        print(f"results: {out}")
    if run is not None:
        path = run / "eval.json"
        with locked(run):
            write_whole(path, json.dumps([*_earlier(path, result), result], indent=1).encode())
        print(f"results: {path}")
        from fastgan.report.page import write_report

        write_report(run)


def _write_pictures(pictures: dict[str, np.ndarray], folders: set[Path]) -> None:
    from fastgan.report.images import save_grid

    for name, images in pictures.items():
        for folder in folders:
            print(
                f"picture: {save_grid(images, folder / f'{name}.png', columns=8, scale=max(1, 64 // images.shape[3]))}"
            )
        if not folders:
            print(f"with --out FILE.json there is a picture beside it: {name}.png")


def _earlier(path: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations that the file of a run holds already, without earlier ones of the same metrics and settings."""
    if not path.exists():
        return []
    same = ("step", "reference", "extractor", "samples", "reference_images", "seed")
    try:
        rows = json.loads(path.read_text())
        names = {row["name"] for row in result["rows"]}
        return [
            old
            for old in rows
            if any(old[key] != result[key] for key in same) or {row["name"] for row in old["rows"]} - names
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); move it away") from error
