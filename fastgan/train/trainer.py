"""The training loop: batches in, steps of both players, metrics, panels, checkpoints, report."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastgan.errors import CollapseError, RankError, UsageError
from fastgan.losses import ADVERSARIAL, AdversarialLoss
from fastgan.report.animation import write_animation
from fastgan.report.page import write_report
from fastgan.train import rundir, samples, state
from fastgan.train.batches import Batch, source_channels, taken
from fastgan.train.compile_policy import Choice, Steps
from fastgan.train.config import Config, unknown
from fastgan.train.device import float32_products, resolve_device, why_slow
from fastgan.train.distributed import World, alone
from fastgan.train.ema import Ema
from fastgan.train.growth import Growth
from fastgan.train.joint_batch import why_not_together
from fastgan.train.loggers import check_wandb
from fastgan.train.memory_format import laid_out, why_not_channels_last
from fastgan.train.monitor import Monitor
from fastgan.train.nearest import Neighbors
from fastgan.train.noise import Noise
from fastgan.train.nonfinite import Guard
from fastgan.train.optimizers import optimizer_of
from fastgan.train.pair import learned
from fastgan.train.progress import Progress, Silent
from fastgan.train.regularization.packing import packed
from fastgan.train.regularization.run import Remedies
from fastgan.train.regularization.unroll import state_of
from fastgan.train.rollback import Restore
from fastgan.train.statistics import running_statistics, synchronize
from fastgan.train.step import Players
from fastgan.train.update import Update
from fastgan.train.validation import why_not_networks


class Trainer:
    """Trains a generator against a discriminator: any two modules, any iterator of batches.

    generator: module from z [N, *latent_shape] to images [N, C, H, W]; latent_shape is (generator.latent,) where it has
    that attribute, else (config.latent,) unless given. discriminator: module from images to logits (one per image, any
    shape). A generator whose attribute `classes` is greater than 0 takes labels too, and so does its discriminator; one whose
    attribute `source_channels` is makes images of other images instead of latents: see `fastgan.train.pair.Pair`. game:
    a name in `fastgan.losses.ADVERSARIAL` or a AdversarialLoss. config: see `fastgan.Config`; its fields data, model, width and the
    like describe networks built by name and are not used here. out: the run directory, or None to write nothing. about:
    more facts for `config.json` (command, data set). world: this process among those that train together, from
    `fastgan.train.distributed.joined`; rank 0 writes.

    After `fit`, `generator` and `discriminator` are trained in place and `ema.module` is the averaged generator.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        game: str | AdversarialLoss = "non-saturating",
        config: Config | None = None,
        *,
        latent_shape: tuple[int, ...] | None = None,
        out: str | Path | None = None,
        about: dict[str, Any] | None = None,
        world: World | None = None,
    ):
        self.config = config = config or Config()
        if isinstance(game, str) and game not in ADVERSARIAL:
            raise UsageError(unknown("game", game, list(ADVERSARIAL)))
        self.game = ADVERSARIAL[game] if isinstance(game, str) else game
        if self.game.name in ADVERSARIAL:
            # The configuration says what is played; replacing it also checks the game against its other fields.
            self.config = config = dataclasses.replace(config, game=self.game.name)
        config.check(self.game)  # one of the user's own is not in the configuration
        if why := why_not_networks(config, generator, discriminator, latent_shape):
            raise UsageError(why)
        self.config = config = config.settled(self.game)
        self.world = world or alone()
        self.device = self.world.device or resolve_device(config.device)
        if config.compile == "graph" and self.device.type != "cuda":
            raise UsageError(
                f"compile: graph records CUDA graphs, and the device is {self.device}; take auto, on or off"
            )
        self.generator = generator.to(self.device).train()
        self.discriminator = discriminator.to(self.device).train()
        self.ema = Ema(self.generator, config.ema_images)
        self.growth = Growth(config.grow_images, self.generator, self.ema.module, self.discriminator)
        if config.sync_statistics and self.world.size > 1:
            for network in (self.generator, self.discriminator):
                synchronize(network, self.world)
        # Synchronized ones are equal already.
        apart = [] if config.sync_statistics else [self.generator, self.discriminator, self.ema.module]
        self._statistics = running_statistics(*apart)
        #: How many the networks are conditional on; 0 where they are not.
        self.classes = int(getattr(generator, "classes", 0))
        #: Channels of the sources of which images are made; 0 where they are made of latents.
        self.sources = source_channels(generator)
        shape = latent_shape or (int(getattr(generator, "latent", config.latent)),)
        self.noise = Noise(config.seed, shape, self.device, self.world)
        self.remedies = Remedies(config, self.noise, self.device, self.world)
        self.players = Players(self.generator, self.discriminator, self.game, config)
        fp16 = config.precision == "fp16"
        self.updates = {
            name: Update(
                network,
                optimizer_of(config, network.parameters(), lr),
                self.world,
                config.clip,
                fp16,
                weight_clip,
                config.historical_averaging,
            )
            for name, network, lr, weight_clip in (
                ("generator", self.generator, config.lr_g or 0.0, 0.0),
                ("discriminator", self.discriminator, config.lr_d or 0.0, config.weight_clip or 0.0),
            )
        }
        self.out = Path(out) if out is not None else None
        self._writes_to = self.out if self.world.rank == 0 else None
        self.about = dict(about or {})
        self.step = 0
        self.seconds = 0.0
        self.images = 0
        self.guard, self.monitor, self.restore = Guard(self), Monitor(self), Restore(self)
        self._asked_to_stop = False
        self.steps: Steps | None = None
        self._channels_last = False
        self._aside = 0.0  # seconds of this interval that were not training
        #: The last batch, and those of the last update: real, z, and y where the discriminator is told something.
        self.seen: dict[str, Tensor] = {}
        self._recent: deque[dict[str, Tensor]] = deque(maxlen=config.accumulate)
        self._came: Tensor | None = None  # the last batch of images, in the size it came in
        self.held_out: dict[str, Tensor] | None = None
        self.classifier: nn.Module | None = None
        self.neighbors: Neighbors | None = None
        self._latest: dict[str, float] = {}

    # --- the loop ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        held_out: Batch | None = None,
        classifier: nn.Module | None = None,
        reference: np.ndarray | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, float]:
        """Train until config.steps on batches [N, C, H, W], float in [-1, 1]. Returns the last interval's means.

        Where the networks are conditional, batches are pairs of images and labels (int64 [N]); elsewhere labels that
        come are not used. Where images are made of sources they are pairs of sources and targets, both float.

        resume: continue the run in `out` from its newest whole checkpoint; the batches continue too where they have
        state_dict and load_state_dict, as `fastgan.data.stream.BatchStream` has. held_out: a batch [M, C, H, W] of
        others, by which the monitor sees whether the discriminator learns by heart, and of pairs how far what is made of
        sources is from their targets. classifier: a module from such images to logits [N, classes], by which it counts
        modes. reference: what batches are made of, uint8 [M, C, H, W] (a memory map will do): panels show the nearest
        to each sample; neither of both for pairs. overwrite: replace the run in `out`. Ctrl-C ends after the step in
        progress with a checkpoint, and raises KeyboardInterrupt. An update whose loss or gradient is not finite is
        skipped; raises NonFiniteError after config.max_skipped of them in a row, naming the first bad layer; the last
        good checkpoint stays. What the monitor finds wrong is said; with config.on_collapse "stop", mode collapse and
        divergence raise CollapseError, with "restore" the run goes back to a checkpoint from before that some times
        first (see restore.py).
        """
        progress = Progress(self.config.steps) if self.world.rank == 0 else Silent(self.config.steps)
        metrics = None
        self.held_out = None if held_out is None else self._taken(held_out, "held_out")
        for name, given in (("classifier", classifier), ("reference", reference)):
            if self.sources and given is not None:
                raise UsageError(
                    f"{name}: it is for what is made of latents, and this is made of sources; leave it out"
                )
        self.classifier = None if classifier is None else classifier.to(self.device)
        if self.out is not None:
            state.check_batches(batches)
        check_wandb(self.config.wandb, self.out)
        if self._writes_to is not None:
            if reference is not None:
                self.neighbors = Neighbors(reference)
            rundir.prepare(self._writes_to, resume=resume, overwrite=overwrite)
        if resume:
            if self.out is None:
                raise UsageError("resume: there is nothing to resume without `out`")
            self.world.barrier()  # until rank 0 has found it whole
            # How the steps are computed was decided by what the first batch showed; another could show otherwise.
            decided = rundir.read_config(self.out)
            self.about |= {name: decided[name] for name in ("apart", "compiled", "levels") if name in decided}
            state.load(self, batches, progress.say)
            # A finished run takes no step, and its networks may be smaller than when they were built.
            if self.growth.come_to(self.images):
                progress.say(f"step {self.step}: images of {self.growth.name}")
        self._begin_together()
        if slow := why_slow(self.config.precision, self.device):
            progress.say(slow)
        if self._writes_to is not None:
            rundir.write_json(self._writes_to / "config.json", self._facts())
            metrics = rundir.Metrics(self._writes_to, self.step, self.config)
            self.monitor.rows = metrics.kept
        previous = self._listen()
        try:
            with float32_products(self.config.precision == "tf32"):
                return self._run(batches, progress, metrics)
        except KeyboardInterrupt:
            progress.say(
                f"interrupted at step {self.step}" + (f"; continue with --resume --out {self.out}" if self.out else "")
            )
            self._end("interrupted", metrics)
            raise
        except Exception as error:
            if isinstance(error, RankError):
                whole = state.folder_of(self.out)
                error.when = f" at step {self.step}"
                error.then = f"{whole}; the run can go on with --resume" if whole else ""
            progress.close()
            self._end("failed", metrics, str(error))
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            progress.close()

    def _run(self, batches: Iterable[Batch], progress: Progress, metrics: rundir.Metrics | None) -> dict[str, float]:
        config, means, stream = self.config, rundir.Means(), iter(batches)
        mark, mark_images, mark_step = time.perf_counter(), self.images, self.step
        self.guard.begin()
        self.ema.forget()
        for update in self.updates.values():
            update.begin()
        self._status("running")
        stop = False
        while self.step < config.steps and not stop:
            self.iterate(stream, means, progress.say)
            last = self.step == config.steps
            pause = self._pauses_at(self.step)
            if pause or self.world.size == 1:
                stop = self.world.any(self._asked_to_stop)
                last = last or stop
            if last or pause:
                # The one place that waits for the device.
                self._latest = means.fetch(self.world)
                self.world.mean_(self._statistics)
                self._latest |= self.monitor.look()
                elapsed = time.perf_counter() - mark - self._aside
                self._aside = 0.0
                self.seconds += elapsed
                speed = (self.images - mark_images) / elapsed
                self.guard.look(progress.say)
                left = (config.steps - self.step) * elapsed / (self.step - mark_step)
                names = {"D": "loss/discriminator", "G": "loss/generator"}
                shown = {short: self._latest[name] for short, name in names.items() if name in self._latest}
                row = {
                    "step": self.step, "images": self.images, "seconds": round(self.seconds, 3), **self._latest,
                    "speed/images_per_second": speed, **self.growth.figures, **self.restore.told(),
                }  # fmt: skip
                if metrics is not None:
                    metrics.write(row)
                verdict = self.monitor.judge(row, progress.say)
                progress.show(self.step, speed, left, shown, [v.name for v in self.monitor.verdicts])
                decision = self.restore.decide(verdict)
                last = last or decision.stop
                if self._writes_to is not None:
                    # The pictures first: a run killed after the checkpoint does not come by here again.
                    if last or self._due("sample_every"):
                        self._save_panels()
                        rundir.write_json(self._writes_to / "layers.json", self.monitor.layers)
                        self._status("running")
                        write_report(self._writes_to)
                    if decision.to is None and (last or self._due("checkpoint_every")):
                        state.save(self, batches, metrics)
                if decision.to is not None:
                    self.restore.go_back(decision, verdict, batches, metrics, progress.say)
                mark, mark_images, mark_step = time.perf_counter(), self.images, self.step
                if decision.stop:
                    why = "another rank has found that it collapsed" if verdict is None else verdict.sentence()
                    raise CollapseError(f"stopped at step {self.step}: {why}{self.restore.why_not()}")
        if stop:
            raise KeyboardInterrupt
        self._end("finished", metrics)
        return self._latest

    def iterate(self, stream: Iterator[Batch], means: rundir.Means, say: Callable[[str], None]) -> None:
        """config.d_steps updates of the discriminator, one of the generator and of its average. Waits for nothing.

        means: takes what is to be logged. say: hears how the steps are computed.
        """
        if self.growth.come_to(self.images):
            say(f"step {self.step}: images of {self.growth.name}")
            self.steps, self._channels_last = None, False  # both are decided anew
            self.ema.forget()
        for _ in range(self.config.d_steps or 1):
            self._improve_discriminator(stream, means, say)
        self._improve_generator(means)
        self.step += 1
        self.ema.update(self.generator, self._images_per_update, self.step)

    def _improve_discriminator(self, stream: Iterator[Batch], means: rundir.Means, say: Callable[[str], None]) -> None:
        config, update = self.config, self.updates["discriminator"]
        lazy = self.players.lazy and self.step % config.penalty_interval == 0
        for _ in range(config.accumulate):
            batch = self._next(stream)
            real, y = batch["real"], batch.get("y")
            z = batch["z"] if self.sources else self.noise.latents(len(real))
            epsilon = self.noise.epsilon(len(real) // config.pack, real.dim()) if self.players.between else None
            named = {"y": y, "draws": self.remedies.for_discriminator(real, self.step)}
            self.seen = batch | {"z": z}
            if self.steps is None:
                self._channels_last = not why_not_channels_last(self.players, real, z, y)
                for either in self.updates.values():
                    either.lay_out()
                self.seen |= self._laid_out(batch)
                real, z, named["y"] = self.seen["real"], self.seen["z"], self.seen.get("y")
                self.steps = self._start((real, z, epsilon, update.scale), named, say)
            self._recent.append(self.seen)
            log, gradients = self.steps.d_step(real, z, epsilon, update.scale, lazy=lazy, **named)
            fakes = log.pop("fakes", None)
            self.remedies.learn(log, fakes, y, len(real) * self.world.size)
            update.add(log["loss/discriminator"], gradients)
            means.add(log)
            self.images += len(real) * self.world.size
        means.add({"gradient/discriminator": update.apply(watch=self._pauses_at(self.step + 1))})

    def _improve_generator(self, means: rundir.Means) -> None:
        assert self.steps is not None
        update = self.updates["generator"]
        lazy = self.step % self.config.matching_interval == 0
        for seen in self._recent:
            z = seen["z"] if self.sources else self.noise.latents(len(seen["real"]))
            log, gradients = self.steps.g_step(z, update.scale, lazy=lazy, **self._beside(seen))
            update.add(log["loss/generator"], gradients)
            means.add(log)
        means.add({"gradient/generator": update.apply(watch=self._pauses_at(self.step + 1))})

    def _beside(self, seen: dict[str, Tensor]) -> dict[str, Any]:
        """What the generator's step takes beside as many latents as this batch has images, or beside its sources."""
        real, players = seen["real"], self.players
        labels = self.noise.labels(len(real), self.classes) if self.classes else None
        named: dict[str, Any] = {"y": seen.get("y") if self.sources else labels}
        named["draws"] = self.remedies.for_generator(real, self.step, players.beside)
        if players.beside:
            named |= {"real": real, "real_y": seen.get("y")}
        if self.config.unroll:
            named["ahead"] = state_of(self.updates["discriminator"].optimizer, learned(self.discriminator))
        return named

    def _begin_together(self) -> None:
        """Let all ranks be at the same step of the same run, with the same weights."""
        numbers = {n: v or 0 for n, v in self.config.to_dict().items() if not isinstance(v, str)}
        self.world.agree({**numbers, "step": self.step})
        networks = self.generator, self.discriminator, self.ema.module
        self.world.broadcast_([t.detach() for network in networks for t in (*network.parameters(), *network.buffers())])
        self.world.part_random(self.config.seed, self.step)

    def _start(self, d_args: tuple[Any, ...], d_named: dict[str, Any], say: Callable[[str], None]) -> Steps:
        """What can be decided only with a batch at hand: how the steps are computed."""
        begun, came = time.perf_counter(), self._came
        real, z, _, _ = d_args
        assert came is not None
        for name, mine in (self.held_out or {}).items():
            like = came if name == "real" else self.seen[name]
            if mine.shape[1:] != like.shape[1:]:
                wanted = f"[M, {', '.join(map(str, like.shape[1:]))}]"
                kind = "images" if name == "real" else "sources"
                raise UsageError(f"held_out: expected {kind} like the batches', {wanted}, got {list(mine.shape)}")
        if self.neighbors is not None and self.neighbors.shape != list(came.shape[1:]):
            raise UsageError(
                f"reference: expected images like the batches', {list(came.shape[1:])}, got {self.neighbors.shape}"
            )
        self.world.agree({"batches": len(real)})
        decided = self.growth.decided(self.about)
        before = decided.get("apart")
        why = (
            why_not_together(self.discriminator, packed(real, self.config.pack), d_named["y"])
            if before is None
            else before
        )
        if self.world.any(bool(why)):
            why = why or "another rank has a reason"
        decided["apart"] = why
        self.players.together = not why
        say(f"discriminator: real and fake images {f'apart: {why}' if why else 'as one batch'}")
        iterations = (self.config.steps - self.step) * self.config.accumulate
        shown = len(real) * self.world.size * (self.config.d_steps or 1)
        if self.step == 0 and (short := self.growth.why_short(iterations * shown)):
            say(short)
        iterations = int(min(iterations, self.growth.left(self.images) / shown))
        with self.noise.undone():  # they are drawn again in the first step
            g_named = self._beside(self.seen)
        choice = Choice(self.players, d_args, d_named, (z, self.updates["generator"].scale), g_named, iterations)
        talking = self.config.sync_statistics and self.world.size > 1
        # Ranks that talk within a step must all take as many, so none of them measures; nor could it be captured.
        steps = choice.made("off" if talking else self.config.compile, decided.get("compiled"))
        # Asked of all ranks alike: who asks another question than they do waits for ever.
        eager, recorded = (self.world.any(not talking and steps.way == way) for way in ("off", "graph"))
        if talking:
            steps.about = "steps run eagerly: batch norms synchronize within them"
        elif eager and steps.compiled:
            steps = choice.made("off", None)
            steps.about = "steps run eagerly, as they do on another rank"
        elif recorded and steps.way == "on":
            steps = choice.made("graph", None)
        if steps.about:
            say(steps.about)
        decided["compiled"] = steps.way
        for update in self.updates.values():
            update.records = steps.compiled and self.device.type == "cuda" and self.world.size == 1
        if self._writes_to is not None:
            # A resumed run computes as this one does, bit for bit.
            rundir.write_json(self._writes_to / "config.json", self._facts())
            if self.step == 0:
                samples.save(came[: samples.COUNT].float().cpu().numpy(), self._writes_to / "samples" / "real.png")
        self._aside += time.perf_counter() - begun
        return steps

    @property
    def _images_per_update(self) -> int:
        return len(self.seen["real"]) * self.config.accumulate * self.world.size

    def _next(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        try:
            batch = self._taken(next(batches))
        except StopIteration:
            raise UsageError(
                f"batches: ended after {self.step} of {self.config.steps} steps; give an endless iterator"
                " (itertools.cycle, or a generator that loops over the data)"
            ) from None
        self._came = batch["real"]
        batch["real"] = self.growth.averaged(self._came)
        if self.world.size > 1 and self.seen and len(batch["real"]) != len(self.seen["real"]):
            # The mean of the ranks' means is the batch's only where all are of one size.
            raise UsageError(
                f"batches: expected {len(self.seen['real'])} images each time on several ranks, got"
                f" {len(batch['real'])}; leave the rest of an epoch out (drop_last=True)"
            )
        return self._laid_out(batch)

    def _taken(self, batch: Batch, name: str = "batches") -> dict[str, Tensor]:
        return taken(batch, self.generator, self.discriminator, self.device, name)

    def _laid_out(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return laid_out(batch) if self._channels_last else batch

    def _pauses_at(self, step: int) -> bool:
        config = self.config
        return step == config.steps or any(
            step % every == 0 for every in (config.log_every, config.sample_every, config.checkpoint_every)
        )

    def _due(self, field: str) -> bool:
        return self.step % getattr(self.config, field) == 0

    def _listen(self) -> dict[int, Any]:
        """Let Ctrl-C, or a scheduler's polite end, finish the step in progress first; a second Ctrl-C ends at once.

        Several ranks agree on the step at which to end where they pause anyway: to log, sample or save. Returns the
        handlers to restore.
        """
        self._asked_to_stop = False
        if threading.current_thread() is not threading.main_thread():
            return {}

        def stop(number: int, frame: Any) -> None:
            # A scheduler may reach each rank twice, once by way of torchrun.
            if self._asked_to_stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._asked_to_stop = True

        return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    # --- what it writes ----------------------------------------------------------------------------------------------

    def sample(self, z: Tensor) -> np.ndarray:
        """Images of the averaged generator for z [N, *latent_shape], or sources, as float32 [N, C, H, W]."""
        return samples.sample(self.ema.module, z, self.device)

    def _save_panels(self) -> None:
        assert self._writes_to is not None
        samples.save_all(self, self._writes_to)

    def _end(self, state: str, metrics: rundir.Metrics | None, message: str = "") -> None:
        # Each by itself: on a full disk what ended the run matters more than a page that could not be written.
        for write in (
            lambda: self._status(state, message),
            lambda: metrics.close() if metrics is not None else None,
            lambda: write_animation(self._writes_to) if self._writes_to is not None else None,
            lambda: write_report(self._writes_to) if self._writes_to is not None else None,
        ):
            with contextlib.suppress(*[OSError] * (state != "finished")):
                write()

    def _facts(self) -> dict[str, Any]:
        def describe(network: nn.Module) -> dict[str, Any]:
            return {"name": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}

        return {
            "config": self.config.to_dict(),
            # config.game knows only those that have a name in ADVERSARIAL.
            "game": self.game.name,
            "loss": {"name": self.game.name, "unbounded": self.game.unbounded},
            "world": self.world.size,
            "environment": rundir.environment(self.device),
            "networks": {"generator": describe(self.generator), "discriminator": describe(self.discriminator)},
            **({"source_channels": self.sources} if self.sources else {"latent_shape": list(self.noise.latent_shape)}),
            **({} if self.neighbors is None else {"neighbors": self.neighbors.about}),
            **self.about,
        }

    def _status(self, state: str, message: str = "") -> None:
        if self._writes_to is not None:
            status = {"state": state, "step": self.step, "steps": self.config.steps, "message": message}
            write = rundir.write_last if state == "failed" else rundir.write_json
            write(self._writes_to / "status.json", status)
