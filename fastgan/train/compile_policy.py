"""How a run's steps are computed: as asked, or as measured before its first step."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastgan._util.autotune import Store, open_store
from fastgan.engine import CompiledForward, CompiledStep
from fastgan.engine.capture import preserved
from fastgan.tasks.base import Batch, Noise
from fastgan.train.config import Config
from fastgan.train.step import Result, Shared, TaskSteps

_logger = logging.getLogger(__name__)

#: What compiling can be expected to save where this hardware has measured little: a part of an iteration. On a CPU it
#: is what fused networks save in benchmarks/results/sweep.csv; on a GPU it is against CUDA graphs, and a guess.
EXPECTED_SAVING = {"cpu": 0.05, "cuda": 0.15}
#: What compiling takes there: seconds, and seconds for each layer of both networks. Rather too much: sweep.csv has 14
#: to 54 s.
BASE_SECONDS, LAYER_SECONDS = 20.0, 3.0
#: How often a saving that is only estimated must repay the time: that of a compiler varies by a factor of two.
MARGIN = 2.0
_ROUNDS = 4

#: A batch and its noise.
Inputs = tuple[Batch, Noise]


@dataclass
class Steps:
    """The two steps as a run takes them, and what to say about them. mode: off, graph or on, as Config.compile.

    inner: the same steps without CUDA graphs of their own, for an iteration that is one CUDA graph as a whole. shared:
    `TaskSteps.shared` where both steps of an iteration share it, else None.
    """

    discriminator: Callable[[Batch, Noise], Result]
    generator: Callable[[Batch, Noise], Result]
    mode: str
    about: str
    inner: Steps | None = None
    shared: Callable[[Batch, Noise], dict[str, Tensor]] | None = None

    @property
    def compiled(self) -> bool:
        """Whether they are graphs, a compiler's or captured ones."""
        return self.mode != "off"


def plain_steps(steps: TaskSteps, config: Config, about: str) -> Steps:
    """The steps without graphs."""
    # Several steps would need as many graphs of the generator in memory.
    shares = steps.task.shares and (config.optim.d_steps or 1) == 1 and config.optim.accumulate == 1
    return Steps(steps.discriminator, steps.generator, "off", about, shared=steps.shared if shares else None)


class CompilePolicy:
    """Takes the decision from the inputs of both steps as training gives them.

    iterations: how many remain. Nothing that is trained changes: buffers and random numbers are restored.
    """

    def __init__(
        self, steps: TaskSteps, config: Config, d_inputs: Inputs, g_inputs: Inputs, iterations: int, about: str = ""
    ):
        self._steps, self._config, self._iterations, self._about = steps, config, iterations, about
        self._d_inputs, self._g_inputs = d_inputs, g_inputs
        self._device = next(iter(d_inputs[0].values())).device
        self._buffers: list[Tensor] = [*steps.task.generator.buffers(), *steps.task.discriminator.buffers()]
        self._eager = plain_steps(steps, config, "steps run eagerly")

    def decide(self, asked: str, before: str | None) -> Steps:
        """asked: as Config.compile. before: the mode of the run so far, with which a resumed one goes on if it may."""
        # Runs from before there were CUDA graphs say yes or no.
        before = {True: "on", False: "off"}.get(before, before)  # type: ignore[call-overload]
        if before == "graph" and self._device.type != "cuda":
            before = None
        mode = before if before and asked == "auto" else asked
        about = ""
        if mode != "off":
            try:
                if mode == "auto":
                    return self._measured()
                if mode == "on":
                    self._announce((self._known() or self._expected())[1], "as asked for")
                return self._compiled(mode)[0]
            except torch.OutOfMemoryError:
                # Graphs keep their memory, beside the eager steps'.
                about = "steps run eagerly: the GPU's memory does not hold them as graphs too"
            torch.cuda.empty_cache()
        return dataclasses.replace(self._eager, about=about)

    def _measured(self) -> Steps:
        """What is fastest, as far as the remaining steps amortize finding out."""
        plain = self._graphs() if self._device.type == "cuda" else self._eager
        remaining, known = self._seconds(plain) * self._iterations, self._known()
        saving, cost = known or self._expected()
        how = "as measured before" if known else "as estimated"
        if remaining * saving <= cost * (1 if known else MARGIN):
            plain.about += f": {remaining:.0f} s remain, and compiling takes {cost:.0f} s to save {saving:.0%}, {how}"
            return plain
        self._announce(cost, f"to save {saving:.0%} of {remaining:.0f} s, {how}")
        compiled, seconds = self._compiled("on")
        if compiled.mode != "on":
            if compiled.mode == "graph":  # the compiler failed at both, and has nothing to save
                self._note(0.0, seconds)
            return compiled if plain is self._eager else plain
        now, then = self._alternating(plain, compiled)
        saving = 1 - then / now
        self._note(saving, seconds)
        chosen = compiled if saving > 0 else plain
        chosen.about += f": {1000 * now:.1f} ms an iteration, {1000 * then:.1f} ms compiled (in {seconds:.0f} s)"
        return chosen

    def _announce(self, cost: float, why: str) -> None:
        _logger.info("compiling both steps, which takes about %.0f s: %s", cost, why)

    def _known(self) -> tuple[float, float] | None:
        """What compiling saved, as a fraction, and the seconds it took, where that was measured before."""
        known = _measurement(self._store.get(self._key))
        return known and known[:2]

    def _expected(self) -> tuple[float, float]:
        """The same where it was not: as other networks did on this hardware, beside the figures above."""
        found = [measured for entry in self._store.all() if (measured := _measurement(entry))]
        savings = [EXPECTED_SAVING[self._device.type], *(saving for saving, _, _ in found)]
        costs = [seconds / layers for _, seconds, layers in found if layers > 0]
        cost = max(costs) * self._layers if costs else BASE_SECONDS + LAYER_SECONDS * self._layers
        return max(statistics.mean(savings), 0.0), cost

    def _note(self, saving: float, seconds: float) -> None:
        """Store a measurement. Compiling again is faster while the compiler's own cache has it: the longest counts."""
        if before := self._known():
            seconds = max(seconds, before[1])
        self._store.put(self._key, {"saving": round(saving, 3), "seconds": round(seconds, 1), "layers": self._layers})

    @property
    def _layers(self) -> int:
        """Layers of both networks."""
        task = self._steps.task
        return sum(not list(m.children()) for n in (task.generator, task.discriminator) for m in n.modules())

    def _graphs(self) -> Steps:
        """As CUDA graphs without a compiler; eagerly where that is impossible or slower."""
        graphs, _ = self._compiled("graph")
        if graphs.mode == "off":
            return graphs
        now, then = self._alternating(self._eager, graphs)
        chosen = graphs if then < now else self._eager
        chosen.about += f": {1000 * now:.1f} ms an iteration eagerly, {1000 * then:.1f} ms as graphs"
        return chosen

    def _compiled(self, mode: str) -> tuple[Steps, float]:
        """The steps in that mode, or the eager ones with the reason; and the seconds that compiling took."""
        own, how = self._steps, "graph" if mode == "graph" else "default"
        d_step, g_step = CompiledStep(own.discriminator, how), CompiledStep(own.generator, how)
        shared = CompiledForward(own.shared) if self._eager.shared is not None and mode == "on" else None
        # Beside steps that are CUDA graphs of their own each makes what it needs.
        steps = Steps(d_step, g_step, mode, "", shared=None if self._device.type == "cuda" else shared)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fastgan.compile: ", UserWarning)  # `about` says it
            try:
                self._iteration(steps)
            except Exception as error:  # the compiler may fail at the backward pass of what is shared
                if shared is None or shared.why_eager or isinstance(error, torch.OutOfMemoryError):
                    raise
                shared.why_eager = str(error).strip().partition("\n")[0]
                self._iteration(steps)
        for name, step in (("discriminator's step", d_step), ("generator's step", g_step)):
            if step.why_eager:
                about = f"steps run eagerly: the {name} cannot be compiled: {step.why_eager}"
                return dataclasses.replace(self._eager, about=about), 0.0
        captured = list(dict.fromkeys([*d_step.how, *g_step.how]))
        if all(one.startswith("CUDA graph") for one in captured):
            steps.mode, steps.about = "graph", f"steps run as {captured[0].replace('graph', 'graphs', 1)}"
            steps.inner = self._eager
        else:
            steps.about = f"steps run compiled, captured by {', '.join(captured)}"
            d_inner, g_inner = (
                CompiledStep(s, "default", cuda_graph=False) for s in (own.discriminator, own.generator)
            )
            steps.inner = Steps(d_inner, g_inner, mode, "", shared=shared)
            if shared is not None and shared.why_eager:
                steps.about += f"; what they share is made eagerly: {shared.why_eager}"
        return steps, d_step.seconds + g_step.seconds

    def _iteration(self, steps: Steps) -> float:
        """Seconds of one discriminator step for each that an iteration has, and of a generator step."""
        intervals = self._steps.task.intervals
        (d_batch, d_noise), (g_batch, g_noise) = self._d_inputs, self._g_inputs
        with preserved(self._buffers):
            start, shared = time.perf_counter(), Shared({})
            if steps.shared is not None:
                shared = Shared(steps.shared(d_batch, d_noise))
            spent = self._since(start)
            d_inputs, g_inputs = (d_batch, d_noise | shared.constants), (g_batch, g_noise | shared.leaves)
            discriminators = self._mean(steps.discriminator, d_inputs, intervals["discriminator"])
            generators = self._mean(steps.generator, g_inputs, intervals["generator"])
            if steps.shared is not None:
                _, found = steps.generator(*g_inputs)
                start = time.perf_counter()
                shared.gradients(found, self._steps.task.generator)
                spent += self._since(start)
            return spent + (self._config.optim.d_steps or 1) * discriminators + generators

    def _mean(self, step: Callable[[Batch, Noise], Result], inputs: Inputs, interval: int) -> float:
        """Mean seconds of a step that is lazy once in so many steps."""
        batch, noise = inputs
        if interval == 1:
            return self._time(functools.partial(step, batch, noise))
        return sum(
            share * self._time(functools.partial(step, batch, noise | {"lazy": lazy}))
            for lazy, share in ((False, 1 - 1 / interval), (True, 1 / interval))
        )

    def _time(self, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return self._since(start)

    def _since(self, start: float) -> float:
        """Seconds, when the device has finished."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - start

    def _seconds(self, steps: Steps) -> float:
        self._iteration(steps)
        return statistics.median(self._iteration(steps) for _ in range(_ROUNDS))

    def _alternating(self, one: Steps, other: Steps) -> tuple[float, float]:
        pairs = [(self._iteration(one), self._iteration(other)) for _ in range(_ROUNDS + 1)][1:]
        return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)

    @functools.cached_property
    def _store(self) -> Store:
        gpu = self._device.type == "cuda"
        device = torch.cuda.get_device_name(self._device) if gpu else f"CPU with {torch.get_num_threads()} threads"
        return open_store("compile times", {"device": device, "torch": torch.__version__})

    @functools.cached_property
    def _key(self) -> str:
        """What compiling costs and saves depends on: networks, shapes, task and options of the losses."""
        task, config = self._steps.task, self._config
        facts: list[object] = [type(task).__qualname__, str(task.generator), str(task.discriminator), self._about]
        for inputs in (self._d_inputs, self._g_inputs):
            flat, structure = tree_flatten(inputs)
            facts += [repr(structure), [list(v.shape) if isinstance(v, Tensor) else v for v in flat]]
        facts += [config.loss, config.regularization.augment, config.regularization.unroll, config.precision]
        facts += [dict(task.intervals), config.optim.d_steps]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _measurement(entry: dict[str, Any] | None) -> tuple[float, float, float] | None:
    """Saving, seconds and layers (0: not noted) of an entry of the store; None for one that is missing or damaged."""
    try:
        return (float(entry["saving"]), float(entry["seconds"]), float(entry.get("layers", 0))) if entry else None
    except (KeyError, TypeError, ValueError):
        return None
