"""Mutated weights."""

import io
from pathlib import Path
from random import Random

import mutations


def _state():
    import torch

    from fastgan.models.esrgan.srvgg import SRVGGNetCompact

    torch.manual_seed(0)
    return SRVGGNetCompact(2, 3, 4, 1, 2).state_dict()


def pth_seeds(_):
    import torch

    found = []
    for value, options in (
        (_state(), {}),
        ({"params_ema": _state()}, {}),
        (_state(), {"_use_new_zipfile_serialization": False}),
    ):
        out = io.BytesIO()
        torch.save(value, out, **options)
        found.append(out.getvalue())
    return found


def pth_tensors(random: Random, data: bytes) -> bytes:
    """A tensor of another kind under a right name: with stride 0, sparse, nested, quantized, on "meta", complex, ..."""
    import warnings

    import torch

    state = dict(_state())
    name = random.choice(list(state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [
            lambda: torch.zeros(1).expand(40_000, 40_000, 3, 3),
            lambda: torch.zeros(1).expand(12_000, 3, 3, 3),
            lambda: torch.zeros(1, dtype=torch.float64).expand(4_000_000_000),
            lambda: torch.empty(4, 3, 3, 3, device="meta"),
            lambda: torch.zeros(4, 3, 3, 3).to_sparse(),
            lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.complex64),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.bool),
            lambda: torch.quantize_per_tensor(torch.zeros(4, 3, 3, 3), 0.1, 0, torch.qint8),
            lambda: torch.zeros(()),
            lambda: torch.zeros(0, 3, 3, 3),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.float8_e4m3fn),
            lambda: "text",
            lambda: None,
            lambda: [1, 2],
            lambda: 10**40,
            lambda: torch.zeros(3, 3).to_sparse_csr(),
            lambda: torch.full((4, 3, 3, 3), float("nan")),
            lambda: torch.nn.Parameter(torch.zeros(1).expand(2**20, 3, 3, 3)),
            lambda: torch.zeros(*[1] * 60),
        ]
        value = random.choice(made)()
    if random.random() < 0.2:
        name = random.choice((1, None, "body.\0.weight", "\udc80", "a" * 10_000, "body.-1.weight", ("a", 1)))
    state[name] = value
    if random.random() < 0.3:
        state = {
            key: torch.zeros(1).expand(2000, *value.shape[1:])
            if isinstance(value, torch.Tensor) and not value.is_nested and value.dim()
            else value
            for key, value in state.items()
        }
    if random.random() < 0.1:
        for _ in range(800):
            state = {"params_ema": state}
    out = io.BytesIO()
    try:
        torch.save(state, out)
    except Exception:  # some have no file format
        return mutations.of_bytes(random, data)
    return out.getvalue()


def open_weights(path: Path) -> object:
    from fastgan.models import esrgan

    return esrgan.load(path)


def safetensors_seeds(_):
    from safetensors.torch import save

    return [save(_state()), save({key: value.half() for key, value in _state().items()}, {"note": "x"})]


def safetensors_header(random: Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = mutations.of_json(random, data[8 : 8 + size])
    stated = random.choice((len(header), len(header), len(header), 2**31, 2**40, 2**64 - 1, 0))
    return stated.to_bytes(8, "little") + header + data[8 + size :]


def ncnn_seeds(_):
    param = b"""7767517
8 9
Input            data   0 1 data
Split            split  1 2 data a b
Convolution      conv0  1 1 a c 0=4 1=3 4=1 5=1 6=108
PReLU            act    1 1 c d 0=4
Convolution      conv1  1 1 d e 0=12 1=3 4=1 5=1 6=432
PixelShuffle     shuf   1 1 e f 0=2
Interp           up     1 1 b g 0=1 1=2.0 2=2.0
BinaryOp         add    2 1 f g output 0=0
"""
    return [param]


def open_ncnn(path: Path) -> object:
    path.with_suffix(".bin").write_bytes(bytes(4 + 4 * 108 + 16 + 16 + 4 + 4 * 432 + 48))
    return open_weights(path)
