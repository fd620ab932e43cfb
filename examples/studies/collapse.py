"""A collapse made on purpose, the monitor that sees it, and what cures it.

    python examples/studies/collapse.py [--only SUBSTRING] [--steps N] [--out DIR]

The discriminator learns at a tenth of the generator's rate, on the ring of 8 Gaussians; then the same again with each remedy.
Writes DIR/collapse.csv and DIR/collapse.png: in what share of its steps the monitor found a run collapsed, what else it
said and when, and what samples are like in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import study
from modes import draw
from points import LATENT, RING, samples, trained

import fastgan
from fastgan.report.diagnostics import diagnoses

ILL = {"game": "non-saturating", "lr_g": 3e-3, "lr_d": 3e-4, "beta1": 0.5, "beta2": 0.999}
RUNS: dict[str, dict[str, Any]] = {
    "ill: discriminator at a tenth of the rate": {},
    "two time scales": {"lr_g": 3e-4, "lr_d": 3e-3},
    "R1": {"r1_weight": 0.1},
    "gradient penalty": {"gp_weight": 0.1},
    "packed by 4": {"pack": 4},
    "unrolled 5": {"unroll": 5},
    "5 discriminator steps": {"d_steps": 5},
    "instance noise": {"instance_noise": 0.3},
    "history of fakes": {"history": 4096},
    "label smoothing": {"label_smoothing": 0.1},
    "relativistic game": {"game": "relativistic"},
    "historical averaging": {"historical_averaging": 0.01},
}


def run(name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and samples at the end [2500, 2]."""
    options = {"steps": 3000} | ILL | options
    steps = options["steps"]
    config = fastgan.Config.from_flags(
        batch=256, latent=LATENT, ema_images=20_000, compile="off", log_every=max(1, steps // 60),
        sample_every=10**9, checkpoint_every=10**9, **options,
    )  # fmt: skip
    trainer = trained(RING, config)
    points = samples(trainer)
    modes, quality = RING.found(points)
    found = diagnoses(trainer.state.rows, trainer.game.unbounded)
    told = "; ".join(f"{verdict.name}, steps {verdict.since} to {verdict.until}" for verdict in found) or "nothing"
    collapsed = sum(verdict.until - verdict.since for verdict in found if verdict.name == "mode collapse") / steps
    row = {
        "data": "ring", "run": name, "collapsed": f"{collapsed:.2f}", "modes": modes, "of": 8,
        "high_quality": f"{quality:.3f}", "said": told,
    }  # fmt: skip
    return row, points.numpy()


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, made = study.results(parser, RUNS, run, "collapse")
    study.write(rows, out / "collapse.csv")
    draw(RING, rows, made, out / "collapse.png")
    print(out / "collapse.png")


if __name__ == "__main__":
    main()
