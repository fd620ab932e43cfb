"""The options of the random degradations, with Real-ESRGAN's names and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastgan._util.keyword_options import nearest
from fastgan._util.table_file import read_table_file
from fastgan.degradation.blur import KINDS
from fastgan.degradation.resizing import MODES
from fastgan.errors import UsageError

Range = tuple[float, float]
#: Real-ESRGAN's names of KINDS of blur kernels, and their weights.
_KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
_KERNEL_PROB = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


@dataclass(frozen=True)
class Settings:
    """Probabilities and ranges; names that end with 2 are of the second pass. Defaults: the paper's.

    blur_kernel_size: largest side of a kernel in pixels, odd. kernel_prob: weights of the kernels iso, aniso,
    generalized_iso, generalized_aniso, plateau_iso and plateau_aniso. sinc_prob: probability of a low-pass filter in
    place of these. blur_sigma: pixels. betag_range, betap_range: β of generalized and plateau kernels.
    second_blur_prob: probability that the second pass blurs. resize_prob: weights of enlarging, reducing and keeping
    the size, by a scale in resize_range. resize_modes: names of `fastgan.degradation.resize`, each as likely.
    gaussian_noise_prob: probability of Gaussian rather than Poisson noise. noise_range: its standard deviation in gray
    levels. poisson_scale_range: factor of Poisson noise. gray_noise_prob: probability that it is gray. jpeg_range:
    quality. final_sinc_prob: probability of a low-pass filter at the end.
    Raises UsageError for values out of range.
    """

    blur_kernel_size: int = 21
    kernel_prob: tuple[float, ...] = _KERNEL_PROB
    sinc_prob: float = 0.1
    blur_sigma: Range = (0.2, 3.0)
    betag_range: Range = (0.5, 4.0)
    betap_range: Range = (1.0, 2.0)
    resize_prob: tuple[float, ...] = (0.2, 0.7, 0.1)
    resize_range: Range = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    noise_range: Range = (1.0, 30.0)
    poisson_scale_range: Range = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: Range = (30.0, 95.0)
    second_blur_prob: float = 0.8
    blur_kernel_size2: int = 21
    kernel_prob2: tuple[float, ...] = _KERNEL_PROB
    sinc_prob2: float = 0.1
    blur_sigma2: Range = (0.2, 1.5)
    betag_range2: Range = (0.5, 4.0)
    betap_range2: Range = (1.0, 2.0)
    resize_prob2: tuple[float, ...] = (0.3, 0.4, 0.3)
    resize_range2: Range = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: Range = (1.0, 25.0)
    poisson_scale_range2: Range = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    jpeg_range2: Range = (30.0, 95.0)
    final_sinc_prob: float = 0.8
    resize_modes: tuple[str, ...] = ("area", "bilinear", "bicubic")

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name.removesuffix("2"), getattr(self, field.name)
            if problem := _problem(name, value):
                raise UsageError(f"{field.name}: expected {problem}, got {value}")


#: Of a range: what both ends lie between.
_LIMITS = {
    "blur_sigma": (1e-3, 100.0),
    "betag_range": (1e-3, 100.0),
    "betap_range": (1e-3, 100.0),
    "resize_range": (1e-3, 100.0),
    "noise_range": (0.0, 255.0),
    "poisson_scale_range": (0.0, 100.0),
    "jpeg_range": (1.0, 100.0),
}
_WEIGHTS = {"kernel_prob": len(KINDS), "resize_prob": 3}


def _problem(name: str, value: Any) -> str:
    """What a value should have been, or ""."""
    if name == "blur_kernel_size":
        return "" if isinstance(value, int) and value > 0 and value % 2 else "an odd number of pixels"
    if name == "resize_modes":
        return "" if value and set(value) <= MODES.keys() else f"names among {', '.join(MODES)}"
    if name in _WEIGHTS:
        count = _WEIGHTS[name]
        fits = len(value) == count and min(value) >= 0 and sum(value) > 0
        return "" if fits else f"{count} weights >= 0"
    if name in _LIMITS:
        low, high = _LIMITS[name]
        fits = len(value) == 2 and low <= value[0] <= value[1] <= high
        return "" if fits else f"two rising numbers from {low:g} to {high:g}"
    return "" if 0 <= value <= 1 else "a probability from 0 to 1"


def read_settings(path: str | Path) -> Settings:
    """Settings of a .yaml, .toml or .json file with the names of their fields, or of Real-ESRGAN's own option files.

    In the latter, which have a `model_type`, fields are at the top level and in `datasets.train`; `kernel_list` names
    the kernels of `kernel_prob`; everything else is passed over.
    Raises UsageError where the file cannot be read, for an unknown name, and for values out of range.
    """
    content = read_table_file(Path(path), "degradation")
    if not isinstance(content, dict):
        raise UsageError(f"degradation: expected a table of settings in {path}, got {type(content).__name__}")
    known, given = [field.name for field in fields(Settings)], dict(content)
    if "model_type" in content:
        sets = content.get("datasets")
        train = sets.get("train") if isinstance(sets, dict) else None
        both = {**content, **train} if isinstance(train, dict) else content
        own = (*known, "kernel_list")
        given = {name: value for name, value in both.items() if str(name).startswith(own)}
    for suffix in ("", "2"):
        if (listed := given.pop(f"kernel_list{suffix}", None)) is not None:
            name = f"kernel_prob{suffix}"
            given[name] = _in_order(name, listed, given.get(name, _KERNEL_PROB), path)
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"degradation: {path} has the unknown setting {name!r}{nearest(str(name), known)}")
        default = getattr(Settings, name)
        is_list = isinstance(default, tuple)
        if isinstance(value, list) is not is_list or not all(_fits(each, default) for each in _each(value)):
            raise UsageError(f"{name}: expected a value such as {_shown(default)} in {path}, got {value!r}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return Settings(**values)


def _in_order(name: str, listed: Any, weights: Any, path: str | Path) -> list[float]:
    """Weights of named kernels in the order of `kernel_prob`."""
    if not (isinstance(listed, list) and isinstance(weights, list | tuple) and len(listed) == len(weights)) or not set(
        map(str, listed)
    ) <= set(_KERNELS):
        raise UsageError(
            f"{name}: expected a weight for each kernel of kernel_list in {path}, which are some of"
            f" {', '.join(_KERNELS)}; got {listed} and {weights}"
        )
    found: Mapping[str, float] = dict(zip(listed, weights, strict=True))
    return [found.get(kernel, 0.0) for kernel in _KERNELS]


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default: a number, or a name."""
    wanted = default[0] if isinstance(default, tuple) else default
    kinds = str if isinstance(wanted, str) else int if isinstance(wanted, int) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _shown(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
