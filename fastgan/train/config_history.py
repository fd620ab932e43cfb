"""What older versions wrote into `config.json`, as today's nested fields; old names are in fastgan/report/legacy.py."""

from __future__ import annotations

from typing import Any

from fastgan.report.legacy import modernized_fields

#: Flat fields of before the configuration was nested: the topic they are in now.
_TOPICS = {
    "data": ("data", "resolution", "channels", "batch", "held_out"),
    "model": ("model", "width", "latent", "d_norm", "condition", "classes"),
    "loss": (
        "loss", "gp_weight", "zero_centered_gp_weight", "dragan_weight", "r1_weight", "r2_weight", "penalty_interval",
        "auxiliary_weight", "feature_matching", "l1_weight", "matching_interval",
    ),
    "optim": (
        "optimizer", "lr_g", "lr_d", "beta1", "beta2", "d_steps", "weight_clip", "clip", "accumulate", "ema_images",
        "max_skipped",
    ),
    "regularization": (
        "label_smoothing", "instance_noise", "instance_noise_steps", "augment", "ada_target", "ada_images",
        "consistency", "consistency_fake", "pack", "unroll", "history", "historical_averaging",
    ),
    "logging": ("log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "on_collapse", "wandb"),
}  # fmt: skip
_RENAMED = {"data": "source", "model": "family", "loss": "adversarial"}
#: Options of families of networks that were fields for all, and the values that meant nothing was said.
_OPTIONS: dict[str, Any] = {"variant": None, "attention": None, "minibatch_discrimination": 0}


def of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json` by today's names and meanings; those of today's version as they are."""
    if any(isinstance(value, dict) for value in values.values()):
        return values
    # The first versions had no choice of optimizers, and a gp_weight that other losses ignored; they wrote every field.
    first = "optimizer" not in values and "beta1" in values
    values = modernized_fields(values)
    if first and values.get("loss") != "wgan-gp":
        values.pop("gp_weight", None)
    if values.get("on_collapse") == "restore":
        values["on_collapse"] = "rollback"
    if values.get("variant") == "line":
        values["variant"] = "linear"
    nested: dict[str, Any] = {}
    options = {name: values.pop(name) for name in _OPTIONS if name in values}
    for topic, names in _TOPICS.items():
        found = {_RENAMED.get(name, name): values.pop(name) for name in names if name in values}
        if found:
            nested[topic] = found
    said = {name: value for name, value in options.items() if value != _OPTIONS[name]}
    if said:
        nested.setdefault("model", {})["options"] = said
    return values | nested
