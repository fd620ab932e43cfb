"""What people type by habit: options of other programs, and numbers like 1e4."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any

from fastgan.errors import UsageError

_PRECISION = "write --precision bf16 or --precision fp16"
_BATCH, _DATA, _STEPS = "write --batch N", "write --data SOURCE", "write --steps N (generator steps, not epochs)"
_RATES = "write --lr-g RATE and --lr-d RATE"
_DEVICE = "write --device cuda:0; for several GPUs: torchrun --nproc-per-node N -m fastgan train ..."
_DRY_RUN = "there is no dry run; try --steps 10 with another --out"

#: By command, options of other programs and what to write here. Options that a command has are never looked up.
HABITS: dict[str, dict[str, str]] = {
    "train": {
        **dict.fromkeys(("fp16", "half", "amp", "bf16", "mixed-precision", "use-amp", "use-fp16"), _PRECISION),
        **dict.fromkeys(("batch-size", "batchsize", "bs", "train-batch-size", "batch-gpu"), _BATCH),
        **dict.fromkeys(("dataset", "data-dir", "data-root", "dataroot", "data-path", "train-dir"), _DATA),
        **dict.fromkeys(("epochs", "n-epochs", "num-epochs", "iterations", "iters", "max-steps", "kimg"), _STEPS),
        **dict.fromkeys(("learning-rate", "g-lr", "d-lr"), _RATES),
        **dict.fromkeys(("gpu", "gpus", "gpu-ids", "cuda", "use-cuda"), _DEVICE),
        **dict.fromkeys(("output", "outdir", "out-dir", "output-dir", "save-dir", "checkpoint-dir"), "write --out DIR"),
        **dict.fromkeys(("image-size", "img-size", "size", "load-size", "crop-size"), "write --resolution N"),
        **dict.fromkeys(("z-dim", "latent-dim", "nz", "z-size"), "write --latent N"),
        **dict.fromkeys(("ngf", "ndf", "channel-base", "ch"), "write --width N"),
        **dict.fromkeys(("num-workers", "workers", "n-cpu", "num-threads"), "images are decoded once"),
        **dict.fromkeys(("arch", "netg", "network", "model-name"), "write --model FAMILY"),
        **dict.fromkeys(("gan-mode", "gan-type", "adv-loss"), "write --loss NAME"),
        **dict.fromkeys(("cond", "conditional", "class-cond"), "write --condition NAME"),
        **dict.fromkeys(("continue", "continue-train", "load"), "write --resume RUN"),
        **dict.fromkeys(("pretrained", "finetune", "weights", "load-from"), "write --init-from RUN|FILE"),
        **dict.fromkeys(("lr-policy", "lr-scheduler", "scheduler"), "write --lr-schedule linear or cosine"),
        **dict.fromkeys(("warmup", "warmup-steps"), "write --lr-warmup STEPS"),
        **dict.fromkeys(("eval-freq", "eval-interval", "fid-every"), "write --eval-every STEPS"),
        **dict.fromkeys(("patience", "early-stopping"), "write --eval-patience N with --eval-every STEPS"),
        "preset": "the preset comes first, without a dash: fastgan train PRESET",
        "cfg": "a preset comes first (fastgan train PRESET), a file with --config FILE",
        "dry-run": _DRY_RUN,
    },
    "sample": {
        **dict.fromkeys(("num", "count", "num-samples", "num-images", "samples"), "write --n N"),
        **dict.fromkeys(("label", "labels", "classes"), "write --class NAME"),
        **dict.fromkeys(("output", "outdir", "out-dir", "output-dir"), "write --out FILE"),
        **dict.fromkeys(("checkpoint", "ckpt", "model"), "the run or file comes first: fastgan sample RUN"),
    },
    "export": {
        **dict.fromkeys(("fp16", "half"), "write --precision fp16"),
        **dict.fromkeys(("int8", "quantize"), "write --precision int8 --calibrate IMAGES"),
        **dict.fromkeys(("format", "target"), "write --to TARGET"),
        **dict.fromkeys(("output", "outfile"), "write --out FILE"),
        **dict.fromkeys(("opset", "opset-version"), "the opset is fixed by what is verified"),
    },
    "upscale": {
        **dict.fromkeys(("input", "i", "output", "o"), "the files come first: fastgan upscale IN OUT"),
        **dict.fromkeys(("scale", "outscale", "s"), "the scale is that of the network: --model NAME"),
        **dict.fromkeys(("tile-size",), "write --tile N"),
        **dict.fromkeys(("model-name", "model-path", "n"), "write --model NAME|FILE"),
        **dict.fromkeys(("ext",), "write --format NAME"),
        **dict.fromkeys(("gpu", "gpu-id", "g"), "write --device cuda:0"),
        **dict.fromkeys(("fp16", "half", "fp32"), "the precision is that of the file: fastgan export --precision fp16"),
    },
    "eval": {
        **dict.fromkeys(("num", "num-samples", "num-images"), "write --n N"),
        **dict.fromkeys(("data", "real", "ref", "reference", "dataset"), "write --against DATA"),
        **dict.fromkeys(("metric",), "write --metrics NAME"),
    },
}

_WHOLE = re.compile(r"\d+(\.\d*)?([eE]\+?\d{1,2})?")


def checked(words: list[str], kind: Any, command: str) -> list[str]:
    """The words with whole numbers such as 1e4 written out for options that take integers.

    Raises UsageError for an option that another program has and this command has not, with what to write here.
    """
    flags, habits = flags_of(kind), HABITS.get(command, {})
    result: list[str] = []
    before = ""
    for word in words:
        flag, given, value = word.partition("=")
        name = flag.lstrip("-").replace("_", "-")
        if flag.startswith("-") and not _WHOLE.fullmatch(name):
            if name not in flags and name in habits:
                raise UsageError(f"unknown option {flag}; {habits[name]}")
            result.append(f"{flag}={_whole(value, flags.get(name, set()))}" if given else word)
            before = name
        else:
            result.append(_whole(word, flags.get(before, set())))
    return result


def flags_of(kind: Any) -> dict[str, set[Any]]:
    """The options of a dataclass, or of a union of them, without dashes, and the types that each takes."""
    if hasattr(kind, "__metadata__"):  # a subcommand: what describes it is a dataclass too
        return flags_of(kind.__origin__)
    if not dataclasses.is_dataclass(kind):
        return {name: found for part in typing.get_args(kind) for name, found in flags_of(part).items()}
    found: dict[str, set[Any]] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        extras = getattr(hint, "__metadata__", ())
        bare = hint.__origin__ if extras else hint
        if dataclasses.is_dataclass(bare):
            found |= flags_of(bare)
        else:
            # tyro.conf.arg(name=...)
            name = next((extra.name for extra in extras if getattr(extra, "name", None)), name)
            found[name.replace("_", "-")] = _parts(bare)
    return found


def _parts(hint: Any) -> set[Any]:
    """The types in unions and tuples."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple):
        return {part for argument in typing.get_args(hint) for part in _parts(argument)}
    return {hint}


def _whole(word: str, kinds: set[Any]) -> str:
    if int not in kinds or str in kinds or not _WHOLE.fullmatch(word):
        return word
    return str(int(float(word))) if not word.isdigit() and float(word).is_integer() else word
