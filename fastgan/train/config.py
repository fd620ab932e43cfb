"""The one configuration. Command-line flags come from it, `config.json` holds it, and it reproduces a run."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL, AdversarialLoss
from fastgan.models import FAMILIES
from fastgan.train.validation import why_not

#: Fields that may differ when a run is resumed: how long it goes on, where and what it writes, not what it computes.
RESUMABLE = (
    "steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "device", "compile",
    "sync_statistics", "on_collapse", "wandb",
)  # fmt: skip
#: The field that holds a penalty's weight, and the penalty's name in `fastgan.losses.PENALTIES`.
WEIGHTS = {
    "gp_weight": "gradient_penalty", "zero_centered_gp_weight": "zero_centered_gp", "dragan_weight": "dragan",
    "r1_weight": "r1", "r2_weight": "r2",
}  # fmt: skip
CHOICES = {
    "d_norm": ("none", "batch", "spectral"),
    "condition": ("none", "concat", "projection", "auxiliary"),
    "optimizer": ("adam", "rmsprop"),
    "compile": ("auto", "on", "graph", "off"),
    "on_collapse": ("warn", "stop", "restore"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes and writes. What is None is as the data, or the game, have it."""

    data: str = "embedded"
    """images to learn: embedded, a fetched set, or a path: folder, zip, WebDataset .tar (a-{00..09}.tar), npz or IDX"""
    resolution: int | None = None
    """crop and resize images to this side; the images' own size when left out"""
    channels: int | None = None
    """1 for gray, 3 for color; as the images are when left out"""
    model: str = "dcgan"
    """family of networks: biggan, dcgan, mlp, progan, r3gan or resnet"""
    variant: str | None = None
    """which networks of the family, in mlp: deep (when left out), original, minimal or line"""
    attention: int | None = None
    """side of the feature maps with self-attention, in biggan; 0 for none, the paper's when left out"""
    width: int = 64
    """width of both networks"""
    latent: int = 64
    """size of the latent vector z"""
    d_norm: str = "none"
    """normalization in the discriminator: none, batch or spectral"""
    condition: str = "none"
    """how labels enter the networks: none (they do not), concat, projection or auxiliary; needs labeled images"""
    classes: int | None = None
    """how many classes there are, in conditional networks; as many as the data has when left out"""
    auxiliary_weight: float = 1.0
    """weight of the classification loss, in networks with an auxiliary classifier (AC-GAN)"""
    game: str = "non-saturating"
    """what the players minimize: non-saturating, minimax, least-squares, hinge, wgan, wgan-gp or relativistic"""
    gp_weight: float | None = None
    """weight of the gradient penalty between real and fake images; the game's own when left out (10 in wgan-gp)"""
    zero_centered_gp_weight: float = 0.0
    """weight of the penalty that wants gradients of zero between real and fake images; 0 leaves it out"""
    dragan_weight: float = 0.0
    """weight of the gradient penalty around real images; 0 leaves it out"""
    r1_weight: float = 0.0
    """weight (gamma) of the R1 penalty on real images; 0 leaves it out"""
    r2_weight: float = 0.0
    """weight (gamma) of the R2 penalty on generated images; 0 leaves it out"""
    penalty_interval: int = 1
    """compute penalties that the game does not have itself at every so many steps, with weights raised accordingly"""
    d_steps: int | None = None
    """discriminator steps for each generator step; the game's own when left out (5 in wgan and wgan-gp, else 1)"""
    batch: int = 64
    """images in a batch (of each process, where torchrun starts several)"""
    held_out: int = 0
    """images that are not trained on, so that the monitor sees whether the discriminator learns the others by heart"""
    steps: int = 10_000
    """generator steps in all"""
    grow_images: int = 0
    """real images in each phase of progressive growing, in which a level fades in, or settles; 0 does not grow"""
    optimizer: str | None = None
    """adam or rmsprop; the game's own when left out (rmsprop in wgan)"""
    lr_g: float | None = None
    """learning rate of the generator; the game's own when left out"""
    lr_d: float | None = None
    """learning rate of the discriminator; the game's own when left out"""
    beta1: float | None = None
    """first moment of Adam; the game's own when left out"""
    beta2: float | None = None
    """second moment of Adam; the game's own when left out"""
    weight_clip: float | None = None
    """largest absolute value of the discriminator's weights; the game's own when left out (0.01 in wgan), 0 does not clip"""
    feature_matching: float = 0.0
    """weight of the distance between mean features of real and fake images, in the generator's loss"""
    l1_weight: float = 0.0
    """weight of E |target − G(source)| in the generator's loss, where images are made of sources (100 in pix2pix)"""
    matching_interval: int = 1
    """add feature matching and L1 at every so many generator steps, with weights raised accordingly"""
    label_smoothing: float = 0.0
    """how far below 1 the discriminator is asked to put real images, in games that know labels"""
    instance_noise: float = 0.0
    """deviation, at the first step, of the noise on all images that the discriminator sees"""
    instance_noise_steps: int | None = None
    """generator steps in which that noise falls to 0; all of them when left out"""
    augment: str = "none"
    """what is done to all images that the discriminator sees: color, translation, cutout, joined by +; or none"""
    ada_target: float = 0.0
    """0 augments every image; else only as many as keep the sign of real logits at this mean (0.6 is usual)"""
    ada_images: int = 500_000
    """images in which adaptive augmentation can go from none to all"""
    consistency: float = 0.0
    """weight of the discriminator's change when a real image is shifted"""
    consistency_fake: float = 0.0
    """the same for fake images"""
    minibatch_discrimination: int = 0
    """features that tell the discriminator how alike the images of its batch are, in dcgan and mlp; 0 leaves them out"""
    pack: int = 1
    """images that the discriminator judges together, stacked in channels"""
    unroll: int = 0
    """steps that the generator lets the discriminator look ahead"""
    history: int = 0
    """past fakes that are kept, to be half of those that the discriminator sees"""
    historical_averaging: float = 0.0
    """weight of the distance of both players' weights from their mean over time"""
    clip: float = 0.0
    """largest norm of a player's whole gradient; 0 does not clip"""
    accumulate: int = 1
    """batches whose gradients are averaged for each update"""
    sync_statistics: bool = False
    """batch norms look at the batches of all processes together, where torchrun starts several"""
    precision: str = "fp32"
    """fp32, tf32 (GPU), bf16 or fp16; penalties are summed in float32 in all of them"""
    compile: str = "auto"
    """on: both steps as compiled graphs; graph: as they are, in CUDA graphs; off: eagerly; auto: as measured fastest,
    compiled where the steps to come repay it"""
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
        for name in ("width", "latent", "penalty_interval", "d_steps", "batch", "steps", "log_every", "sample_every",
                     "checkpoint_every", "keep_checkpoints", "accumulate", "max_skipped", "classes", "resolution",
                     "instance_noise_steps", "ada_images", "pack", "matching_interval"):  # fmt: skip
            self._expect(name, lambda value: value >= 1, "a number >= 1")
        for name in ("lr_g", "lr_d"):
            self._expect(name, lambda value: value > 0, "a number > 0")
        for name in (*WEIGHTS, "clip", "ema_images", "weight_clip", "auxiliary_weight", "feature_matching",
                     "l1_weight", "instance_noise", "consistency", "consistency_fake", "unroll", "history",
                     "historical_averaging", "seed", "held_out", "attention",
                     "minibatch_discrimination", "grow_images"):  # fmt: skip
            self._expect(name, lambda value: value >= 0, "a number >= 0")
        for name in ("beta1", "beta2", "ada_target"):
            self._expect(name, lambda value: 0 <= value < 1, "a number in [0, 1)")
        self._expect("label_smoothing", lambda value: 0 <= value < 0.5, "a number in [0, 0.5)")
        self._expect("channels", lambda value: value in (1, 3), "1 or 3")
        for name, choices in CHOICES.items():
            expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
            self._expect(name, lambda value, choices=choices: value in choices, expected)  # type: ignore[misc]
        for name, known in (("game", list(ADVERSARIAL)), ("model", list(FAMILIES))):
            if getattr(self, name) not in known:
                raise UsageError(unknown(name, getattr(self, name), known))
        self.check(ADVERSARIAL[self.game])

    def check(self, game: AdversarialLoss) -> None:
        """Raise UsageError where options contradict each other in this game."""
        if why := why_not(self, game):
            raise UsageError(why)

    def penalties(self, game: AdversarialLoss) -> dict[str, float]:
        """The weight of each penalty in this game, by its name in `fastgan.losses.PENALTIES`."""
        asked = {name: getattr(self, field) for field, name in WEIGHTS.items()}
        found = {**game.penalties, **{name: weight for name, weight in asked.items() if weight}}
        if self.gp_weight == 0:  # left out on purpose; the other weights are 0 where nothing was said
            found.pop("gradient_penalty", None)
        return found

    def settled(self, game: AdversarialLoss) -> Config:
        """The same with the game's own values for its optimizers, and a length for the noise, where they are None."""
        values = {**dataclasses.asdict(game.defaults), "instance_noise_steps": self.steps}
        return dataclasses.replace(self, **{name: v for name, v in values.items() if getattr(self, name) is None})

    def _expect(self, name: str, holds: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise UsageError(f"{name}: expected {expected}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The configuration of a `config.json`. Raises UsageError for an unknown field, with the nearest name."""
        values = _of_today(values)
        for name in values:
            if name not in field_names():
                raise UsageError(f"config: {unknown('field', name, field_names())}")
        return cls(**values)


def _of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json` that an older version may have written, by their names and meanings of today."""
    if "optimizer" in values:
        return values
    values = dict(values)
    if "r1_interval" in values:
        values["penalty_interval"] = values.pop("r1_interval")
    if values.get("game") != "wgan-gp":  # the weight stood there too, and meant nothing
        values.pop("gp_weight", None)
    return values


def field_names() -> list[str]:
    """Names of the fields of Config."""
    return [field.name for field in fields(Config)]


def switches() -> list[str]:
    """Names of the fields that are true or false."""
    return [field.name for field in fields(Config) if isinstance(field.default, bool)]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """`unknown KIND 'name'; did you mean 'nearest'?`"""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"
