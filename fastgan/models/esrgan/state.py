"""Builds the network that a state dict belongs to, from the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isqrt

import torch
from torch import Tensor, nn

from fastgan._util.schema import shown_name
from fastgan._util.weight_files import check_tensors
from fastgan.errors import DataError
from fastgan.models.esrgan.rrdb import UNSHUFFLE, RRDBNet
from fastgan.models.esrgan.srvgg import SRVGGNetCompact

#: Names of older RRDBNet checkpoints → current names: those of ESRGAN's release, then those of the release before it.
_OLD_NAMES = (
    (r"RRDB_trunk\.(\d+)\.RDB([1-3])\.(conv[1-5])\.(weight|bias)", r"body.\1.rdb\2.\3.\4"),
    (r"trunk_conv\.(weight|bias)", r"conv_body.\1"),
    (r"upconv([12])\.(weight|bias)", r"conv_up\1.\2"),
    (r"HRconv\.(weight|bias)", r"conv_hr.\1"),
    (r"model\.0\.(weight|bias)", r"conv_first.\1"),
    (r"model\.1\.sub\.(\d+)\.RDB([1-3])\.(conv[1-5])\.0\.(weight|bias)", r"body.\1.rdb\2.\3.\4"),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"model\.3\.(weight|bias)", r"conv_up1.\1"),
    (r"model\.6\.(weight|bias)", r"conv_up2.\1"),
    (r"model\.8\.(weight|bias)", r"conv_hr.\1"),
    (r"model\.10\.(weight|bias)", r"conv_last.\1"),
)


def from_state(state: Mapping[str, Tensor], *, scale: int | None = None) -> RRDBNet | SRVGGNetCompact:
    """The RRDBNet or SRVGGNetCompact with these weights, in eval mode and float32, on the CPU.

    Scale, channels, width, growth and the number of blocks follow from names and shapes. Names of older ESRGAN
    checkpoints and the prefix "module." are supported. scale: of an SRVGGNetCompact with a bicubic downsampling after
    its pixel shuffle, which has no weights; None means no downsampling. Raises DataError for another network, a
    missing or unexpected key, a wrong shape, and weights that are no plain tensors, not floating point or not finite.
    """
    check_tensors(state)
    state = {_current_name(key): value for key, value in state.items()}
    if "conv_first.weight" in state:
        make: Callable[[], RRDBNet | SRVGGNetCompact] = _rrdb(state)
    elif "body.0.weight" in state:
        make = _srvgg(state, scale)
    else:
        first = ", ".join(map(shown_name, list(state)[:3])) or "none"
        raise DataError(
            "expected the keys of RRDBNet (conv_first.weight, ...) or SRVGGNetCompact (body.0.weight, ...);"
            f" the first keys are: {first}"
        )
    with torch.device("meta"):  # no allocation and no random numbers for weights that are replaced
        network = make()
    _check(state, network)
    if scale not in (None, network.scale):
        raise DataError(f"scale: expected {scale}, got weights of a ×{network.scale} network")
    network.load_state_dict({key: state[key].detach().float() for key in network.state_dict()}, assign=True)
    return network.eval()


def _current_name(key: str) -> str:
    key = key.removeprefix("module.")
    for pattern, name in _OLD_NAMES:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key


def _rrdb(state: Mapping[str, Tensor]) -> Callable[[], RRDBNet]:
    width, first = _shape(state, "conv_first.weight")[:2]
    channels = _shape(state, "conv_last.weight")[0]
    growth = _shape(state, "body.0.rdb1.conv1.weight")[0]
    scales = {channels * side**2: scale for scale, side in UNSHUFFLE.items()}
    if first not in scales:
        expected = ", ".join(f"{n} (×{scale})" for n, scale in scales.items())
        raise DataError(
            f"conv_first.weight has {first} input channels and conv_last.weight {channels} outputs: expected"
            f" {expected} inputs"
        )
    # Count distinct numbers rather than take the highest: one wrong key must not build a huge network.
    blocks = len({key.split(".")[1] for key in state if key.startswith("body.")})
    return lambda: RRDBNet(scales[first], channels, width, growth, blocks)


def _srvgg(state: Mapping[str, Tensor], scale: int | None) -> Callable[[], SRVGGNetCompact]:
    width, channels = _shape(state, "body.0.weight")[:2]
    layers = len({key.split(".")[1] for key in state if key.startswith("body.")})
    if layers < 3 or layers % 2 == 0:
        raise DataError(f"expected convolutions with a PReLU between each two, body.0 to body.{{even}}, got {layers}")
    last = f"body.{layers - 1}.weight"
    out = _shape(state, last)[0]
    shuffle = isqrt(out // channels)
    if shuffle < 1 or out != channels * shuffle**2:
        raise DataError(f"{last} has {out} output channels: expected {channels} times the square of a scale")
    return lambda: SRVGGNetCompact(scale or shuffle, channels, width, (layers - 3) // 2, shuffle)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """The shape [out, in, height, width] of a convolution's weight. Raises DataError for another shape."""
    if key not in state:
        raise DataError(f"{key} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != 4 or 0 in shape:
        raise DataError(f"{key} has shape {list(shape)}: expected [out, in, 3, 3]")
    return shape


def _check(state: Mapping[str, Tensor], network: nn.Module) -> None:
    kind = type(network).__name__
    expected = network.state_dict()
    for problem, keys in (("is missing", expected.keys() - state), ("is unexpected", state.keys() - expected)):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise DataError(f"{shown_name(min(keys))}{more} {problem} in a {kind}")
    for key, parameter in expected.items():
        value = state[key]
        if value.shape != parameter.shape:
            raise DataError(f"{key} has shape {list(value.shape)}: expected {list(parameter.shape)} in this {kind}")
        if not value.is_floating_point():
            raise DataError(f"{key} has dtype {value.dtype}: expected floating point")
        if not value.float().isfinite().all():
            raise DataError(f"{key} has values that are NaN or infinite")
