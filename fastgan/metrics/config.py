"""The flags of evaluations while a run trains."""

from __future__ import annotations

from dataclasses import dataclass

from fastgan._util.checks import NOT_NEGATIVE, expect, one_of
from fastgan._util.options import option
from fastgan.errors import UsageError


@dataclass(frozen=True)
class EvaluationConfig:
    """FID or KID of samples while a run trains, and what follows from it."""

    eval_every: int = 0
    """steps between evaluations of the averaged generator, the best of which keeps its checkpoint; 0 never evaluates"""
    eval_metric: str = "fid"
    """what is computed: fid or kid"""
    eval_n: int = 5000
    """number of samples, and largest number of real images"""
    eval_extractor: str = "auto"
    """feature extractor: digits, efficientnet, inception, inception_legacy, a file of weights, or auto"""
    eval_patience: int = 0
    """evaluations in a row without a new best value after which the run stops; 0 does not stop"""

    def __post_init__(self) -> None:
        expect(self, ("eval_every", "eval_patience"), NOT_NEGATIVE)
        expect(self, ("eval_metric",), one_of(("fid", "kid")))
        expect(self, ("eval_n",), (lambda value: value >= 2, "at least 2"))
        if self.eval_patience and not self.eval_every:
            raise UsageError(f"eval_patience: without evaluations nothing is compared; give {option('eval_every')} too")
