"""How a run's steps are computed: as asked, or as measured before its first step."""

from __future__ import annotations

import functools
import hashlib
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastgan.engine import CompiledStep
from fastgan.engine.capture import preserved
from fastgan.train import pace
from fastgan.train.pace import Pace
from fastgan.train.step import Players

#: What compiling may be hoped to save at most, and what it takes at least, where this machine has not measured it yet.
#: On a GPU it is beside recorded steps, and a guess.
HOPE = {"cpu": 0.35, "cuda": 0.4}
LEAST_SECONDS = 40.0
_ROUNDS = 4


@dataclass
class Steps:
    """The two steps as a run takes them, and what to say about them. way: off, graph or on, as Config.compile."""

    d_step: Callable[..., Any]
    g_step: Callable[..., Any]
    way: str
    about: str

    @property
    def compiled(self) -> bool:
        """Whether they are graphs, a compiler's or recorded ones."""
        return self.way != "off"


class Choice:
    """Takes the decision. d_args, g_args: arguments of both steps as training will give them; d_named, g_named: those
    that have names.

    iterations: that are to come. Nothing that is trained changes: buffers and random numbers are put back.
    """

    def __init__(
        self,
        players: Players,
        d_args: tuple[Any, ...],
        d_named: dict[str, Any],
        g_args: tuple[Any, ...],
        g_named: dict[str, Any],
        iterations: int,
    ):
        self._players, self._iterations = players, iterations
        self._d_args, self._g_args, self._d_named, self._g_named = d_args, g_args, d_named, g_named
        self._device = d_args[0].device
        self._buffers: list[Tensor] = [*players.generator.buffers(), *players.discriminator.buffers()]
        self._eager = Steps(players.d_step, players.g_step, "off", "steps run eagerly")

    def made(self, asked: str, before: str | None) -> Steps:
        """asked: as Config.compile. before: the way of the run so far, with which a resumed one goes on if it may."""
        # Runs from before there were CUDA graphs say yes or no.
        before = {True: "on", False: "off"}.get(before, before)  # type: ignore[call-overload]
        if before == "graph" and self._device.type != "cuda":
            before = None
        way = before if before and asked == "auto" else asked
        about = ""
        if way != "off":
            try:
                return self._measured() if way == "auto" else self._compiled(way)[0]
            except torch.OutOfMemoryError:
                # Graphs keep their memory, beside the eager steps'.
                about = "steps run eagerly: the GPU's memory does not hold them as graphs too"
            torch.cuda.empty_cache()
        return Steps(self._eager.d_step, self._eager.g_step, "off", about)

    def _measured(self) -> Steps:
        """What is fastest, as far as the steps to come repay finding out."""
        plain = self._recorded() if self._device.type == "cuda" else self._eager
        to_come, known = self._seconds(plain) * self._iterations, pace.recall(self._key())
        saving, cost = (known.saving, known.seconds) if known else (HOPE[self._device.type], LEAST_SECONDS)
        if to_come * saving <= cost:
            plain.about += (
                f": {to_come:.0f} s are to come, and compiling takes {'' if known else 'at least '}{cost:.0f} s to save"
                f" {'' if known else 'at most '}{saving:.0%}"
            )
            return plain
        compiled, seconds = self._compiled("on")
        if compiled.way != "on":
            if compiled.way == "graph":  # the compiler failed at both, and has nothing to save
                pace.remember(self._key(), Pace(0.0, round(seconds, 1)))
            return compiled if plain is self._eager else plain
        now, then = self._alternating(plain, compiled)
        saving = 1 - then / now
        pace.remember(self._key(), Pace(round(saving, 3), round(seconds, 1)))
        chosen = compiled if saving > 0 else plain
        chosen.about += f": {1000 * now:.1f} ms an iteration, {1000 * then:.1f} ms compiled (in {seconds:.0f} s)"
        return chosen

    def _recorded(self) -> Steps:
        """As CUDA graphs without a compiler, which takes a moment; eagerly where that cannot be, or does not pay."""
        graphs, _ = self._compiled("graph")
        if graphs.way == "off":
            return graphs
        now, then = self._alternating(self._eager, graphs)
        chosen = graphs if then < now else self._eager
        chosen.about += f": {1000 * now:.1f} ms an iteration eagerly, {1000 * then:.1f} ms as graphs"
        return chosen

    def _compiled(self, way: str) -> tuple[Steps, float]:
        """The steps in that way, or the eager ones with the reason; and the seconds that compiling took."""
        players, mode = self._players, "graph" if way == "graph" else "default"
        d_step, g_step = CompiledStep(players.d_step, mode), CompiledStep(players.g_step, mode)
        steps = Steps(d_step, g_step, way, "")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fastgan.compile: .* runs eagerly", UserWarning)  # told in `about`
            self._iteration(steps)
        for name, step in (("discriminator's step", d_step), ("generator's step", g_step)):
            if step.why_eager:
                about = f"steps run eagerly: the {name} cannot be compiled: {step.why_eager}"
                return Steps(players.d_step, players.g_step, "off", about), 0.0
        how = list(dict.fromkeys([*d_step.how, *g_step.how]))
        if all(one.startswith("CUDA graph") for one in how):
            steps.way, steps.about = "graph", f"steps run as {how[0].replace('graph', 'graphs', 1)}"
        else:
            steps.about = f"steps run compiled, captured by {', '.join(how)}"
        return steps, d_step.seconds + g_step.seconds

    def _iteration(self, steps: Steps) -> float:
        """Seconds of one discriminator step for each that an iteration has, and of a generator step."""
        players, config = self._players, self._players.config
        d_step = functools.partial(steps.d_step, *self._d_args, **self._d_named)
        g_step = functools.partial(steps.g_step, *self._g_args, **self._g_named)
        with preserved(self._buffers):
            discriminators = self._mean(d_step, players.lazy, config.penalty_interval)
            # Where it matches nothing all steps are lazy, as in loop.py.
            return (config.d_steps or 1) * discriminators + self._mean(g_step, True, config.matching_interval)

    def _mean(self, step: Callable[..., Any], rare: bool, interval: int) -> float:
        """Seconds of a step with a lazy part, which where it is rare comes at one step in so many."""
        if not rare or interval == 1:
            return self._time(functools.partial(step, lazy=rare))
        return sum(
            share * self._time(functools.partial(step, lazy=lazy))
            for lazy, share in ((False, 1 - 1 / interval), (True, 1 / interval))
        )

    def _time(self, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - start

    def _seconds(self, steps: Steps) -> float:
        self._iteration(steps)
        return statistics.median(self._iteration(steps) for _ in range(_ROUNDS))

    def _alternating(self, one: Steps, other: Steps) -> tuple[float, float]:
        pairs = [(self._iteration(one), self._iteration(other)) for _ in range(_ROUNDS + 1)][1:]
        return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)

    def _key(self) -> str:
        players, config = self._players, self._players.config
        shapes = [list(a.shape) if isinstance(a, Tensor) else a for a in self._d_args]
        on = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else torch.get_num_threads()
        named = [repr(tree_flatten(each)[1]) for each in (self._d_named, self._g_named)]  # which remedies there are
        facts = (str(players.generator), str(players.discriminator), shapes, named, config.augment, config.unroll,
                 config.precision, players.game.name, sorted(players.penalties(True)), config.penalty_interval,
                 players.matching(True), config.matching_interval, config.d_steps, str(on),
                 torch.__version__)  # fmt: skip
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
