"""The configuration of a run, nested by topic. The command line's flags come from it, and `config.json` holds it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any

import tyro

from fastgan._util.checks import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, expect, one_of, unknown
from fastgan._util.keyword_options import check_options as check_keywords
from fastgan._util.options import option
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL, AdversarialLoss
from fastgan.losses.config import LossConfig
from fastgan.metrics.config import EvaluationConfig
from fastgan.models.registry import FAMILIES
from fastgan.regularization import RegularizationConfig
from fastgan.report.legacy import modernized_config
from fastgan.tasks import registry as tasks
from fastgan.tasks.registry import TASKS
from fastgan.train.config_history import of_today
from fastgan.train.run_schema import check_fields
from fastgan.train.schedule import SCHEDULES
from fastgan.train.validation import check_options


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they come in batches."""

    source: Annotated[str, tyro.conf.arg(name="data")] = "embedded"
    """images to learn: embedded, a fetched set, or a path: folder, zip, WebDataset .tar (a-{00..09}.tar), npz or IDX"""
    resolution: int | None = None
    """crop and resize images to this side; the images' own size when left out"""
    channels: int | None = None
    """1 for gray, 3 for color; as the images are when left out"""
    batch: int = 64
    """images in a batch (of each process, where torchrun starts several)"""
    held_out: int = 0
    """images that are not trained on, to measure how far the discriminator overfits"""
    options: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """options of the kind of data that the task takes, on the command line --data.NAME VALUE"""

    def __post_init__(self) -> None:
        expect(self, ("resolution", "batch"), AT_LEAST_ONE)
        expect(self, ("held_out",), NOT_NEGATIVE)
        expect(self, ("channels",), (lambda value: value in (1, 3), "1 or 3"))


@dataclass(frozen=True)
class TaskConfig:
    """What the losses are computed from."""

    name: Annotated[str | None, tyro.conf.arg(name="task", help=f"task: {', '.join(TASKS)}")] = None
    """generation where left out, or paired for a generator of source images"""
    options: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """options of the task, on the command line --task.NAME VALUE"""

    def __post_init__(self) -> None:
        if self.name is not None:
            check_keywords(f"the task {self.name}", tasks.option_types(self.name), self.options)
        elif self.options:
            raise UsageError(f"task: options without a task, {', '.join(self.options)}; name it with {option('task')}")


@dataclass(frozen=True)
class ModelConfig:
    """Networks by name; not used where the Trainer is given networks."""

    family: Annotated[str, tyro.conf.arg(name="model", help=f"family of networks: {', '.join(FAMILIES)}")] = "dcgan"
    width: int = 64
    """width of both networks"""
    latent: int = 64
    """size of the latent vector z"""
    d_norm: str = "none"
    """normalization in the discriminator: none, batch or spectral"""
    condition: str = "none"
    """how labels enter the networks: none (they do not), concat, projection or auxiliary; needs labeled images"""
    classes: int | None = None
    """number of classes, in conditional networks; as many as the data has when left out"""
    options: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """options of the family alone, on the command line --model.NAME VALUE"""

    def __post_init__(self) -> None:
        expect(self, ("width", "latent", "classes"), AT_LEAST_ONE)
        expect(self, ("d_norm",), one_of(("none", "batch", "spectral")))
        expect(self, ("condition",), one_of(("none", "concat", "projection", "auxiliary")))
        if self.family not in FAMILIES:
            raise UsageError(unknown("model", self.family, list(FAMILIES)))
        if self.classes is not None and self.condition == "none":
            raise UsageError(
                f"classes: unconditional networks take no labels; say how they enter with {option('condition')}"
            )


@dataclass(frozen=True)
class OptimConfig:
    """Optimizers and updates. What is None is as usual for the adversarial loss."""

    optimizer: str | None = None
    """adam or rmsprop; as usual for the loss when left out (rmsprop in wgan)"""
    lr_g: float | None = None
    """learning rate of the generator; as usual for the loss when left out"""
    lr_d: float | None = None
    """learning rate of the discriminator; as usual for the loss when left out"""
    lr_schedule: str = "constant"
    """how both learning rates change: constant; linear or cosine, which lower them until the last step"""
    lr_warmup: int = 0
    """steps in which both learning rates rise linearly to their values"""
    lr_decay_from: float = 0.0
    """part of all steps, from 0 to 1, after which a linear or cosine schedule lowers the learning rates"""
    beta1: float | None = None
    """first moment of Adam; as usual for the loss when left out"""
    beta2: float | None = None
    """second moment of Adam; as usual for the loss when left out"""
    d_steps: int | None = None
    """discriminator steps for each generator step; as usual for the loss when left out (5 in wgan, wgan-gp)"""
    weight_clip: float | None = None
    """largest absolute value of the discriminator's weights; as usual for the loss when left out (0.01 in wgan)"""
    clip: float = 0.0
    """largest L2 norm of a network's whole gradient; 0 does not clip"""
    accumulate: int = 1
    """batches whose gradients are averaged for each update"""
    ema_images: float = 20_000
    """half-life of the generator's averaged weights, in images; 0 keeps no average"""
    ema_rampup: float = 0.0
    """the half-life is at most this part of the images so far (0.05 in StyleGAN2); 0: a tenth of the steps so far"""
    max_skipped: int = 25
    """updates in a row that may be skipped because something is not finite, before the run stops"""

    def __post_init__(self) -> None:
        expect(self, ("d_steps", "accumulate", "max_skipped"), AT_LEAST_ONE)
        expect(self, ("lr_g", "lr_d"), POSITIVE)
        expect(self, ("clip", "ema_images", "ema_rampup", "weight_clip", "lr_warmup"), NOT_NEGATIVE)
        expect(self, ("beta1", "beta2", "lr_decay_from"), FRACTION)
        expect(self, ("optimizer",), one_of(("adam", "rmsprop")))
        expect(self, ("lr_schedule",), one_of(SCHEDULES))
        if self.lr_decay_from and self.lr_schedule == "constant":
            raise UsageError(
                f"lr_decay_from: a constant schedule lowers nothing; give {option('lr_schedule', 'linear')} or cosine,"
                f" or {option('lr_decay_from', 0)}"
            )

    @property
    def scheduled(self) -> bool:
        """Whether the learning rates change from step to step."""
        return self.lr_schedule != "constant" or self.lr_warmup > 0


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes and when, and what it does when something is wrong."""

    log_every: int = 50
    """steps between lines of metrics"""
    sample_every: int = 500
    """steps between sample grids"""
    checkpoint_every: int = 1000
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """how many checkpoints stay on disk"""
    on_collapse: str = "warn"
    """on mode collapse or divergence: warn, stop the run, or rollback to a checkpoint from before"""
    wandb: str = ""
    """project of Weights & Biases to log to as well; none when left out (pip install wandb)"""

    def __post_init__(self) -> None:
        expect(self, ("log_every", "sample_every", "checkpoint_every", "keep_checkpoints"), AT_LEAST_ONE)
        expect(self, ("on_collapse",), one_of(("warn", "stop", "rollback")))


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes and writes, by topic.

    `Config.from_flags(steps=20_000, loss="hinge", lr_g=1e-4)` takes the names of the command line's flags instead.
    """

    steps: int = 10_000
    """generator steps in all"""
    seed: int = 0
    """seed of weights, latents and the order of images"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    precision: str = "fp32"
    """fp32, tf32 (GPU), bf16, fp16, or auto: bf16 on GPUs that compute in it, else fp32; penalties are summed in
    float32 in all of them"""
    compile: str = "auto"
    """on: compiled steps; graph: CUDA graphs without a compiler; off: eagerly; auto: as measured fastest, compiled
    where the remaining steps amortize the compile time"""
    grow_images: int = 0
    """real images in each phase of progressive growing, in which a level fades in or is trained; 0 does not grow"""
    sync_statistics: bool = False
    """batch norms use the batches of all processes together, where torchrun starts several"""
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        expect(self, ("steps",), AT_LEAST_ONE)
        expect(self, ("seed", "grow_images"), NOT_NEGATIVE)
        expect(self, ("compile",), one_of(("auto", "on", "graph", "off")))
        expect(self, ("precision",), one_of(("fp32", "tf32", "bf16", "fp16", "auto")))
        check_options(self, self.adversarial)

    def settled(self, loss: AdversarialLoss) -> Config:
        """The same with values where they are None: the usual optimizer settings of the loss, a length of the noise."""
        usual = {n: v for n, v in dataclasses.asdict(loss.defaults).items() if getattr(self.optim, n) is None}
        steps = self.regularization.instance_noise_steps or self.steps
        regularization = dataclasses.replace(self.regularization, instance_noise_steps=steps)
        return dataclasses.replace(self, optim=dataclasses.replace(self.optim, **usual), regularization=regularization)

    @property
    def adversarial(self) -> AdversarialLoss:
        """The adversarial loss that the configuration names."""
        return ADVERSARIAL[self.loss.adversarial]

    # --- flags ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_flags(cls, **flags: Any) -> Config:
        """A configuration from flat names, those of the command line's flags with underscores.

        Options of a family of networks are named as its fields: `from_flags(model="biggan", embedding=128)`; those of
        the task and of its data come in dictionaries: `from_flags(task="paired", task_options={...}, data_options={})`.
        Raises UsageError for an unknown name, with the nearest one.
        """
        return cls().with_flags(**flags)

    def with_flags(self, **flags: Any) -> Config:
        """A copy with other values, named as in `from_flags`."""
        topics: dict[str, dict[str, Any]] = {}
        for name, value in flags.items():
            topic, own = (FLAGS | _OPTIONS).get(name, ("", ""))
            if not own:
                family = flags.get("model", self.model.family)
                if name not in (own_options := options_of(family)):
                    takes = f"{family} has the options {', '.join(own_options) or 'of all families alone'}"
                    raise UsageError(f"config: {unknown('field', name, [*FLAGS, *own_options])}; {takes}")
                topics.setdefault("model", {}).setdefault("options", dict(self.model.options))[name] = value
            else:
                topics.setdefault(topic, {})[own] = value
        changed = topics.pop("", {})
        for topic, values in topics.items():
            changed[topic] = dataclasses.replace(getattr(self, topic), **values)
        return dataclasses.replace(self, **changed)

    def flags(self) -> dict[str, Any]:
        """The values by the names of their flags."""
        return {name: getattr(getattr(self, topic) if topic else self, own) for name, (topic, own) in FLAGS.items()}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The configuration of a `config.json`, of an older version too. Raises UsageError for an unknown field."""
        values = of_today(check_fields(dict, values))
        for name in values:
            if name not in _field_names(cls):
                raise UsageError(f"config: {unknown('field', name, _field_names(cls))}")
        made = {}
        for name, value in values.items():
            kind = type(getattr(_DEFAULT, name))
            if is_dataclass(kind):
                for inner in (value := check_fields(kind, value, name)):
                    if inner not in _field_names(kind):
                        raise UsageError(f"config: {unknown('field', f'{name}.{inner}', _field_names(kind))}")
                value = kind(**value)
            made[name] = value
        check_fields(cls, {name: value for name, value in made.items() if not is_dataclass(value)})
        return cls(**made)


def options_of(family: str) -> list[str]:
    """Options that a family of networks has beside those of all; none for an unknown family."""
    from fastgan.models import registry

    return [n for n in registry.option_types(family) if n != "condition"] if family in FAMILIES else []


#: Flags that may differ when a run is resumed: how long it goes on, where and what it writes, the learning rates, and
#: where the images are, which must be the same ones.
RESUMABLE = (
    "steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "device", "compile",
    "sync_statistics", "on_collapse", "wandb", "lr_g", "lr_d", "lr_schedule", "lr_warmup", "lr_decay_from", "data",
    "eval_every", "eval_metric", "eval_n", "eval_extractor", "eval_patience",
)  # fmt: skip


def check_resumed(asked: Config, facts: dict[str, Any], ranks: int) -> None:
    """Raise UsageError where the configuration differs from the run's in a field that resuming must not change.

    facts: the run's `config.json`. On another number of ranks it is the same run as long as the images per update stay
    as many.
    """
    facts = modernized_config(facts)
    stored = Config.from_dict(facts["config"])
    if (loss := facts.get("loss", {}).get("name", stored.loss.adversarial)) != stored.loss.adversarial:
        raise UsageError(f"resume: the run has an adversarial loss of your own, {loss!r}; resume it with your Trainer")

    def images(config: Config, count: int) -> tuple[int, str]:
        batch, accumulate = config.data.batch, config.optim.accumulate
        return count * batch * accumulate, f"{count} × batch {batch} × accumulate {accumulate}"

    (now, said), (then, before) = images(asked, ranks), images(stored, facts.get("world", 1))
    if now != then:
        raise UsageError(
            f"batch: ranks × batch × accumulate must stay what the run began with, got {said} = {now} instead of"
            f" {before} = {then}; give {option('batch')} or {option('accumulate')}"
        )
    given = asked.flags() | _all_options(asked)
    for name, value in (stored.flags() | _all_options(stored)).items():
        if given[name] != value and name not in (*RESUMABLE, "batch", "accumulate"):
            raise UsageError(
                f"{name}: {given[name]!r} differs from the run's {value!r};"
                f" a resumed run can change only {', '.join(RESUMABLE)}"
            )


def _all_options(config: Config) -> dict[str, Any]:
    """Options that a resumed run keeps. Those of the data say where it is, and images are compared with the run's."""
    return {f"{topic}.options": getattr(config, topic).options for topic in ("model", "task")}


def field_names() -> list[str]:
    """Names of the command line's flags for the configuration, with underscores."""
    return list(FLAGS)


def switches() -> list[str]:
    """Names of the flags that are true or false."""
    return [name for name, value in _DEFAULT.flags().items() if isinstance(value, bool)]


def _field_names(kind: Any) -> list[str]:
    return [each.name for each in fields(kind)]


_DEFAULT = Config()
#: Fields whose flag has another name.
_RENAMED = {
    ("data", "source"): "data", ("model", "family"): "model", ("loss", "adversarial"): "loss", ("task", "name"): "task",
}  # fmt: skip
#: Dictionaries of options in Python.
_OPTIONS = {"task_options": ("task", "options"), "data_options": ("data", "options")}


def _flags() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for each in fields(Config):
        if is_dataclass(kind := type(getattr(_DEFAULT, each.name))):
            inner = [name for name in _field_names(kind) if name != "options"]
            found |= {_RENAMED.get((each.name, name), name): (each.name, name) for name in inner}
        else:
            found[each.name] = ("", each.name)
    return found


#: flag → (topic or "", field)
FLAGS: dict[str, tuple[str, str]] = _flags()
