"""What `fastgan project`, `edit` and `sample --mix` share: generators with styles, and files of w."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan._util.files import failure, write_whole
from fastgan._util.weight_files import read_safetensors
from fastgan.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    from torch import Tensor


#: Of the files of w.
SUFFIX = ".safetensors"


def open_styles(source: str, network: str | None, device: str = "cpu") -> tuple[Any, Sequence[str]]:
    """The generator that a user names, in eval mode on a device, and the names of its classes (or ()).

    An exported pair is an `ExportedGenerator`. Raises UsageError for one without `mapping` and `synthesis`, and what
    opening raises.
    """
    from fastgan.cli._source import no_code, open_source
    from fastgan.editing import ExportedGenerator
    from fastgan.editing.styles import require_styles
    from fastgan.runtime.pair import StylePair, is_pair
    from fastgan.train.device import resolve_device

    if is_pair(path := Path(source)):
        no_code(network, source)
        pair = StylePair.open(path, device=device)
        return ExportedGenerator(pair), pair.class_names
    if path.suffix.lower() == ".onnx":
        raise UsageError(f"source: styles are inside of {source}; give its two halves, of fastgan export --pair")

    where = resolve_device(device)
    found, _, about = open_source(source, network)
    return require_styles(found).eval().requires_grad_(False).to(where), about.get("class_names", ())


def class_number(label: str | None, generator: Any, names: Sequence[str]) -> int | None:
    """The class that --class names. None where it is left out."""
    from fastgan.runtime.labels import number_of

    return None if label is None else number_of(label, int(getattr(generator, "classes", 0)), names)


def target_of(path: Path, generator: Any) -> Tensor:
    """The middle square of a picture, float [1, C, H, W] in [-1, 1] of the generator's size."""
    import torch

    from fastgan.data.pixels import decode

    channels, side, _ = generator.image_shape
    try:
        pixels = decode(path, channels, side)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
        raise DataError(f"{path} cannot be read as a picture: {first_line(error)}") from error
    return torch.tensor(pixels)[None].float() / 127.5 - 1


def w_of(text: str, generator: Any, label: int | None, psi: float) -> tuple[Tensor, dict[str, Tensor]]:
    """w [N, num_ws, w_dim] and noise maps of a file of `fastgan project`, or of seeds such as 0-3 or 1,5."""
    from fastgan.cli.run_model import parse_seeds
    from fastgan.editing.styles import noise_shapes, require_w, w_of_seeds, weight_of

    if not text.endswith(SUFFIX):
        return w_of_seeds(generator, parse_seeds(text), label, psi), {}
    w, noise = read_w(Path(text))
    device = weight_of(generator).device
    require_w(w, generator, f"w of {text}")
    shapes = noise_shapes(generator)
    for name, one in noise.items():
        if shapes.get(name) != tuple(one.shape):
            raise UsageError(f"w: {text} has noise of another generator: {name} {[*one.shape]}")
    return w.to(device), {name: one.to(device) for name, one in noise.items()}


def images_of_w(generator: Any, w: Tensor, noise: dict[str, Tensor], batch: int = 8) -> Tensor:
    """float [N, C, H, W] on the CPU, with constant noise."""
    import torch

    from fastgan.editing.styles import images_of

    return torch.cat([images_of(generator, part, noise).float().cpu() for part in w.split(batch)])


def save_w(path: Path, w: Tensor, noise: dict[str, Tensor]) -> None:
    """Write w and noise maps as safetensors, whole or not at all."""
    from safetensors.torch import save

    arrays = {"w": w.cpu().contiguous()} | {f"noise/{name}": one.cpu().contiguous() for name, one in noise.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(arrays))
    except OSError as error:
        raise failure(path, error) from error


def read_w(path: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """w and noise maps of a file that `save_w` wrote. Raises DataError for anything else."""
    try:
        found = read_safetensors(path)
    except (OSError, DataError) as error:
        raise DataError(f"{path} is no file of fastgan project: {error}") from error
    if "w" not in found:
        raise DataError(f"{path} is no file of fastgan project: it has no tensor w")
    noise = {name.removeprefix("noise/"): one.float() for name, one in found.items() if name.startswith("noise/")}
    return found["w"].float(), noise


def save_mix(source: str, network: str | None, mix: tuple[str, str], layers: str | None, psi: float, out: Path) -> str:
    """A grid of mixed styles: rows keep the style of their seed but for `layers`, which are those of the column's.

    mix: seeds of rows and of columns, such as ("0-3", "4-9"), or files of `fastgan project`. The first row and the
    first column show them unmixed. Returns what was written, in words.
    """
    import torch

    from fastgan.cli.run_model import parse_seeds
    from fastgan.editing import mixed
    from fastgan.report.images import grid, save_png, to_uint8

    generator, _ = open_styles(source, network, "auto")
    # The noise is that of the generator: a projected image's own would fit one row or column alone.
    rows, columns = (w_of(text, generator, None, psi)[0] for text in mix)
    w = mixed(generator, rows, columns, None if layers is None else parse_seeds(layers))
    across, down, inside = (images_of_w(generator, part, {}) for part in (columns, rows, w))
    pictures = [torch.ones_like(across[:1]), across]
    for i, row in enumerate(inside.split(len(columns))):
        pictures += [down[i : i + 1], row]
    pixels = to_uint8(torch.cat(pictures).numpy())
    save_png(grid(pixels, columns=len(columns) + 1, scale=max(1, 64 // pixels.shape[-1])), out)
    return f"{len(rows)} × {len(columns)} styles mixed: {out}"
