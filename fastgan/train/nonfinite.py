"""Looks after updates that were not finite: mends, counts, backs off, and in the end stops the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgan.errors import NonFiniteError
from fastgan.train import diagnose, state
from fastgan.train.buffers import GoodBuffers

if TYPE_CHECKING:
    from fastgan.train.trainer import Trainer

#: Learning rates never fall below this part of the configured ones.
LEAST_BACK_OFF = 1 / 64


class Guard:
    """skipped: updates so far, of both players. back_off: the learning rates as a part of the configured ones."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self.skipped, self.back_off = 0, 1.0

    def begin(self) -> None:
        """Buffers are now as training finds them."""
        trainer = self._trainer
        self._buffers = GoodBuffers(
            {"generator": trainer.generator, "discriminator": trainer.discriminator, "average": trainer.ema.module}
        )

    def look(self, say: Callable[[str], None]) -> None:
        """Mend what skipped updates did to buffers; then back off, or raise NonFiniteError.

        Called where the loop waits for the device anyway, on all ranks, before anything is saved.
        """
        trainer = self._trainer
        if mended := self._buffers.keep_or_restore():
            more = f" and {len(mended) - 1} more" if len(mended) > 1 else ""
            say(f"not finite at step {trainer.step}, set back: {mended[0]}{more}")
        updates = trainer.updates
        counts = torch.stack([c for u in updates.values() for c in (u.skipped, u.in_a_row)]).tolist()
        # The discriminator first, as it plays first: what is wrong with it the generator suffers from too.
        for player, in_a_row in reversed(list(zip(updates, counts[1::2], strict=True))):
            if in_a_row >= trainer.config.max_skipped:
                raise self._stopped(player, int(in_a_row))
        weights: list[Tensor] = [*trainer.generator.parameters(), *trainer.discriminator.parameters()]
        if not torch.stack(torch._foreach_norm(weights, float("inf"))).isfinite().all():
            raise NonFiniteError(f"a weight is not finite at step {trainer.step}{state.folder_of(trainer.out)}")
        if trainer.step % trainer.config.log_every == 0:
            self._back_off(int(sum(counts[::2])), say)

    def _back_off(self, skipped: int, say: Callable[[str], None]) -> None:
        new, self.skipped = skipped - self.skipped, skipped
        if new:
            say(f"skipped {new} updates that were not finite, up to step {self._trainer.step}")
        if self._trainer.config.precision != "fp16":  # there the loss scale has backed off already
            self.set_back_off(max(self.back_off / 2, LEAST_BACK_OFF) if new else min(self.back_off * 2, 1.0))

    def set_back_off(self, factor: float) -> None:
        """Let the learning rates be that part of the configured ones."""
        for update in self._trainer.updates.values():
            update.back_off(factor / self.back_off)
        self.back_off = factor

    def _stopped(self, player: str, in_a_row: int) -> NonFiniteError:
        trainer = self._trainer
        scale = trainer.updates[player].scale
        bad = diagnose.first_bad_layer(trainer.players, **trainer.seen, scale=scale, player=player)
        bad = diagnose.told_by_all(trainer.world, bad, trainer.device)
        other = bad.startswith((diagnose.REAL, diagnose.SOURCES))
        return NonFiniteError(
            f"the {player}'s loss or gradient was not finite in {in_a_row} updates in a row, up to step {trainer.step};"
            f" first bad: {bad or 'nothing in the last batch'}{state.folder_of(trainer.out)};"
            f" start anew with {'other images' if other else 'lower learning rates or a penalty (--r1-weight)'}"
        )
