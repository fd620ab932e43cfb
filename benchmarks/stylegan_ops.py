"""The operations of StyleGAN2 and StyleGAN3 at 256×256: fastgan, plain PyTorch, and a copy of the same bytes.

    python benchmarks/stylegan_ops.py [--device cuda] [--batch N] [--ceilings CSV] [--resume] [--out CSV]

upfirdn2d as it occurs in the networks (images of the generator upsampled, the filter after a transposed convolution,
downsampling in the discriminator's skip path), the passes around a modulated convolution, and modulated convolutions
beside the plain convolution of the same shape; filtered_lrelu of StyleGAN3-T's two kinds of layers, and its derivative.
`of_copy` is the share of the copy's bandwidth that is reached,
`vs_convolution` the speed relative to the plain convolution (0.77 means 1.3 times its time). Everything is compared
with fastgan's reference before it is timed. On a GPU the time is that of a CUDA graph over several sets of inputs, with
wall and host time besides.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ceilings import Ceilings
from table import GPU_TIMES, Row, device_name, gpu_times, has, ms, print_table, ratio, resumed, write
from torch import Tensor

import fastgan
from fastgan.ops import channel_dot, channel_scale, filtered_lrelu, modulated_conv2d, scale_noise_bias_act, upfirdn2d
from fastgan.ops._autotune import wrong_result
from fastgan.ops._backend import backend
from fastgan.ops.channel_scale.epilogue import grad_op
from fastgan.ops.filtered_lrelu.register import adjoint, filtered_lrelu_linear_op
from fastgan.testing.timing import captured, times
from fastgan.train.device import float32_products

#: Side of the images and channels there, and the channels and sides of the convolutions.
SIDE, CHANNELS, LAYERS = 256, 64, ((64, 256), (256, 64), (512, 16))
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.bfloat16, torch.float16, torch.float32)}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
KEY = ("op", "shape", "dtype", "layout", "candidate", "device", "torch", "fastgan")
COLUMNS = (*KEY, *GPU_TIMES, "of_copy", "vs_convolution", "floor_ms", "floor_share", "note")
#: Sets of inputs of a graph: together larger than the L2 cache, see run.py.
ROTATED_BYTES, MOST_SETS = 2**27, 8
_GAIN = 2**0.5

Function = Callable[..., Any]


@dataclass(frozen=True)
class Entry:
    """An operation on images of `size` [C, H, W]. candidates: by name, functions of the image and what `draw` adds."""

    op: str
    size: tuple[int, int, int]
    draw: Callable[[Tensor], tuple[Tensor, ...]]
    candidates: dict[str, Function]

    @property
    def flops(self) -> int:
        """Of a sample, where they and not the bytes may be the limit."""
        channels, height, width = self.size
        return 2 * 9 * channels**2 * height * width if "convolution" in self.candidates else 0


def entries() -> list[Entry]:
    c, side = CHANNELS, SIDE
    found = [
        _resampling("upfirdn2d up (images)", (3, side // 2, side // 2), up=2, padding=(2, 1), gain=4.0),
        _resampling("upfirdn2d filter", (c, side + 1, side + 1), padding=(1, 1), gain=4.0),
        _resampling("upfirdn2d down", (c, side, side), down=2, padding=(1, 1)),
    ]
    size = (c, side, side)
    found += [
        Entry("channel_scale", size, _scale, {"fastgan": channel_scale, "PyTorch": lambda x, s: x * _spread(s, x)}),
        Entry("channel_dot", size, _other, {"fastgan": channel_dot, "PyTorch": lambda a, b: (a * b).sum((2, 3))}),
        Entry("scale_noise_bias_act", size, _all, {"fastgan": scale_noise_bias_act, "PyTorch": _plain_epilogue}),
        Entry("scale_noise_bias_act_grad", size, _all_grad, {"fastgan": _epilogue_grad, "PyTorch": _plain_grad}),
    ]
    found += [entry for up in (2, 4) for entry in _filtered(up)]
    # Last, since autotuning compiles many kernels for them.
    layer = {"fastgan": _modulated, "convolution": lambda x, w, s: F.conv2d(x, w.to(x.dtype), padding=1)}
    return found + [Entry("modulated_conv2d", (c, n, n), _weight_and_styles, layer) for c, n in LAYERS]


def _resampling(
    name: str,
    size: tuple[int, int, int],
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (1, 1),
    gain: float = 1.0,
) -> Entry:
    pads = (*padding, *padding)

    def plain(x: Tensor, taps: Tensor) -> Tensor:
        f = (torch.outer(taps, taps) * gain).to(x.dtype).flip(0, 1).expand(x.shape[1], 1, 4, 4)
        if up > 1:  # padding (2, 1) of the zero-inserted image
            return F.conv_transpose2d(x, f.flip(2, 3), stride=up, padding=1, groups=x.shape[1])
        return F.conv2d(F.pad(x, (padding[0], padding[1]) * 2), f, stride=down, groups=x.shape[1])

    ours = functools.partial(upfirdn2d, up=up, down=down, padding=pads, gain=gain)
    return Entry(name, size, lambda x: (torch.tensor([1.0, 3, 3, 1], device=x.device) / 8,),
                 {"fastgan": ours, "PyTorch": plain})  # fmt: skip


def _filtered(up: int) -> list[Entry]:
    """Forward without masks, and the derivative: 6 taps for each pixel, down by 2, to SIDE + 20."""
    side = SIDE * 2 // up + 22  # with the margin, and that of a convolution
    total = (SIDE + 19) * 2 + 1 - side * up + 6 * up + 12 - 2
    before = (total + up) // 2
    pads = (before, total - before) * 2
    options: dict[str, Any] = {"up": up, "down": 2, "padding": pads, "clamp": 256.0}

    def taps(x: Tensor) -> tuple[Tensor, Tensor]:
        found = (torch.hann_window(n + 2, periodic=False, device=x.device)[1:-1] for n in (6 * up, 12))
        first, second = (f / f.sum() for f in found)
        return first, second

    def draw(x: Tensor) -> tuple[Tensor, ...]:
        return _normal(x, x.shape[1]), *taps(x)

    def plain(x: Tensor, bias: Tensor, first: Tensor, second: Tensor) -> Tensor:
        c = x.shape[1]
        kernel = (torch.outer(first, first) * up**2).to(x.dtype).expand(c, 1, -1, -1)
        u = F.conv_transpose2d(x + bias.to(x.dtype).view(1, -1, 1, 1), kernel, stride=up, groups=c)
        u = F.pad(u, (before - 6 * up + 1, total - before - 5 * up) * 2)
        u = (F.leaky_relu(u, 0.2) * _GAIN).clamp(-256, 256)
        return F.conv2d(u, torch.outer(second, second).to(x.dtype).expand(c, 1, -1, -1), stride=2, groups=c)

    high = (SIDE + 19) * 2 + 12
    x, y = (torch.empty(1, 1, n, n, device="meta") for n in (side, SIDE + 20))
    paddings = adjoint(x, y, *taps(torch.empty(0)), (up, up), (2, 2), pads, (0, 0, 0, 0))

    def masks(dy: Tensor) -> tuple[Tensor, ...]:
        size = (*dy.shape[:2], high, -(-high // 4))
        return torch.randint(256, size, dtype=torch.uint8, device=dy.device), *taps(dy)

    def derivative(dy: Tensor, masks: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return filtered_lrelu_linear_op(dy, masks, second, first, [2, 2], [up, up], *paddings, True, _GAIN, 0.2)

    size, name = (CHANNELS, side, side), f"up {up}, down 2"
    return [
        Entry(f"filtered_lrelu {name}", size, draw,
              {"fastgan": functools.partial(filtered_lrelu, **options), "PyTorch": plain}),
        Entry(f"filtered_lrelu_linear {name}", (CHANNELS, SIDE + 20, SIDE + 20), masks, {"fastgan": derivative}),
    ]  # fmt: skip


def _normal(x: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, device=x.device)


def _scale(x: Tensor) -> tuple[Tensor, ...]:
    return (_normal(x, *x.shape[:2]),)


def _other(x: Tensor) -> tuple[Tensor, ...]:
    return (torch.randn_like(x),)


def _all(x: Tensor) -> tuple[Tensor, ...]:
    return *_scale(x), _normal(x, x.shape[0], 1, *x.shape[2:]), _normal(x, x.shape[1])


def _all_grad(x: Tensor) -> tuple[Tensor, ...]:
    return torch.randn_like(x), torch.randn_like(x), *_scale(x)


def _weight_and_styles(x: Tensor) -> tuple[Tensor, ...]:
    weight = _normal(x, x.shape[1], x.shape[1], 3, 3) / (9 * x.shape[1]) ** 0.5
    return weight.contiguous(memory_format=_layout(x)), 1 + 0.1 * _normal(x, *x.shape[:2])


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _spread(s: Tensor, x: Tensor) -> Tensor:
    return s.to(x.dtype).view(*s.shape, *[1] * (4 - s.dim()))


def _plain_epilogue(x: Tensor, scale: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    y = x * _spread(scale, x) + noise.to(x.dtype) + bias.to(x.dtype).view(1, -1, 1, 1)
    return F.leaky_relu(y, 0.2) * _GAIN


def _epilogue_grad(x: Tensor, dy: Tensor, saved: Tensor, scale: Tensor) -> Any:
    return grad_op(dy, saved, x, scale, 0.2, _GAIN, None, True, True, True)


def _plain_grad(x: Tensor, dy: Tensor, saved: Tensor, scale: Tensor) -> Any:
    dp = torch.where(saved > 0, dy * _GAIN, dy * (0.2 * _GAIN))
    return dp * _spread(scale, x), (dp * x).sum((2, 3)), dp.sum(1, keepdim=True), dp.sum((0, 2, 3))


def _modulated(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    return modulated_conv2d(x, weight, styles, padding=1)


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def measure(entry: Entry, dtype: torch.dtype, layout: str, options: argparse.Namespace) -> list[Row]:
    """The rows of one operation."""

    def draw() -> tuple[Tensor, ...]:
        x = torch.randn(options.batch, *entry.size, device=options.device, dtype=dtype)
        x = x.contiguous(memory_format=LAYOUTS[layout])
        return x, *entry.draw(x)

    first = draw()
    with backend("reference"):
        expected = entry.candidates["fastgan"](*first)
    for name, run in entry.candidates.items():
        # The convolution is another function.
        if name != "convolution" and (wrong := wrong_result(_tensors(run(*first)), _tensors(expected))):
            raise RuntimeError(f"{name}: {wrong}")
    moved = sum(t.nbytes for t in (*first, *_tensors(expected)))
    del expected
    count = min(max(2, -(-ROTATED_BYTES // moved)), MOST_SETS) if options.device == "cuda" else 1
    sets = [first, *(draw() for _ in range(count - 1))]
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=options.device)
    copy = functools.partial(torch.empty_like(source).copy_, source)
    functions = {name: functools.partial(run, *first) for name, run in entry.candidates.items()} | {"copy": copy}
    graphs = {}
    if options.device == "cuda":
        for name, run in entry.candidates.items():
            graphs[name] = captured([lambda run=run, given=given: functools.partial(run, *given) for given in sets])
        graphs["copy"] = captured([lambda: copy])
    found = times(functions, options.device, options.seconds, graphs=graphs)
    best = {name: (t.graph or t.wall).median for name, t in found.items()}
    rows: list[Row] = []
    for name, taken in best.items():
        floor = options.floors.floor_ms(moved, options.batch * entry.flops, dtype)
        rows.append({
            "op": entry.op, "shape": shape(entry, options), "dtype": str(dtype).removeprefix("torch."),
            "layout": layout, "candidate": name, "device": options.device_name, "torch": torch.__version__,
            "fastgan": fastgan.__version__, **gpu_times(found[name]), "of_copy": ratio(best["copy"], taken),
            "vs_convolution": "" if name == "copy" else ratio(best.get("convolution"), taken), "floor_ms": ms(floor),
            "floor_share": ratio(floor, taken),
        })  # fmt: skip
    return rows


def shape(entry: Entry, options: argparse.Namespace) -> str:
    return "x".join(map(str, (options.batch, *entry.size)))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.02, help="time spent on each figure")
    parser.add_argument("--ceilings", type=Path, metavar="CSV", help="of ceilings.py on this machine, for the floors")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    options.floors, options.device_name = Ceilings(options.ceilings), device_name(options.device)
    rows, failed = resumed(options.out, options.resume), 0
    units = itertools.product(DTYPES[options.device], LAYOUTS, entries())
    for dtype, layout, entry in sorted(units, key=lambda unit: unit[2].flops > 0):
        unit: Row = {"op": entry.op, "shape": shape(entry, options), "layout": layout}
        unit["dtype"] = str(dtype).removeprefix("torch.")
        if has(rows, unit):
            continue
        try:
            with float32_products(tf32=options.device == "cuda"), torch.no_grad():
                rows += measure(entry, dtype, layout, options)
        except Exception as error:  # wrong results, or a GPU's error: the other rows are still worth their time
            failed = 1
            print(f"NOT TIMED: {unit}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if options.out:  # after each, so that an interrupted run leaves its results
            write(options.out, rows, COLUMNS)
    shown = ("op", "shape", "dtype", "layout", "candidate", "wall_ms", "host_ms", "graph_ms", "of_copy",
             "vs_convolution")  # fmt: skip
    print_table([list(shown), *([str(row.get(name, "")) for name in shown] for row in rows)])
    return failed or not rows


if __name__ == "__main__":
    sys.exit(main())
