"""Translates what earlier versions of fastgan wrote into run directories to the names of today.

The report reads through it, and so does resuming; what else a resumed run needs is in fastgan/train/config_history.py
and fastgan/train/state.py.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

#: Keys of metrics.jsonl.
METRICS = {
    "critic/ranking": "auroc/real_fake",
    "critic/memory": "auroc/train_held_out",
    "slope/mean": "gradient_norm/mean",
    "slope/deviation": "gradient_norm/deviation",
    "latent/ends": "latent/distance",
}
#: Fields of Config.
FIELDS = {"game": "loss", "r1_interval": "penalty_interval"}
#: Top-level keys of config.json.
HEAD = {"neighbours": "neighbors"}
#: Keys of "dataset" in config.json.
DATASET = {"licence": "license"}
#: Keys of the JSON file beside an exported model, and of "quantization" in it.
EXPORT = {"quantisation": "quantization"}
QUANTIZATION = {
    "layers_quantised": "layers_quantized",
    "channels_equalised": "channels_equalized",
    "work_quantised": "work_quantized",
}
#: Keys of a rollback, which the first row after it lists.
ROLLBACK = {"left": "from_step", "to": "to_step", "remedies": "suggestions"}
#: Adversarial losses without a lower bound, of runs whose config.json holds only the name of the loss.
UNBOUNDED = ("wgan", "wgan-gp")


def modernized_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl under the keys of today."""
    found = _renamed(row, METRICS)
    rollbacks = found.pop("restored", found.get("rollbacks"))
    if isinstance(rollbacks, list):
        found["rollbacks"] = [_renamed(past, ROLLBACK) for past in rollbacks if isinstance(past, Mapping)]
    return found


def modernized_fields(fields: Mapping[str, Any], known: Container[str] = ()) -> dict[str, Any]:
    """Fields of Config, flat as earlier versions wrote them, under the names and with the values of today.

    known: names that are kept because Config has them.
    """
    found = {name if name in known else FIELDS.get(name, name): value for name, value in fields.items()}
    if isinstance(augment := found.get("augment"), str):
        found["augment"] = augment.replace("colour", "color")
    return found


def modernized_config(head: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json under the keys of today; "loss" is a table with the loss's name and `unbounded`."""
    found = _renamed(head, HEAD)
    game = found.pop("game", None)
    if isinstance(config := found.get("config"), Mapping):
        game = game or config.get("game")
        found["config"] = modernized_fields(config)
    if "loss" not in found and isinstance(game, str):
        found["loss"] = {"name": game, "unbounded": game in UNBOUNDED}
    if isinstance(dataset := found.get("dataset"), Mapping):
        found["dataset"] = _renamed(dataset, DATASET)
    return found


def modernized_export(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the JSON file beside an exported model under the keys of today."""
    found = _renamed(facts, EXPORT)
    if isinstance(quantization := found.get("quantization"), Mapping):
        found["quantization"] = _renamed(quantization, QUANTIZATION)
    return found


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in record.items()}
