"""The training loop: batches in, steps of both players, metrics, panels, checkpoints, report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.errors import NonFiniteError, UsageError
from fastgan.objectives import GAMES, Game
from fastgan.report.page import write_report
from fastgan.report.picture import save_grid
from fastgan.train import checkpoint, rundir
from fastgan.train.config import Config, unknown
from fastgan.train.ema import Ema
from fastgan.train.game import Players, d_step, g_step
from fastgan.train.progress import Progress

PANEL = 64


class Trainer:
    """Trains a generator against a critic: any two modules, any iterator of batches.

    generator: module from z [N, *latent_shape] to images [N, C, H, W]; latent_shape is (generator.latent,) where it has
    that attribute, else (config.latent,) unless given. discriminator: module from images to logits (one per image, any
    shape). game: a name in `fastgan.objectives.GAMES` or a Game. config: see `fastgan.Config`; its fields data, model,
    width and the like describe networks built by name and are not used here. out: the run directory, or None to write
    nothing. about: more facts for `config.json` (command, data set).

    After `fit`, `generator` and `discriminator` are trained in place and `ema.module` is the averaged generator.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        game: str | Game = "non-saturating",
        config: Config | None = None,
        *,
        latent_shape: tuple[int, ...] | None = None,
        out: str | Path | None = None,
        about: dict[str, Any] | None = None,
    ):
        self.config = config = config or Config()
        if isinstance(game, str) and game not in GAMES:
            raise UsageError(unknown("game", game, list(GAMES)))
        self.game = GAMES[game] if isinstance(game, str) else game
        if self.game.name in GAMES:
            # The configuration says what is played; replacing it also checks the game against its other fields.
            self.config = config = dataclasses.replace(config, game=self.game.name)
        self.device = resolve_device(config.device)
        self.generator = generator.to(self.device).train()
        self.discriminator = discriminator.to(self.device).train()
        self.ema = Ema(self.generator, config.ema_images)
        shape = latent_shape or (int(getattr(generator, "latent", config.latent)),)
        betas = (config.beta1, config.beta2)
        self.players = Players(
            self.generator,
            self.discriminator,
            torch.optim.Adam(self.generator.parameters(), config.lr_g, betas, fused=True),
            torch.optim.Adam(self.discriminator.parameters(), config.lr_d, betas, fused=True),
            shape,
            torch.Generator(self.device).manual_seed(config.seed),
        )
        self.out = Path(out) if out is not None else None
        self.about = about or {}
        self.step = 0
        self.seconds = 0.0
        self.images = 0
        self._stop = False
        self._latest: dict[str, float] = {}

    # --- the loop ----------------------------------------------------------------------------------------------------

    def fit(self, batches: Iterable[Tensor], *, resume: bool = False, overwrite: bool = False) -> dict[str, float]:
        """Train until config.steps on batches [N, C, H, W], float in [-1, 1]. Returns the last interval's means.

        resume: continue the run in `out` from its newest whole checkpoint; the batches continue too where they have
        state_dict and load_state_dict, as `fastgan.data.stream.BatchStream` has. overwrite: replace the run in `out`.
        Ctrl-C ends after the step in progress with a checkpoint, and raises KeyboardInterrupt. Raises NonFiniteError
        when a loss is no longer a number; the last good checkpoint stays.
        """
        progress = Progress(self.config.steps)
        metrics = None
        if self.out is not None:
            facts = self._facts()
            rundir.prepare(self.out, resume=resume, overwrite=overwrite)
            if resume:
                self._load(batches, progress)
            rundir.write_json(self.out / "config.json", facts)
            metrics = rundir.Metrics(self.out, self.step)
        elif resume:
            raise UsageError("resume: there is nothing to resume without `out`")
        previous = self._listen()
        try:
            return self._run(batches, progress, metrics)
        except KeyboardInterrupt:
            progress.say(
                f"interrupted at step {self.step}" + (f"; continue with --resume --out {self.out}" if self.out else "")
            )
            self._end("interrupted", metrics)
            raise
        except Exception as error:
            progress.close()
            self._end("failed", metrics, str(error))
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            progress.close()

    def _end(self, state: str, metrics: rundir.Metrics | None, message: str = "") -> None:
        # Each by itself: on a full disk what ended the run matters more than a page that could not be written.
        for write in (
            lambda: self._status(state, message),
            lambda: metrics.close() if metrics is not None else None,
            lambda: write_report(self.out) if self.out is not None else None,
        ):
            with contextlib.suppress(OSError):
                write()

    def _run(self, batches: Iterable[Tensor], progress: Progress, metrics: rundir.Metrics | None) -> dict[str, float]:
        config, means, stream = self.config, rundir.Means(), iter(batches)
        saved_at = self.step if self.step else None
        mark, mark_images, mark_step = time.perf_counter(), self.images, self.step
        self._status("running")
        while self.step < config.steps and not self._stop:
            for _ in range(config.d_steps):
                real = self._next(stream)
                if self.step == 0 and self.out is not None:
                    self._save_real(real)
                means.add(d_step(self.players, self.game, config, real, self.step))
                self.images += len(real)
            means.add(g_step(self.players, self.game, len(real)))
            self.step += 1
            self.ema.update(self.generator, len(real), self.step)

            last = self.step == config.steps or self._stop
            if last or self._due("log_every") or self._due("sample_every") or self._due("checkpoint_every"):
                # The one place that waits for the device.
                self._latest = means.fetch()
                elapsed = time.perf_counter() - mark
                self.seconds += elapsed
                speed = (self.images - mark_images) / elapsed
                self._check_finite(mark_step)
                left = (config.steps - self.step) * elapsed / (self.step - mark_step)
                shown = {"D": self._latest["loss/discriminator"], "G": self._latest["loss/generator"]}
                progress.show(self.step, speed, left, shown)
                if metrics is not None:
                    metrics.write(
                        {"step": self.step, "images": self.images, "seconds": round(self.seconds, 3), **self._latest,
                         "speed/images_per_second": speed}
                    )  # fmt: skip
                if self.out is not None:
                    if last or self._due("checkpoint_every"):
                        self._save(batches)
                        saved_at = self.step
                    if last or self._due("sample_every"):
                        self._save_panels()
                        self._status("running")
                        write_report(self.out)
                mark, mark_images, mark_step = time.perf_counter(), self.images, self.step
        if self._stop:
            if self.out is not None and saved_at != self.step:
                # The signal came after this step had been looked at.
                self._latest = means.fetch() or self._latest
                self._check_finite(mark_step)
                self._save(batches)
            raise KeyboardInterrupt
        self._end("finished", metrics)
        return self._latest

    def _next(self, batches: Iterator[Tensor]) -> Tensor:
        try:
            return next(batches).to(self.device, non_blocking=True)
        except StopIteration:
            raise UsageError(
                f"batches: ended after {self.step} of {self.config.steps} steps; give an endless iterator"
                " (itertools.cycle, or a generator that loops over the data)"
            ) from None

    def _due(self, field: str) -> bool:
        return self.step % getattr(self.config, field) == 0

    def _check_finite(self, since: int) -> None:
        wrong = next((name for name, value in self._latest.items() if not math.isfinite(value)), None)
        if wrong is None:
            weights: list[Tensor] = [*self.generator.parameters(), *self.discriminator.parameters()]
            if not torch.stack(torch._foreach_norm(weights)).isfinite().all():
                wrong = "a weight"
        if wrong is None:
            return
        kept = checkpoint.steps_in(self.out / "checkpoints") if self.out is not None else []
        where = f"; the checkpoint of step {kept[-1]} is whole" if kept else ""
        raise NonFiniteError(
            f"{wrong} became {self._latest.get(wrong, 'not a number')} between steps {since} and {self.step}{where};"
            " start anew with lower learning rates or a penalty (--r1-weight)"
        )

    def _listen(self) -> dict[int, Any]:
        """Let Ctrl-C, or a scheduler's polite end, finish the step in progress first; a second Ctrl-C ends at once.

        Returns the handlers to restore.
        """
        self._stop = False
        if threading.current_thread() is not threading.main_thread():
            return {}

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    # --- what it writes ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, z: Tensor) -> np.ndarray:
        """Images of the averaged generator for z [N, *latent_shape], as float32 [N, C, H, W]."""
        return self.ema.module(z.to(self.device)).float().cpu().numpy()

    def _panel_latents(self, step: int) -> Tensor:
        # A generator of its own for each panel: drawing pictures must not change what is trained.
        (seed,) = np.random.SeedSequence((self.config.seed, step, PANEL)).generate_state(1, np.uint64)
        source = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        return torch.randn(PANEL, *self.players.latent_shape, generator=source)

    def _save_panels(self) -> None:
        assert self.out is not None
        for kind, step in (("fixed", 0), ("fresh", self.step)):
            images = self.sample(self._panel_latents(step))
            if images.ndim == 4 and images.shape[1] in (1, 3):
                save_grid(images, self.out / "samples" / f"{kind}-{self.step:08d}.png", scale=_zoom(images))

    def _save_real(self, real: Tensor) -> None:
        assert self.out is not None
        images = real[:PANEL].float().cpu().numpy()
        if images.ndim == 4 and images.shape[1] in (1, 3):
            save_grid(images, self.out / "samples" / "real.png", scale=_zoom(images))

    def _save(self, batches: Any) -> None:
        assert self.out is not None
        parts = {
            "generator": self.generator.state_dict(),
            "ema": self.ema.module.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.players.g_optimizer, "generator")
            | checkpoint.optimizer_tensors(self.players.d_optimizer, "discriminator"),
        }
        state = {
            "images": self.images,
            "seconds": self.seconds,
            "random": {name: checkpoint.encode_random(r) for name, r in self._random_sources().items()},
            "batches": batches.state_dict() if hasattr(batches, "state_dict") else None,
        }
        checkpoint.save(self.out / "checkpoints", self.step, parts, state, self.config.keep_checkpoints)

    def _load(self, batches: Any, progress: Progress) -> None:
        assert self.out is not None
        folder, state = checkpoint.newest(self.out / "checkpoints", progress.say)
        networks = {"generator": self.generator, "ema": self.ema.module, "discriminator": self.discriminator}
        for part, network in networks.items():
            checkpoint.load_network(network, folder, part)
        tensors = checkpoint.load_part(folder, "optimizer")
        checkpoint.load_optimizer(self.players.g_optimizer, tensors, "generator")
        checkpoint.load_optimizer(self.players.d_optimizer, tensors, "discriminator")
        for name, source in self._random_sources().items():
            if name in state["random"]:
                checkpoint.decode_random(source, state["random"][name])
            else:
                source.manual_seed(self.config.seed + state["step"])
                progress.say(f"the checkpoint is from another device: {name} goes on with fresh random numbers")
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        if state["batches"] is not None and hasattr(batches, "load_state_dict"):
            batches.load_state_dict(state["batches"])
        elif self.step < self.config.steps:
            progress.say("the batches cannot be restored: they start anew (give them state_dict and load_state_dict)")
        progress.say(f"resumed {self.out} at step {self.step}")

    def _random_sources(self) -> dict[str, torch.Generator]:
        # The default generators too: dropout and the like draw from them.
        sources = {f"latents.{self.device.type}": self.players.random, "default.cpu": torch.default_generator}
        if self.device.type == "cuda":
            index = self.device.index or torch.cuda.current_device()
            sources["default.cuda"] = torch.cuda.default_generators[index]
        return sources

    def _facts(self) -> dict[str, Any]:
        def describe(network: nn.Module) -> dict[str, Any]:
            return {"name": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}

        return {
            "config": self.config.to_dict(),
            "environment": rundir.environment(self.device),
            "networks": {"generator": describe(self.generator), "discriminator": describe(self.discriminator)},
            "latent_shape": list(self.players.latent_shape),
            **self.about,
        }

    def _status(self, state: str, message: str = "") -> None:
        if self.out is not None:
            status = {"state": state, "step": self.step, "steps": self.config.steps, "message": message}
            rundir.write_json(self.out / "status.json", status)


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device. Raises UsageError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device: {name} is not there ({torch.cuda.device_count()} CUDA devices found)")
    return device


def _zoom(images: np.ndarray) -> int:
    return max(1, 64 // images.shape[-1])
