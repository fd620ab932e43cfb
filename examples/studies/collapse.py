"""A collapse made on purpose, the monitor that sees it, and what cures it.

    python examples/studies/collapse.py [--steps N] [--out DIR]

The critic learns at a tenth of the generator's rate, on the ring of 8 Gaussians; then the same again with each remedy.
Writes DIR/collapse.csv and DIR/collapse.png: in what share of its steps the monitor found a run collapsed, what else it
said and when, and what samples are like in the end.
"""

from __future__ import annotations

from typing import Any

import study
import torch
from modes import draw
from points import LATENT, RING, samples, trained

import fastgan
from fastgan.report.verdicts import verdicts

ILL = {"game": "non-saturating", "lr_g": 1e-2, "lr_d": 1e-3, "beta1": 0.5, "beta2": 0.999}
RUNS: dict[str, dict[str, Any]] = {
    "ill: critic at a tenth of the rate": {},
    "two time scales": {"lr_g": 2.5e-4, "lr_d": 1e-3},
    "R1": {"r1_weight": 0.1},
    "gradient penalty": {"gp_weight": 1.0},
    "packed by 4": {"pack": 4},
    "unrolled 5": {"unroll": 5},
    "5 critic steps": {"d_steps": 5},
    "instance noise": {"instance_noise": 0.3},
    "history of fakes": {"history": 4096},
    "label smoothing": {"label_smoothing": 0.1},
    "relativistic game": {"game": "relativistic"},
    "historical averaging": {"historical_averaging": 0.01},
}


def run(name: str, steps: int) -> tuple[dict[str, object], torch.Tensor]:
    """A row of the table, and samples at the end."""
    config = fastgan.Config(
        batch=256, steps=steps, latent=LATENT, ema_images=20_000, compile="off", log_every=max(1, steps // 60),
        sample_every=10**9, checkpoint_every=10**9, **(ILL | RUNS[name]),
    )  # fmt: skip
    trainer = trained(RING, config)
    points = samples(trainer)
    modes, quality = RING.found(points)
    found = verdicts(trainer.monitor.rows)
    told = "; ".join(f"{verdict.name}, steps {verdict.since} to {verdict.until}" for verdict in found) or "nothing"
    collapsed = sum(verdict.until - verdict.since for verdict in found if verdict.name == "mode collapse") / steps
    row = {
        "data": "ring", "run": name, "collapsed": f"{collapsed:.2f}", "modes": modes, "of": 8,
        "high_quality": f"{quality:.3f}", "said": told,
    }  # fmt: skip
    return row, points


def main() -> None:
    parser = study.parser_of(__doc__, steps=3000)
    options = parser.parse_args()
    rows, found = [], {}
    for name in study.chosen(RUNS, parser, options.only):
        row, found[name] = run(name, options.steps)
        rows.append(row)
        print(f"{name:36} collapsed in {float(str(row['collapsed'])):4.0%} of its steps, {row['modes']} of 8 modes and"
              f" {float(str(row['high_quality'])):6.1%} good in the end; said: {row['said']}", flush=True)  # fmt: skip
    study.write(rows, options.out / "collapse.csv")
    draw(RING, found, rows, options.out / "collapse.png")
    print(options.out / "collapse.png")


if __name__ == "__main__":
    main()
