"""The training loop: batches in; steps, updates, metrics, sample grids, checkpoints and a report out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastgan._util.checks import unknown
from fastgan._util.notebook import Picture, in_notebook
from fastgan._util.options import named, option
from fastgan._util.progress import Progress
from fastgan._util.signals import StopSignals
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.errors import CollapseError, RankError, UsageError
from fastgan.losses import ADVERSARIAL, AdversarialLoss
from fastgan.nn.moving_averages import moving_averages
from fastgan.report.legacy import modernized_config
from fastgan.tasks import Generation, Task
from fastgan.tasks.base import Batch
from fastgan.tasks.batches import described, on_device
from fastgan.train import build, rollback, rundir, samples
from fastgan.train import state as run_state
from fastgan.train.callbacks import Callback, call
from fastgan.train.class_embeddings import set_class_embeddings
from fastgan.train.compile_policy import Inputs, Steps, plain_steps
from fastgan.train.config import Config
from fastgan.train.data import Batches
from fastgan.train.device import float32_products, resolve_device, resolve_precision, why_slow
from fastgan.train.distributed import World, single_process
from fastgan.train.ema import Ema
from fastgan.train.evaluation import Evaluation
from fastgan.train.init_from import start_from
from fastgan.train.iteration import IterationGraph
from fastgan.train.logging import Interval, Means, Metrics, check_wandb
from fastgan.train.monitor import Monitor
from fastgan.train.nonfinite import NonFiniteGuard
from fastgan.train.prepare import prepare
from fastgan.train.step import Shared, TaskSteps
from fastgan.train.sync_batch_norm import running_statistics
from fastgan.train.validation import check_networks, check_options, check_own_task, check_trainable

_logger = logging.getLogger(__name__)

Log = dict[str, Tensor]


class Trainer:
    """Trains a generator against a discriminator: any modules, any task, any iterator of batches.

    generator, discriminator: modules, or ModuleDicts of several. loss: a name in `fastgan.losses.ADVERSARIAL` or an
    AdversarialLoss, in place of the configuration's; for a task of one's own it gives the usual optimizer settings
    alone. config: see `fastgan.Config`; its topics data and model describe sets and networks by name and are not used
    here. task: a subclass of `fastgan.Task`, or a function of both networks that returns a Task; left out, the task
    that the configuration names, else `fastgan.tasks.Paired` for a generator with the attribute `source_channels`, else
    `fastgan.tasks.Generation`. latent_shape: of one z, for generation; (generator.latent,) where it has that attribute,
    else (config.model.latent,). out: the run directory, or None to write nothing. about: more facts for `config.json`.
    world: this process among those that train together, from `fastgan.train.distributed.process_group`; rank 0 writes.

    After `fit`, `generator` and `discriminator` are trained in place and `ema.module` is the averaged generator.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str | AdversarialLoss | None = None,
        config: Config | None = None,
        *,
        task: Callable[[nn.Module, nn.Module], Task] | None = None,
        latent_shape: tuple[int, ...] | None = None,
        out: str | Path | None = None,
        about: dict[str, Any] | None = None,
        world: World | None = None,
    ):
        config = config or Config()
        loss = config.loss.adversarial if loss is None else loss
        if isinstance(loss, str) and loss not in ADVERSARIAL:
            raise UsageError(unknown("loss", loss, list(ADVERSARIAL)))
        self.loss = ADVERSARIAL[loss] if isinstance(loss, str) else loss
        if self.loss.name in ADVERSARIAL:
            # The configuration names it; replacing it also checks it against the other options.
            config = config.with_flags(loss=self.loss.name)
        check_options(config, self.loss)  # one of the user's own is not in the configuration
        check_trainable(generator, discriminator)
        if task is None:
            check_networks(config, generator, discriminator, latent_shape)
        else:
            check_own_task(config)
        world = world or single_process()
        self.device = device = world.device or resolve_device(config.device)
        precision = resolve_precision(config.precision, device)
        self.config = config = dataclasses.replace(config.settled(self.loss), precision=precision)
        if config.compile == "graph" and device.type != "cuda":
            raise UsageError(f"compile: graph captures CUDA graphs, and the device is {device}; take auto, on or off")
        self.state = build.train_state(config, self.loss, generator, discriminator, world, device, task, latent_shape)
        self.state.out, self.state.about = Path(out) if out is not None else None, dict(about or {})
        if config.logging.on_collapse == "rollback" and out is None:
            raise UsageError("on_collapse: 'rollback' goes back to a checkpoint, and without `out` there are none")
        # Synchronized ones are equal already.
        apart = [] if config.sync_statistics else self.state.networks.values()
        self._statistics = running_statistics(*apart)
        self._averages = moving_averages(self.state.task.generator)
        self.monitor, self._guard = Monitor(self.state), NonFiniteGuard(self.state)
        self.steps: Steps | None = None
        self._step_graphs: Steps | None = None
        self._graph: IterationGraph | None = None
        self._stop = StopSignals()
        self._picture, self._named_grids = Picture(), False
        self._evaluation: Evaluation
        self._callbacks: list[Callback] = []
        self._recent: deque[Batch] = deque(maxlen=config.optim.accumulate)

    # --- one iteration ------------------------------------------------------------------------------------------------

    def train_step(
        self,
        d_inputs: Iterable[Iterable[Inputs]],
        g_inputs: Iterable[Inputs],
        ema: float | Tensor | None = None,
        watch: bool = False,
    ) -> list[Log]:
        """One iteration: discriminator steps and updates, generator step and update, average. Waits for nothing.

        d_inputs: for each update of the discriminator batches and their noise, whose gradients are averaged. g_inputs:
        the same for the update of the generator. ema: how far the average moves; as the configuration says if None.
        watch: let the updates note the norms of each weight. Returns what is to be logged.
        """
        assert self.steps is not None
        state, task, logs = self.state, self.task, []
        discriminator, generator = state.updates["discriminator"], state.updates["generator"]
        discriminator.drop()
        generator.drop()
        shared = Shared({})
        for group in d_inputs:
            found = []
            for batch, noise in group:
                if self.steps.shared is not None:
                    shared = Shared(self.steps.shared(batch, noise))
                loss, gradients = self.steps.discriminator(batch, discriminator.scaled(noise) | shared.constants)
                discriminator.add(loss.value, gradients)
                task.update(loss, batch, len(batch[task.real]) * state.world.size, state.random)
                found.append(loss.log)
            if found:  # else the iteration is without the discriminator
                logs += [*found, {"gradient/discriminator": discriminator.apply(watch)}]
        losses = []
        for batch, noise in g_inputs:
            loss, gradients = self.steps.generator(batch, generator.scaled(noise) | shared.leaves)
            generator.add(loss.value, shared.gradients(gradients, self.generator))
            losses.append(loss)
        logs += [loss.log for loss in losses]
        task.update_after_generator(losses)
        weight = self._ema_weight() if ema is None else ema
        state.world.mean_(self._averages)
        logs.append({"gradient/generator": generator.apply(watch, state.ema.averages(task.generator), weight)})
        state.ema.update(task.generator, weight, generator.averaged)
        return logs

    def iterate(self, batches: Batches, means: Means) -> None:
        """One iteration on the next batches, step by step or as one CUDA graph, after `prepare`. Waits for nothing."""
        if self.config.optim.scheduled:
            self.state.set_rates()
        watch = self._pauses_at(self.state.step + 1)
        if self._graph is None:
            logs = self.train_step(self._d_inputs(batches), self._g_inputs(), watch=watch)
        else:
            d_inputs = [list(group) for group in self._d_inputs(batches)]
            logs = self._graph(d_inputs, list(self._g_inputs()), self._ema_weight(), watch)
            if self._graph.captured:
                self._step_graphs = None  # their memory is needed no more
            if self._graph.reason:
                self._without_graph(self._graph)
        for log in logs:
            means.add(log)
        self.state.step += 1

    def _without_graph(self, graph: IterationGraph) -> None:
        """Go on where an iteration cannot be one graph: each step as a graph of its own, or eagerly."""
        self._graph = None
        if graph.too_many or self._step_graphs is None:
            plain = TaskSteps(self.task, self.config.precision)
            self.steps = plain_steps(plain, self.config, graph.reason)
        else:
            self.steps = self._step_graphs

    def _d_inputs(self, batches: Batches) -> Iterator[Iterator[Inputs]]:
        """Batches and noise of each update of the discriminator, drawn when they are asked for."""
        state, optim = self.state, self.config.optim

        def group() -> Iterator[Inputs]:
            for _ in range(optim.accumulate):
                batch = next(batches)
                noise = state.draw("discriminator", batch)
                state.batch, state.noise["discriminator"] = batch, noise
                state.images += len(batch[state.task.real]) * state.world.size
                self._recent.append(batch)
                if noise.get("adversarial", True):
                    yield batch, noise

        for _ in range(optim.d_steps or 1):
            yield group()

    def _g_inputs(self) -> Iterator[Inputs]:
        """The batches of the last update of the discriminator, with noise for the generator's step."""
        for batch in self._recent:
            noise = self.state.noise["generator"] = self.state.draw("generator", batch)
            yield batch, noise

    def _ema_weight(self) -> float:
        images = len(self.state.batch[self.task.real]) * self.config.optim.accumulate * self.state.world.size
        return self.state.ema.weight(images, self.state.step + 1)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        batches: Iterable[Any],
        *,
        held_out: Any = None,
        classifier: nn.Module | None = None,
        reference: np.ndarray | ImageSet | None = None,
        resume: bool = False,
        overwrite: bool = False,
        init_from: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, float]:
        """Train until config.steps. Returns the last interval's means.

        batches: a data loader or another iterable, which is iterated again at its end, or an endless iterator, of
        dictionaries of tensors, as the task takes them; for `Generation` also images [N, C, H, W], float in [-1, 1] (or
        in the generator's attribute `range`), or pairs of those and labels [N]; for `Paired` also pairs of sources and
        targets. The first one is checked: a UsageError says what does not fit.

        resume: continue the run in `out` from its newest whole checkpoint; the batches continue too where they have
        state_dict and load_state_dict, as `fastgan.data.stream.BatchStream` has. held_out: one more batch, which is not
        trained on, to measure how far the discriminator overfits, and of pairs the distance to their targets.
        classifier: a module from images to logits [N, classes], by which modes are counted. reference: what batches are
        made of, uint8 [M, C, H, W] (a memory map will do) or an ImageSet with labels too: sample grids show the nearest
        to each sample, and config.evaluation compares samples with them. Both are for generation alone. callbacks:
        called with TrainFacts at the end of every interval; they can ask to stop (see callbacks.py). overwrite: replace
        the run in `out`. init_from: begin with the weights of a run, a checkpoint or a safetensors file (see
        init_from.py), with fresh optimizers.

        Ctrl-C ends after the step in progress with a checkpoint, and raises KeyboardInterrupt. An update whose loss or
        gradient is not finite is skipped; raises NonFiniteError after config.optim.max_skipped of them in a row, naming
        the first bad layer; the last good checkpoint stays. Diagnoses of the monitor are logged; with
        config.logging.on_collapse "stop", mode collapse and divergence raise CollapseError, with "rollback" the run
        first goes back to a checkpoint from before some times (see rollback.py).
        """
        state, task = self.state, self.task
        if init_from is not None and (resume or state.step):
            has = "a resumed run has weights of its own" if resume else f"this Trainer has trained {state.step} steps"
            raise UsageError(f"init_from: {has}; leave it out")
        for name, given in (("classifier", classifier), ("reference", reference)):
            if given is not None and type(task) is not Generation:
                raise UsageError(f"{name}: it is for generation from latents, got {type(task).__name__}; leave it out")
        state.held_out = None
        if held_out is not None:
            state.held_out = task.transform(on_device(task.collate(held_out, "held_out"), self.device), None)
        if isinstance(task, Generation):
            task.classifier = None if classifier is None else classifier.to(self.device)
        if state.out is not None:
            run_state.check_batches(batches)
        check_wandb(self.config.logging.wandb, state.out)
        if isinstance(reference, np.ndarray):
            reference = ImageSet(np.ascontiguousarray(reference), None, "the reference", NOT_STATED)
        if reference is not None and not isinstance(reference, ImageSet):
            came = described(reference)
            raise UsageError(f"reference: expected an array of numpy, uint8 [M, C, H, W], or an ImageSet, got {came}")
        if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
            raise UsageError(f"callbacks: expected a list of functions of TrainFacts, got {described(callbacks)}")
        self._evaluation = Evaluation(state, reference)
        self._callbacks = list(callbacks)
        # Before a run in `out` is replaced: either can fail, and the weights may be that run's.
        if not resume:
            self._evaluation.open()
        if init_from is not None:
            self._start_from(init_from)
            state.world.barrier()
        elif getattr(task.generator, "continues", False) and not resume and not state.step:
            raise UsageError(
                f"init_from: {type(task.generator).__name__} of several stages goes on from a run of one stage less;"
                f" give {option('init_from', 'RUN')}"
            )
        elif getattr(task.generator, "init_from", ()) and not resume and not state.step:
            raise UsageError(
                f"init_from: {type(task.generator).__name__} trains its decoder alone, behind an encoder that is"
                f" trained; give {option('init_from', 'RUN')}, or a file of such a network"
            )
        if state.run is None:
            return self._fit(batches, resume, reference)
        if reference is not None and isinstance(task, Generation):
            task.neighbors = samples.NearestNeighbors(reference.images)
        with rundir.prepared(state.run, resume=resume, overwrite=overwrite):
            return self._fit(batches, resume, reference)

    def _fit(self, batches: Iterable[Any], resume: bool, reference: ImageSet | None) -> dict[str, float]:
        """`fit`, with arguments that were checked and the run directory of this process."""
        state = self.state
        if resume:
            self._resume(batches)
        if state.step == 0:
            set_class_embeddings(state, reference)
        self._align_ranks()
        if slow := why_slow(self.config.precision, self.device):
            _logger.warning("%s", slow)
        metrics = None
        rundir.write_config(state)
        if state.run is not None:
            metrics = Metrics(state.run, state.step, self.config)
            state.rows = metrics.kept
            if resume and state.step == self.config.steps:  # it may have been killed in its last save
                run_state.prune(state, self._protected())
        try:
            with self._stop, float32_products(self.config.precision == "tf32"):
                return self._run(batches, metrics)
        except KeyboardInterrupt:
            again = f"; continue with {rundir.resuming(state.out)}" if state.out else ""
            _logger.info("interrupted at step %d%s", state.step, again)
            rundir.finish(state, "interrupted", metrics)
            raise
        except Exception as error:
            if isinstance(error, RankError):
                whole = run_state.whole_checkpoint(state.out)
                error.when = f" at step {state.step}"
                error.then = (
                    f"{whole}; the run can go on with {rundir.resuming(state.out)}" if whole and state.out else ""
                )
            rundir.finish(state, "failed", metrics, str(error))
            raise

    def _run(self, given: Iterable[Any], metrics: Metrics | None) -> dict[str, float]:
        state, config, figures = self.state, self.config, dict[str, float]()
        if state.step < config.steps:
            self._evaluation.open()
        batches, means, interval = Batches(given, state), Means(), Interval(state)
        bar = Progress(
            "training", config.steps, unit="steps", before=state.step, each_note=True, quiet=state.world.rank > 0
        )
        self._guard.reset()
        state.ema.forget()
        for update in state.updates.values():
            update.reset()
        state.set_rates()
        rundir.write_status(state, "running")
        stop, ended = False, ""
        with contextlib.closing(bar):
            if (self._grow() or self.steps is None) and state.step < config.steps:
                with interval.aside():
                    self.prepare(batches)
            while state.step < config.steps and not (stop or ended):
                if self._grow():
                    with interval.aside():
                        self.prepare(batches)
                self.iterate(batches, means)
                pause = self._pauses_at(state.step)
                if pause or state.world.size == 1:
                    stop = state.world.any(self._stop.requested)
                if not (pause or stop):
                    bar.add()
                    continue
                # The one place that waits for the device.
                figures = means.fetch(state.world)
                state.world.mean_(self._statistics)
                figures |= self.monitor.measure()
                row = interval.row(figures)
                self._guard.check()
                row |= rollback.in_row(state) | self._evaluation.measure()
                if metrics is not None:
                    metrics.write(row)
                diagnosis = self.monitor.diagnose(row)
                bar.add(note=self.monitor.summary(row))
                decision = rollback.decide(state, diagnosis)
                ended = "" if decision.to is not None else self._end(row)
                self._write(stop or decision.stop or bool(ended), decision.to is None, given, metrics)
                if decision.to is not None:
                    rollback.go_back(state, decision, diagnosis, given, metrics)
                    self._guard.reset()
                    self.monitor.diagnoses = []
                    bar.move_to(state.step)
                state.world.seed_rank(config.seed, state.step)  # as a run does that is resumed here
                interval.start()
                if decision.stop:
                    why = (
                        "another rank has found that it collapsed" if diagnosis is None else named(diagnosis.sentence())
                    )
                    raise CollapseError(f"stopped at step {state.step}: {why}{rollback.why_not(state)}")
        if stop:
            raise KeyboardInterrupt
        if ended:
            _logger.info("stopped at step %d: %s", state.step, ended)
        self._evaluation.report()
        rundir.finish(state, "finished", metrics, ended)
        return figures

    def _end(self, row: dict[str, Any]) -> str:
        """Why the run ends here, before its last step, or "". Called on all ranks."""
        evaluation, names = self._evaluation, [diagnosis.name for diagnosis in self.monitor.diagnoses]
        asked = call(self._callbacks, self.state, row, names, evaluation.best) or evaluation.gave_up
        return (asked or "another rank asked for it") if self.state.world.any(bool(asked)) else ""

    def _protected(self) -> tuple[int, ...]:
        """Steps whose checkpoints stay, or the newest ones before them."""
        best = self._evaluation.best
        return (*rollback.protected_steps(self.state), *([best["step"]] if best else []))

    def _write(self, last: bool, checkpoint: bool, batches: Any, metrics: Metrics | None) -> None:
        """Sample grids, report and checkpoint, where they are due or the run ends."""
        state, every = self.state, self.config.logging
        last = last or state.step == self.config.steps
        pictures = last or state.step % every.sample_every == 0
        # The pictures first: a run killed after the checkpoint does not come by here again.
        if pictures and state.run is not None:
            grids = samples.save_all(state, state.run / "samples")
            rundir.write_pages(state, self.monitor.layers)
            if grids and not self._named_grids:
                self._named_grids = True
                _logger.info("first sample grids: %s; the page of the run: %s", grids[0], state.run / "report.html")
        if pictures and state.world.rank == 0 and in_notebook():
            samples.show(state, self._picture)
        if state.run is None:
            return
        if checkpoint and (last or state.step % every.checkpoint_every == 0 or self._evaluation.is_best):
            if metrics is not None:
                metrics.sync()
            run_state.save(state, batches, self._protected())

    def _grow(self) -> bool:
        """Let networks that grow be what they are after so many images. Returns whether other layers run now."""
        state = self.state
        if not state.growth.advance(state.images):
            return False
        _logger.info("step %d: images of %s", state.step, state.growth.name)
        state.ema.forget()
        return True

    def prepare(self, batches: Batches) -> None:
        """Decide how steps are computed, from the next batch: before the first iteration, and for new layers."""
        state = self.state
        self._step_graphs, reason = prepare(state, batches)
        self._graph, self.steps = None, self._step_graphs
        if self.steps.inner is not None and not reason:
            self._graph = IterationGraph(self.train_step, state)
            self.steps = dataclasses.replace(self.steps.inner, mode=self.steps.mode, about=self.steps.about)
        rundir.write_config(state)  # a resumed run computes as this one does, bit for bit
        if state.run is not None and state.step == 0:
            samples.save_real(self.task, batches.raw, state.run)

    def _resume(self, batches: Any) -> None:
        state = self.state
        if state.out is None:
            raise UsageError("resume: there is nothing to resume without `out`")
        state.world.barrier()  # until rank 0 has found it whole
        # How the steps are computed was decided by what the first batch showed; another could show otherwise.
        decided = rundir.read_config(state.out)
        loss = modernized_config(decided).get("loss", {}).get("name", state.loss)
        if loss != state.loss:
            raise UsageError(f"loss: a resumed run keeps its adversarial loss, which is {loss!r}, got {state.loss!r}")
        kept = ("apart", "compiled", "levels", "init_from", "changes")
        state.about |= {name: decided[name] for name in kept if name in decided}
        run_state.load(state, batches)
        self._note_changed_rates(decided.get("config", {}).get("optim", {}))
        if state.step == 0 and "init_from" in state.about:  # it was killed before its first checkpoint
            self._start_from(state.about["init_from"])
        if state.step >= self.config.steps:
            _logger.info("%s is already finished at step %d: raise steps (--steps) to go on", state.out, state.step)
        # A finished run takes no step, and its networks may be smaller than when they were built.
        if state.growth.advance(state.images):
            _logger.info("step %d: images of %s", state.step, state.growth.name)

    def _note_changed_rates(self, before: dict[str, Any]) -> None:
        """Log where learning rates are others than the run's so far, and keep it in `config.json`."""
        names = [name for name in before if name.startswith("lr_")]
        now = {name: getattr(self.config.optim, name) for name in names}
        changed = {name: [before[name], now[name]] for name in names if before[name] != now[name]}
        if changed:
            said = ", ".join(f"{name} {old} → {new}" for name, (old, new) in changed.items())
            _logger.info("changed from step %d on: %s", self.state.step, said)
            self.state.about["changes"] = [*self.state.about.get("changes", []), {"step": self.state.step, **changed}]

    def _start_from(self, source: str | Path) -> None:
        start_from(self.state, source)
        self.state.about["init_from"] = str(Path(source).expanduser().resolve())

    def _align_ranks(self) -> None:
        """Let all ranks be at the same step of the same run, with the same weights."""
        state = self.state
        numbers = {n: v or 0 for n, v in self.config.flags().items() if not isinstance(v, str)}
        state.world.agree({**numbers, "step": state.step})
        tensors = [t.detach() for n in state.networks.values() for t in (*n.parameters(), *n.buffers())]
        state.world.broadcast_(tensors)
        state.world.seed_rank(self.config.seed, state.step)

    def _pauses_at(self, step: int) -> bool:
        logging = self.config.logging
        every = (
            logging.log_every, logging.sample_every, logging.checkpoint_every, self.config.evaluation.eval_every,
        )  # fmt: skip
        return step == self.config.steps or any(each and step % each == 0 for each in every)

    # --- what is trained ----------------------------------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """The task, with both networks."""
        return self.state.task

    @property
    def generator(self) -> nn.Module:
        """The generator."""
        return self.state.task.generator

    @property
    def discriminator(self) -> nn.Module:
        """The discriminator."""
        return self.state.task.discriminator

    @property
    def ema(self) -> Ema:
        """The average of the generator: `ema.module`."""
        return self.state.ema

    @property
    def step(self) -> int:
        """Generator steps so far."""
        return self.state.step

    def sample(self, z: Tensor) -> np.ndarray:
        """Images of the averaged generator for z [N, *latent_shape], or sources, as float32 [N, C, H, W]."""
        return samples.sample(self.ema.module, z, self.device)
