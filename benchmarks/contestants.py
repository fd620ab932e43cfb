"""The training iterations that end_to_end.py compares: in plain PyTorch, and fastgan's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from iterations import Iterations
from networks import LATENT
from plain import plain_pytorch
from torch import Tensor, nn

import fastgan
from fastgan.data import ImageSet
from fastgan.data.stream import BatchStream
from fastgan.train.step import TaskSteps


def stream(batch: int, side: int, device: str) -> BatchStream:
    """Noise as images, through the loader that training uses."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 3, side, side), np.uint8)
    return BatchStream(ImageSet(pixels, None, "noise", "none"), batch, 0, torch.device(device))


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., Tensor]]] = {
    "non-saturating": (
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    "hinge": (lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda fake: -fake.mean()),
    "wgan-gp": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    "relativistic": (
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda fake, real: F.softplus(real - fake).mean(),
    ),
}


class Contestant:
    """Trains a generator and a discriminator, one iteration at a time. `spent` accumulates the time of the phases.

    about: how the steps run, if the contestant selects that itself.
    """

    about = ""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: fastgan.Config):
        self.generator, self.discriminator = generator, discriminator
        self.config, self.flags = config, SimpleNamespace(**config.flags())
        self.device = next(generator.parameters()).device
        self.spent: dict[str, float] | None = None

    def use(self, batches: Iterator[Tensor]) -> None:
        """Set the source of real images."""
        self.batches = batches

    def iterate(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def replay(self) -> Callable[[], object] | None:
        """Replays the last iteration, without its data, where it is one CUDA graph; else None."""
        return None

    def phase(self, name: str, run: Callable[[], Any]) -> Any:
        """Run a part of an iteration."""
        if self.spent is None:
            return run()
        start = self._now()
        result = run()
        self.spent[name] = self.spent.get(name, 0.0) + self._now() - start
        return result

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Eager(Contestant):
    """In the style of public code: autograd's double backward, Adam with its defaults, a loop for the EMA.

    The networks are plain ones, or a family of ours that `plain_pytorch` built.
    """

    capturable = False

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: fastgan.Config):
        super().__init__(generator, discriminator, config)
        self.average = copy.deepcopy(generator)
        flags = self.flags
        options: dict[str, Any] = {"betas": (flags.beta1, flags.beta2), "capturable": self.capturable}
        self.g_optimizer = torch.optim.Adam(generator.parameters(), flags.lr_g, **options)
        self.d_optimizer = torch.optim.Adam(discriminator.parameters(), flags.lr_d, **options)
        self.d_loss, self.g_loss = LOSSES[flags.loss]
        self.run_generator, self.run_discriminator = generator, discriminator

    def iterate(self) -> None:
        with plain_pytorch():
            for _ in range(self.flags.d_steps):
                real = self.phase("data", lambda: self.prepared(next(self.batches)))
                self.phase("discriminator", lambda real=real: self.discriminator_backward(real))
                self.phase("update", self.d_optimizer.step)
            self.phase("generator", lambda: self.generator_backward(real))
            self.phase("update", self.generator_update)

    def prepared(self, real: Tensor) -> Tensor:
        return real

    def discriminator_backward(self, real: Tensor, z: Tensor | None = None, epsilon: Tensor | None = None) -> None:
        flags = self.flags
        z = torch.randn(len(real), LATENT, device=self.device) if z is None else z
        self.d_optimizer.zero_grad()
        with self.autocast():
            with torch.no_grad():
                fake = self.run_generator(z)
            loss = self.d_loss(self.run_discriminator(real), self.run_discriminator(fake))
            if flags.loss == "wgan-gp":
                epsilon = torch.rand(len(real), 1, 1, 1, device=self.device) if epsilon is None else epsilon
                points = torch.lerp(real, fake.to(real.dtype), epsilon).requires_grad_()
                norm = self.slope(points).flatten(1).norm(dim=1)
                loss = loss + flags.gp_weight * (norm - 1).square().mean()
            if flags.r1_weight:
                points = real.detach().requires_grad_()
                loss = loss + 0.5 * flags.r1_weight * self.slope(points).square().flatten(1).sum(1).mean()
            if flags.r2_weight:
                points = fake.detach().requires_grad_()
                loss = loss + 0.5 * flags.r2_weight * self.slope(points).square().flatten(1).sum(1).mean()
        loss.backward()

    def slope(self, points: Tensor) -> Tensor:
        # The uncompiled network: torch.compile has no double backward.
        logits = self.discriminator(points)
        return torch.autograd.grad(logits.float().sum(), points, create_graph=True)[0].float()

    def generator_backward(self, real: Tensor, z: Tensor | None = None) -> None:
        z = torch.randn(len(real), LATENT, device=self.device) if z is None else z
        self.g_optimizer.zero_grad()
        self.discriminator.requires_grad_(False)
        with self.autocast():
            beside = [self.run_discriminator(real)] if self.flags.loss == "relativistic" else []
            loss = self.g_loss(self.run_discriminator(self.run_generator(z)), *beside)
        loss.backward()
        self.discriminator.requires_grad_(True)

    @torch.no_grad()
    def generator_update(self) -> None:
        self.g_optimizer.step()
        for mine, theirs in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mine.lerp_(theirs, 0.001)
        for mine, theirs in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(theirs)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def gradients(self, side: int) -> tuple[Tensor, Tensor]:
        """The discriminator's and the generator's gradient for fixed draws, each as one vector."""
        real, z, epsilon = draws(side, self.generator)
        with plain_pytorch():
            self.discriminator_backward(real, z, epsilon)
            discriminator = _vector(self.discriminator)
            self.generator_backward(real, z)
        return discriminator, _vector(self.generator)


class ChannelsLast(Eager):
    """The same with images and weights in channels_last."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: fastgan.Config):
        layout = torch.channels_last
        super().__init__(generator.to(memory_format=layout), discriminator.to(memory_format=layout), config)

    def prepared(self, real: Tensor) -> Tensor:
        return real.contiguous(memory_format=torch.channels_last)


class Compiled(ChannelsLast):
    """torch.compile of both networks, except under a penalty, for which it has no double backward."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: fastgan.Config):
        super().__init__(generator, discriminator, config)
        self.run_generator, self.run_discriminator = torch.compile(generator), torch.compile(discriminator)


class HandWrittenGraph(ChannelsLast):
    """The eager iteration as one CUDA graph, captured by hand-written code: an expert baseline."""

    capturable = True

    def use(self, batches: Iterator[Tensor]) -> None:
        self.source = batches
        self.static = [self.prepared(next(batches)).clone() for _ in range(self.flags.d_steps)]
        self.graph: torch.cuda.CUDAGraph | None = None

    def iterate(self) -> None:
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.batches = iter(self.static)
                    super().iterate()
            torch.cuda.current_stream().wait_stream(side)
            self.graph, self.batches = torch.cuda.CUDAGraph(), iter(self.static)
            with torch.cuda.graph(self.graph):
                super().iterate()
        for static in self.static:
            static.copy_(next(self.source))
        self.graph.replay()

    def replay(self) -> Callable[[], object] | None:
        return None if self.graph is None else self.graph.replay


class Ours(Contestant):
    """fastgan's Trainer.

    fuse: whether the networks are plain ones. Their discriminator is then fused, unless a compiler is used or it has
    batch norm.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, config: fastgan.Config, fuse: bool):
        if (
            fuse
            and config.compile in ("off", "graph")
            and not any(isinstance(m, nn.BatchNorm2d) for m in discriminator.modules())
        ):
            discriminator = fastgan.fuse(discriminator)
        super().__init__(generator, discriminator, config)
        networks = self.generator, self.discriminator
        self.trainer = fastgan.Trainer(*networks, self.flags.loss, config, latent_shape=(LATENT,))

    def use(self, batches: Iterator[Tensor]) -> None:
        self.iterations = Iterations(self.trainer, batches)

    def iterate(self) -> None:
        self.iterations()
        assert self.trainer.steps is not None
        self.about = self.trainer.steps.about

    def replay(self) -> Callable[[], object] | None:
        iteration = self.trainer._graph
        recorders = [] if iteration is None else [recorder for recorder, _ in iteration._variants.values()]
        # Iterations with and without a lazy penalty are several graphs, of which no single one is the iteration.
        if len(recorders) != 1 or recorders[0]._graph is None:
            return None
        return recorders[0]._graph.replay

    def watch(self) -> None:
        """From now on phases are timed, in iterations that are not one CUDA graph."""
        trainer, trainer._graph = self.trainer, None
        assert trainer.steps is not None
        steps, stream = trainer.steps, self.iterations.batches
        d_step, g_step = steps.discriminator, steps.generator
        steps.discriminator = lambda *a: self.phase("discriminator", lambda: d_step(*a))
        steps.generator = lambda *a: self.phase("generator", lambda: g_step(*a))
        for update in trainer.state.updates.values():
            apply = update.apply
            update.apply = lambda *a, apply=apply: self.phase("update", lambda: apply(*a))  # type: ignore[method-assign, misc]
        follow = trainer.ema.update
        trainer.ema.update = lambda *a: self.phase("update", lambda: follow(*a))  # type: ignore[method-assign]
        self.iterations.batches = _Timed(lambda: self.phase("data", lambda: next(stream)))  # type: ignore[assignment]

    def gradients(self, side: int) -> tuple[Tensor, Tensor]:
        """As Eager.gradients."""
        real, z, epsilon = draws(side, self.generator)
        steps, noise = TaskSteps(self.trainer.task), {"z": z, "epsilon": epsilon, "lazy": True}
        _, discriminator = steps.discriminator({"real": real}, noise)
        _, generator = steps.generator({"real": real}, noise)
        return tuple(torch.cat([g.flatten() for g in found if g is not None]) for found in (discriminator, generator))  # type: ignore[return-value]


class _Timed:
    def __init__(self, take: Callable[[], Tensor]):
        self.take = take

    def __next__(self) -> Tensor:
        return self.take()


def draws(side: int, network: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed real images, z and epsilon, on the network's device and in its dtype."""
    like = next(network.parameters())
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(8, 3, side, side, generator=generator) * 2 - 1
    z, epsilon = torch.randn(8, LATENT, generator=generator), torch.rand(8, 1, 1, 1, generator=generator)
    return real.to(like), z.to(like), epsilon.to(like)


def _vector(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def phases(contestant: Contestant, device: str, iterations: int = 3) -> dict[str, str]:
    """Milliseconds of each phase in an iteration; waiting between them, so that they add up to more than it takes."""
    if isinstance(contestant, HandWrittenGraph):
        return {}
    if isinstance(contestant, Ours):
        contestant.watch()
    contestant.spent = {}
    for _ in range(iterations):
        contestant.iterate()
    spent = contestant.spent
    contestant.spent = None
    return {f"{name}_ms": f"{1000 * seconds / iterations:.2f}" for name, seconds in spent.items()}


def peak_megabytes(contestant: Contestant, device: str) -> str:
    """The peak memory that PyTorch's allocator gave out during an iteration, without weights and optimizer states."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contestant.iterate()
        return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f}"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        contestant.iterate()
    assert seen.profiler is not None
    assert seen.profiler.kineto_results is not None
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return f"{most / 1e6:.0f}"


def launches(contestant: Contestant, device: str) -> str:
    """Kernels and graphs launched in an iteration, on a GPU."""
    if device != "cuda":
        return ""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        contestant.iterate()
        torch.cuda.synchronize()
    return str(sum(event.count for event in seen.key_averages() if "Launch" in event.key))
