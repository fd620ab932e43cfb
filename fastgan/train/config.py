"""The one configuration. Command-line flags come from it, `config.json` holds it, and it reproduces a run."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, fields
from typing import Any

from fastgan.errors import UsageError
from fastgan.models import FAMILIES
from fastgan.objectives import GAMES

#: Fields that may differ when a run is resumed: how long it goes on and what it writes, not what it computes.
RESUMABLE = (
    "steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "device", "sync_statistics",
    "on_collapse", "wandb",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes and writes."""

    data: str = "embedded"
    """images to learn: embedded, a fetched set, or a path: folder, zip, WebDataset .tar (a-{00..09}.tar), npz or IDX"""
    resolution: int | None = None
    """crop and resize images to this side; the images' own size when left out"""
    channels: int | None = None
    """1 for grey, 3 for colour; as the images are when left out"""
    model: str = "dcgan"
    """family of networks: dcgan or mlp"""
    width: int = 64
    """width of both networks"""
    latent: int = 64
    """size of the latent vector z"""
    d_norm: str = "none"
    """normalisation in the critic: none, batch or spectral"""
    game: str = "non-saturating"
    """what the players minimise: non-saturating, hinge or wgan-gp"""
    gp_weight: float = 10.0
    """weight of the gradient penalty, in games that have one"""
    r1_weight: float = 0.0
    """weight (gamma) of the R1 penalty on real images; 0 leaves it out"""
    r1_interval: int = 1
    """compute R1 at every so many steps, with its weight raised accordingly"""
    d_steps: int = 1
    """critic steps for each generator step"""
    batch: int = 64
    """images in a batch (of each process, where torchrun starts several)"""
    held_out: int = 0
    """images that are not trained on, so that the monitor sees whether the critic learns the others by heart"""
    steps: int = 10_000
    """generator steps in all"""
    lr_g: float = 2e-4
    """learning rate of the generator"""
    lr_d: float = 2e-4
    """learning rate of the critic"""
    beta1: float = 0.5
    """first moment of Adam"""
    beta2: float = 0.999
    """second moment of Adam"""
    clip: float = 0.0
    """largest norm of a player's whole gradient; 0 does not clip"""
    accumulate: int = 1
    """batches whose gradients are averaged for each update"""
    sync_statistics: bool = False
    """batch norms look at the batches of all processes together, where torchrun starts several"""
    precision: str = "fp32"
    """fp32, tf32 (GPU), bf16 or fp16; penalties are summed in float32 in all of them"""
    compile: str = "auto"
    """auto (where the steps to come repay it), on or off: both steps as compiled graphs"""
    max_skipped: int = 25
    """updates in a row that may be skipped because something is not finite, before the run stops"""
    on_collapse: str = "warn"
    """warn, stop the run, or restore a checkpoint from before, when the monitor finds mode collapse or divergence"""
    ema_images: float = 20_000
    """half-life of the generator's averaged weights, in images; 0 keeps no average"""
    seed: int = 0
    """seed of weights, latents and the order of images"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    log_every: int = 50
    """steps between lines of metrics"""
    sample_every: int = 500
    """steps between sample panels"""
    checkpoint_every: int = 1000
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """how many checkpoints stay on disk"""
    wandb: str = ""
    """project of Weights & Biases to log to as well; none when left out (pip install wandb)"""

    def __post_init__(self) -> None:
        for name in ("width", "latent", "r1_interval", "d_steps", "batch", "steps", "log_every", "sample_every",
                     "checkpoint_every", "keep_checkpoints", "accumulate", "max_skipped"):  # fmt: skip
            _expect(getattr(self, name) >= 1, name, "a number >= 1", getattr(self, name))
        for name in ("lr_g", "lr_d"):
            _expect(getattr(self, name) > 0, name, "a number > 0", getattr(self, name))
        for name in ("gp_weight", "r1_weight", "clip", "ema_images"):
            _expect(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        for name in ("beta1", "beta2"):
            _expect(0 <= getattr(self, name) < 1, name, "a number in [0, 1)", getattr(self, name))
        _expect(self.channels in (None, 1, 3), "channels", "1 or 3", self.channels)
        _expect(self.resolution is None or self.resolution >= 1, "resolution", "a number >= 1", self.resolution)
        _expect(self.d_norm in ("none", "batch", "spectral"), "d_norm", "none, batch or spectral", self.d_norm)
        _expect(self.compile in ("auto", "on", "off"), "compile", "auto, on or off", self.compile)
        _expect(
            self.on_collapse in ("warn", "stop", "restore"), "on_collapse", "warn, stop or restore", self.on_collapse
        )
        precisions = ("fp32", "tf32", "bf16", "fp16")
        _expect(self.precision in precisions, "precision", "fp32, tf32, bf16 or fp16", self.precision)
        for name, known in (("game", list(GAMES)), ("model", list(FAMILIES))):
            if getattr(self, name) not in known:
                raise UsageError(unknown(name, getattr(self, name), known))
        for name in ("seed", "held_out"):
            _expect(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        penalised = GAMES[self.game].gp or self.r1_weight > 0
        if self.d_norm == "batch" and penalised:
            raise UsageError(
                "d_norm: batch norm ties the samples of a batch together, so a penalty on each sample's gradient has no"
                " meaning; use --d-norm none or spectral with wgan-gp and R1"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The configuration of a `config.json`. Raises UsageError for an unknown field, with the nearest name."""
        for name in values:
            if name not in field_names():
                raise UsageError(f"config: {unknown('field', name, field_names())}")
        return cls(**values)


def field_names() -> list[str]:
    """Names of the fields of Config."""
    return [field.name for field in fields(Config)]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """`unknown KIND 'name'; did you mean 'nearest'?`"""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _expect(condition: bool, name: str, expected: str, got: Any) -> None:
    if not condition:
        raise UsageError(f"{name}: expected {expected}, got {got!r}")
