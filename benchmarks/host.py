"""What single calls cost the host: PyTorch's operations, ours by each way of calling them, and whole steps.

    python benchmarks/host.py [--device cuda] [--case SUBSTRING] [--out CSV]

The tensors are so small that a GPU is never the slower side. On a CPU, where a call has finished when it returns, the
one time includes the arithmetic.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import steps
import torch
import torch.nn.functional as F
from table import device_name, print_table, write
from torch import Tensor, nn

import fastgan
from fastgan.ops._library import registry
from fastgan.testing.timing import times

COLUMNS = ("name", "wall_us", "host_us", "device", "threads", "torch", "fastgan")
Builder = Callable[[str], Callable[[], object]]


class CannotRun(Exception):
    """Why a row is missing."""


def _image(device: str, grad: bool = False) -> Tensor:
    return torch.randn(1, 8, 16, 16, device=device, requires_grad=grad)


def _bias(device: str, grad: bool = False) -> Tensor:
    return torch.zeros(8, device=device, requires_grad=grad)


def _backward(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """Forward and backward pass."""
    dy = torch.ones_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, dy)


def _add(device: str) -> Callable[[], object]:
    x = _image(device)
    return lambda: x + 1


def _leaky_relu(device: str, grad: bool) -> Callable[[], object]:
    x = _image(device, grad)
    return _backward(lambda x: F.leaky_relu(x, 0.2), x) if grad else lambda: F.leaky_relu(x, 0.2)


def _bias_act(device: str, grad: bool) -> Callable[[], object]:
    x, bias = _image(device, grad), _bias(device, grad)
    return _backward(fastgan.ops.bias_act, x, bias) if grad else lambda: fastgan.ops.bias_act(x, bias)


def _registered(device: str, grad: bool) -> Callable[[], object]:
    """The op as tracing sees it, whatever the public function does in eager mode."""
    x, bias = _image(device, grad), _bias(device, grad)
    op = registry["bias_act"].overload
    if grad:
        return _backward(lambda x, bias: op(x, bias, "leaky_relu", 0.2, 1.0, None), x, bias)
    return lambda: op(x, bias, "leaky_relu", 0.2, 1.0, None)


def _kernel(device: str) -> Callable[[], object]:
    """The fastest back-end of bias_act without dispatch, with its launcher."""
    arguments = (_image(device), _bias(device), "leaky_relu", 0.2, 1.0, None)
    kernel = next((k for k in registry["bias_act"].kernels if k.why_not(*arguments) is None), None)
    if kernel is None:
        raise CannotRun("bias_act has no kernel for this device")
    run = kernel.run if kernel.plan is None else kernel.plan(*arguments)
    return lambda: run(*arguments)


def _triton(device: str) -> Callable[[], object]:
    """A Triton kernel with three arguments, through Triton's JIT."""
    if device != "cuda" or importlib.util.find_spec("triton") is None:
        raise CannotRun("Triton needs a GPU")
    from triton_add import add_kernel

    x = _image(device)
    return lambda: add_kernel[(1,)](x, x.numel(), BLOCK=2048)


def _convolution(device: str, grad: bool, ours: bool) -> Callable[[], object]:
    x, bias = _image(device, grad), _bias(device, grad)
    weight = torch.randn(8, 8, 4, 4, device=device, requires_grad=grad)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.leaky_relu(F.conv2d(x, weight, bias, 2, 1), 0.2)

    def fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fastgan.ops.conv2d_bias_act(x, weight, bias, stride=2, padding=1)

    function = fused if ours else plain
    return _backward(function, x, weight, bias) if grad else lambda: function(x, weight, bias)


def _network(device: str, ours: bool) -> nn.Module:
    network = steps.conv_discriminator([(4, 4, 2), (8, 4, 2), (16, 4, 2), (32, 4, 2)]).to(device)
    return fastgan.fuse(network) if ours else network


def _forward(device: str, ours: bool) -> Callable[[], object]:
    network, x = _network(device, ours), torch.randn(1, 3, 64, 64, device=device)

    def run() -> None:
        with torch.no_grad():
            network(x)

    return run


def _step(device: str, ours: bool, loss: steps.Loss, compiled: bool = False) -> Callable[[], object]:
    """A loss of a tiny discriminator and its gradients. compiled: by fastgan.compile as a CUDA graph."""
    network = _network(device, ours)
    real, fake = torch.randn(2, 1, 3, 64, 64, device=device)

    def step(real: Tensor, fake: Tensor) -> None:
        network.zero_grad(set_to_none=True)
        loss(network, real, fake).backward()

    if not compiled:
        return lambda: step(real, fake)
    if device != "cuda":
        raise CannotRun("CUDA graphs need a GPU")
    graph = fastgan.compile(step, mode="graph")
    graph(real, fake)
    if graph.why_eager:
        raise CannotRun(graph.why_eager)
    return lambda: graph(real, fake)


#: Name of a row → a function of the device that builds what is timed.
ROWS: dict[str, Builder] = {
    "add": _add,
    "F.leaky_relu": functools.partial(_leaky_relu, grad=False),
    "F.leaky_relu, forward and backward": functools.partial(_leaky_relu, grad=True),
    "bias_act": functools.partial(_bias_act, grad=False),
    "bias_act, forward and backward": functools.partial(_bias_act, grad=True),
    "bias_act, registered op": functools.partial(_registered, grad=False),
    "bias_act, registered op, forward and backward": functools.partial(_registered, grad=True),
    "bias_act, kernel and launcher alone": _kernel,
    "Triton kernel of three arguments": _triton,
    "F.conv2d + F.leaky_relu": functools.partial(_convolution, grad=False, ours=False),
    "F.conv2d + F.leaky_relu, forward and backward": functools.partial(_convolution, grad=True, ours=False),
    "conv2d_bias_act": functools.partial(_convolution, grad=False, ours=True),
    "conv2d_bias_act, forward and backward": functools.partial(_convolution, grad=True, ours=True),
    "discriminator, plain": functools.partial(_forward, ours=False),
    "discriminator, fused": functools.partial(_forward, ours=True),
    "penalty, plain": functools.partial(_step, ours=False, loss=steps.plain_gradient_penalty),
    "penalty, fused": functools.partial(_step, ours=True, loss=steps.gradient_penalty),
    "penalty, fused, fastgan.compile(mode=graph)": functools.partial(
        _step, ours=True, loss=steps.gradient_penalty, compiled=True
    ),
    "R1, plain": functools.partial(_step, ours=False, loss=steps.plain_r1),
    "R1, fused": functools.partial(_step, ours=True, loss=steps.r1),
    "WGAN-GP loss, plain": functools.partial(_step, ours=False, loss=steps.plain_wgan_gp),
    "WGAN-GP loss, fused": functools.partial(_step, ours=True, loss=steps.wgan_gp),
}


def measure(device: str, case: str, seconds: float) -> list[dict[str, object]]:
    """The rows of the table, all timed in the same rounds."""
    ready: dict[str, Callable[[], object]] = {}
    for name, build in ROWS.items():
        if case not in name:
            continue
        try:
            ready[name] = build(device)
        except CannotRun as reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr)
    found = times(ready, device, seconds)
    return [
        {
            "name": name, "wall_us": f"{1e3 * one.wall.median:.1f}",
            "host_us": "" if one.host is None else f"{1e3 * one.host.median:.1f}", "device": device_name(device),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "fastgan": fastgan.__version__,
        }
        for name, one in found.items()
    ]  # fmt: skip


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.2, help="time spent on each figure")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows = measure(options.device, options.case, options.seconds)
    print_table([["", "wall µs", "host µs"], *([str(row[name]) for name in COLUMNS[:3]] for row in rows)])
    if options.out:
        write(options.out, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
