"""The options of `fastgan train`: the configuration, and where the run goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan.errors import UsageError
from fastgan.train.config import RESUMABLE, Config


@dataclass(frozen=True)
class TrainOptions:
    """Train a generator. PRESET (see `fastgan presets`) comes first; --config FILE (.yaml, .toml or .json, of
    fields below) overrides its fields, and flags override both."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """run directory (runs/PRESET when left out)"""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """continue the run in --out from its newest whole checkpoint"""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """replace the run in --out"""


def check_resumed(asked: Config, facts: dict[str, Any], ranks: int) -> None:
    """Raise UsageError where a run would go on, on so many ranks, as another run than its `config.json` says.

    On another number of ranks it is the same run as long as the images per update stay as many.
    """
    stored = Config.from_dict(facts["config"])
    if (game := facts.get("game", stored.game)) != stored.game:
        raise UsageError(f"resume: the run plays a game of your own, {game!r}; resume it with your Trainer")
    now, then = ((c, n, n * c.batch * c.accumulate) for c, n in ((asked, ranks), (stored, facts.get("world", 1))))
    if now[2] != then[2]:
        said = (f"{n} × batch {c.batch} × accumulate {c.accumulate} = {total}" for c, n, total in (now, then))
        raise UsageError(
            f"batch: ranks × batch × accumulate must stay what the run began with, got {' instead of '.join(said)};"
            " give --batch or --accumulate"
        )
    for name, value in stored.to_dict().items():
        given = getattr(asked, name)
        if given != value and name not in (*RESUMABLE, "batch", "accumulate"):
            raise UsageError(
                f"{name}: {given!r} differs from the run's {value!r};"
                f" a resumed run can change only {', '.join(RESUMABLE)}"
            )
