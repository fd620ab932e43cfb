"""Discriminator steps that run.py times besides the ops: the gain of `fastgan.fuse` and the penalties.

Every step is built from one plain PyTorch network: eager runs it as it is, fastgan runs a fused copy of it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from ceilings import Ceilings
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

import fastgan
from fastgan.ops._backend import backend
from fastgan.testing.timing import Graph, captured

#: A step of a network on real and fake images: the loss whose gradients it takes.
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def conv_discriminator(blocks: list[tuple[int, int, int]], channels: int = 3, side: int = 64) -> nn.Sequential:
    """(width, kernel, stride) for each convolution + leaky ReLU, then a linear head."""
    layers: list[nn.Module] = []
    for width, kernel, stride in blocks:
        layers += [nn.Conv2d(channels, width, kernel, stride, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels, side = width, side // stride
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 1))


def dcgan_discriminator() -> nn.Sequential:
    """3 → 64 → 128 → 256 → 512, 4×4 stride 2, at 64×64."""
    return conv_discriminator([(64, 4, 2), (128, 4, 2), (256, 4, 2), (512, 4, 2)])


def six_block_discriminator() -> nn.Sequential:
    """3×3 at both ends and four 4×4 stride 2 between, at 64×64."""
    return conv_discriminator([(64, 3, 1), (64, 4, 2), (128, 4, 2), (256, 4, 2), (512, 4, 2), (512, 3, 1)])


def spectral_dcgan_discriminator() -> nn.Sequential:
    return _with_norms(dcgan_discriminator())


def sngan_discriminator() -> nn.Sequential:
    """The convolutions of SNGAN's plain discriminator at 32×32 (arXiv:1802.05957, table 3), and its head."""
    blocks = [(64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2), (512, 3, 1)]
    return _with_norms(conv_discriminator(blocks, side=32))


def _with_norms(network: nn.Sequential) -> nn.Sequential:
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(layer)
    return network


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return fastgan.gradient_penalty(discriminator, real, fake)


def r1(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return fastgan.r1(discriminator, real)


def wgan_gp(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return discriminator(fake).mean() - discriminator(real).mean() + fastgan.gradient_penalty(discriminator, real, fake)


def plain_gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """gradient_penalty in plain PyTorch, as public code has it."""
    epsilon = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    points = torch.lerp(real, fake, epsilon).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)
    return 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def plain_r1(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    points = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def plain_wgan_gp(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return discriminator(fake).mean() - discriminator(real).mean() + plain_gradient_penalty(discriminator, real, fake)


#: Our losses in plain PyTorch, which the eager network runs: fastgan's would also be faster on a plain network.
PLAIN: dict[Loss, Loss] = {gradient_penalty: plain_gradient_penalty, r1: plain_r1, wgan_gp: plain_wgan_gp}


def hinge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean()


class Weights(nn.Module):
    """Reads the normalized weight of every layer and does nothing else, to time spectral normalization alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.dy: list[Tensor] | None = None

    def forward(self, *_: Tensor) -> Tensor:
        # Not by hasattr, which reads the weight: every read normalizes.
        weights = [layer.weight for layer in self.network if isinstance(layer, nn.Conv2d | nn.Linear)]
        if self.dy is None:
            self.dy = [torch.randn_like(weight) for weight in weights]
        # A backward pass with these cotangents, without other arithmetic.
        return _Cotangents.apply(self.dy, *weights)


class _Cotangents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.dy = dy
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return None, *ctx.dy


def weights_alone(network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return network(real)


@dataclass(frozen=True)
class Step:
    """One row of the table.

    batches: by device. side: of the images. optimizer: whether its step is included. passes: how many times the
    convolutions of one forward pass the step needs, 0 for a step without convolutions.
    """

    name: str
    network: Callable[[], nn.Module]
    loss: Loss
    batches: dict[str, tuple[int, ...]]
    side: int = 64
    optimizer: bool = False
    passes: int = 0
    whole: bool = True
    """Whether the whole step, with its autograd calls, can be compiled."""

    def images(self, dtype: torch.dtype, device: str, layout: torch.memory_format, batch: int) -> tuple[Tensor, Tensor]:
        """Real and fake."""
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(2, batch, 3, self.side, self.side, generator=generator)
        real, fake = draws.to(device, dtype).unbind()
        return real.contiguous(memory_format=layout), fake.contiguous(memory_format=layout)


_TRAINING = {"cpu": (32,), "cuda": (64, 256)}
_NONE = {"cpu": (1,), "cuda": (1,)}

STEPS = [
    Step("gradient_penalty", dcgan_discriminator, gradient_penalty, _TRAINING, passes=4),
    Step("wgan_gp_discriminator_step", dcgan_discriminator, wgan_gp, _TRAINING, optimizer=True, passes=10),
    Step("r1_six_blocks", six_block_discriminator, r1, {"cpu": (16,), "cuda": (64, 256)}, passes=4),
    Step("spectral_norm_dcgan", lambda: Weights(spectral_dcgan_discriminator()), weights_alone, _NONE, whole=False),
    Step("spectral_norm_sngan", lambda: Weights(sngan_discriminator()), weights_alone, _NONE, 32, whole=False),
    Step("sngan_discriminator_step", sngan_discriminator, hinge, _TRAINING, 32, optimizer=True, passes=6),
]


def networks(step: Step, device: str, dtype: torch.dtype, layout: torch.memory_format) -> dict[str, nn.Module]:
    """The plain network and its fused copy."""
    torch.manual_seed(0)
    plain = step.network().to(device, dtype)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(3)  # gradients as large as in training, so that the comparison detects wrong ones
    fused = fastgan.fuse(copy.deepcopy(plain))
    if isinstance(plain, Weights):
        plain.dy = fused.dy = None
    return {"fastgan": fused.to(memory_format=layout), "eager": plain.to(memory_format=layout)}


def loss_of(step: Step, provider: str) -> Loss:
    """The loss that a provider runs."""
    return PLAIN.get(step.loss, step.loss) if provider.startswith("eager") else step.loss


def gradients(loss: Loss, network: nn.Module, real: Tensor, fake: Tensor) -> list[Tensor]:
    """The gradients of the loss for fixed random numbers, of a copy, since spectral norms iterate in every run."""
    network = copy.deepcopy(network)
    torch.manual_seed(1)
    weights = list(network.parameters())
    found = torch.autograd.grad(loss(network, real, fake), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def verify(step: Step, device: str, layout: torch.memory_format) -> None:
    """AssertionError unless fastgan's gradients are the eager network's, in float32."""
    pair = networks(step, device, torch.float32, layout)
    real, fake = step.images(torch.float32, device, layout, 8)
    # Without TF32, which rounds the operands.
    with torch.backends.cudnn.flags(allow_tf32=False):
        got, want = (gradients(loss_of(step, name), network, real, fake) for name, network in pair.items())
    for g, w in zip(got, want, strict=True):
        error = (g - w).norm() / (w.norm() + 1e-5)
        assert error <= 1e-4, f"{step.name}: gradients differ by {error:.1e}"


def providers(
    step: Step, device: str, dtype: torch.dtype, layout: torch.memory_format, batch: int, whole: bool
) -> dict[str, Callable[[], Callable[[], object]]]:
    """For each provider, a function that builds its step, which may fail.

    whole: also the step compiled as one graph.
    """
    real, fake = step.images(dtype, device, layout, batch)
    found: dict[str, Callable[[], Callable[[], object]]] = {}
    for name, network in networks(step, device, dtype, layout).items():
        found[name] = functools.partial(_run, step, loss_of(step, name), network, real, fake)
        if whole and step.whole:
            found[f"{name}+compile"] = functools.partial(_compiled, step, loss_of(step, name), network, real, fake)
        if name == "fastgan" and cuda_too(step, device):
            found[CUDA] = functools.partial(_forced, found[name])
    return found


#: Spectral norms by our CUDA C++ kernels instead of Triton's.
CUDA = "fastgan CUDA C++"


def cuda_too(step: Step, device: str) -> bool:
    """Whether a step runs only ops that have a kernel in CUDA C++."""
    return device == "cuda" and step.name.startswith("spectral_norm")


def _forced(build: Callable[[], Callable[[], object]]) -> Callable[[], None]:
    """A step whose ops run on CUDA C++."""
    run = build()

    def forced() -> None:
        with backend("cuda"):
            run()

    return forced


def graphs(
    step: Step, device: str, dtype: torch.dtype, layout: torch.memory_format, batch: int
) -> dict[str, Callable[[], Graph]]:
    """For each provider, a function that captures its step as a CUDA graph, which may fail."""
    real, fake = step.images(dtype, device, layout, batch)
    builds: dict[str, Callable[[], Callable[[], object]]] = {
        name: functools.partial(_run, step, loss_of(step, name), network, real, fake, capturable=True)
        for name, network in networks(step, device, dtype, layout).items()
    }
    if cuda_too(step, device):
        builds[CUDA] = functools.partial(_forced, builds["fastgan"])
    return {name: functools.partial(captured, [build]) for name, build in builds.items()}


#: How often spectral normalization and its backward pass read or write each weight at least: W and W/σ in the forward
#: pass; the cotangent, W and the gradient in the backward pass.
NORM_TRAFFIC = 5


def floor(step: Step, device: str, dtype: torch.dtype, batch: int, ceilings: Ceilings) -> float | None:
    """The least milliseconds of the step on this device: of its products, or of the weights' traffic.

    Bytes of activations and of the optimizer are not counted.
    """
    network = step.network().to(device, dtype)
    if not step.passes:
        size = sum(weight.nbytes for weight in network.parameters() if weight.dim() > 1)
        return ceilings.floor_ms(size=NORM_TRAFFIC * size)
    real, _ = step.images(dtype, device, torch.contiguous_format, batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(real)
    return ceilings.floor_ms(flops=step.passes * counter.get_total_flops(), dtype=dtype)


def _optimizer(step: Step, network: nn.Module, capturable: bool = False) -> torch.optim.Optimizer | None:
    return torch.optim.Adam(network.parameters(), 1e-5, fused=True, capturable=capturable) if step.optimizer else None


def _run(
    step: Step, loss: Loss, network: nn.Module, real: Tensor, fake: Tensor, capturable: bool = False
) -> Callable[[], None]:
    """Loss, backward pass, and the optimizer step if it is included."""
    optimizer = _optimizer(step, network, capturable)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        loss(network, real, fake).backward()
        if optimizer is not None:
            optimizer.step()

    return run


def _compiled(step: Step, loss: Loss, network: nn.Module, real: Tensor, fake: Tensor) -> Callable[[], None]:
    """The same with loss and both backward passes as one graph of Inductor's."""
    network = copy.deepcopy(network)
    optimizer = _optimizer(step, network)
    weights = list(network.parameters())

    def whole(real: Tensor, fake: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss(network, real, fake), weights, allow_unused=True)

    compiled = torch.compile(whole, fullgraph=True)

    def run() -> None:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = compiled(real, fake)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
        if optimizer is not None:
            optimizer.step()

    return run
