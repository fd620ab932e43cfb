"""A provoked mode collapse, how the monitor diagnoses it, and which regularization prevents it.

    python examples/studies/collapse.py [--only SUBSTRING] [--steps N] [--out DIR]

On the ring of 8 Gaussians the discriminator has a tenth of the generator's learning rate; the other runs change one
setting each. Writes DIR/collapse.csv and DIR/collapse.png: the share of the steps for which the monitor diagnosed mode
collapse, all diagnoses with their steps, and how many modes the final samples cover.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import study
from modes import draw
from points import LATENT, RING, samples, trained

from fastgan.report.diagnostics import diagnoses

BASE = {"loss": "non-saturating", "lr_g": 3e-3, "lr_d": 3e-4, "beta1": 0.5, "beta2": 0.999}
RUNS: dict[str, dict[str, Any]] = {
    "baseline: discriminator at a tenth of the rate": {},
    "two time scales": {"lr_g": 3e-4, "lr_d": 3e-3},
    "R1": {"r1_weight": 0.1},
    "gradient penalty": {"gp_weight": 0.1},
    "packed by 4": {"pack": 4},
    "unrolled 5": {"unroll": 5},
    "5 discriminator steps": {"d_steps": 5},
    "instance noise": {"instance_noise": 0.3},
    "history of fakes": {"history": 4096},
    "label smoothing": {"label_smoothing": 0.1},
    "relativistic": {"loss": "relativistic"},
    "historical averaging": {"historical_averaging": 0.01},
}


def run(name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and samples at the end [2500, 2]."""
    options = {"steps": 3000} | BASE | options
    steps = options["steps"]
    trainer = trained(
        RING, batch=256, latent=LATENT, ema_images=20_000, compile="off", log_every=max(1, steps // 60),
        sample_every=10**9, checkpoint_every=10**9, **options,
    )  # fmt: skip
    points = samples(trainer)
    modes, quality = RING.found(points)
    diagnosed = diagnoses(trainer.state.rows)
    told = "; ".join(f"{found.name}, steps {found.since} to {found.until}" for found in diagnosed) or "healthy"
    collapsed = sum(found.until - found.since for found in diagnosed if found.name == "mode collapse") / steps
    row = {
        "data": "ring", "run": name, "collapsed": f"{collapsed:.2f}", "modes": modes, "of": 8,
        "high_quality": f"{quality:.3f}", "diagnosis": told,
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
