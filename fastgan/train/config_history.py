"""What older versions wrote into `config.json`, as today's fields."""

from __future__ import annotations

from typing import Any

#: Flat fields of before the configuration was nested: the topic they are in now.
_TOPICS = {
    "data": ("data", "resolution", "channels", "batch", "held_out"),
    "model": ("model", "width", "latent", "d_norm", "condition", "classes"),
    "loss": (
        "game", "gp_weight", "zero_centered_gp_weight", "dragan_weight", "r1_weight", "r2_weight", "penalty_interval",
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
_RENAMED = {"data": "source", "model": "family", "game": "adversarial"}
#: Options of families of networks that were fields for all, and the values that meant nothing was said.
_OPTIONS: dict[str, Any] = {"variant": None, "attention": None, "minibatch_discrimination": 0}


def of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json` by today's names and meanings; those of today's version as they are."""
    if any(isinstance(value, dict) for value in values.values()):
        return values
    values = dict(values)
    if "optimizer" not in values:
        if "r1_interval" in values:
            values["penalty_interval"] = values.pop("r1_interval")
        if values.get("game") != "wgan-gp":  # the weight stood there too, and meant nothing
            values.pop("gp_weight", None)
    if values.get("on_collapse") == "restore":
        values["on_collapse"] = "rollback"
    if "augment" in values:
        values["augment"] = values["augment"].replace("colour", "color")
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
