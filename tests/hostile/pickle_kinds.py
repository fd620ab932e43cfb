"""Mutated pickles of networks with the structure of NVIDIA's."""

import pickletools
from pathlib import Path
from random import Random

import mutations

#: Names that a pickle may be made to load, and values that other words of it may be replaced by.
_WORDS = (
    "os",
    "system",
    "builtins",
    "eval",
    "getattr",
    "torch",
    "load",
    "numpy",
    "_modules",
    "",
    "a" * 200,
    "\udc80",
    "G",
)


def pickle_seeds(_):
    import torch
    from nvidia_pickles import EasyDict, dumps, module_of, persistent

    from fastgan.models import r3gan
    from fastgan.models.checkpoints.r3gan import to_r3gan

    torch.manual_seed(0)
    generator, discriminator = r3gan.build(8, 1, 4, 8, 0, "none")
    networks = {
        "training_set_kwargs": EasyDict(path="x.zip", resolution=8),
        "G": persistent(module_of(to_r3gan(generator)), class_name="Generator", NoiseDimension=4),
        "D": persistent(module_of(to_r3gan(discriminator)), class_name="Discriminator"),
        "augment_pipe": None,
    }
    return [dumps(networks, protocol) for protocol in (4, 3)]


def pickle_words(random: Random, data: bytes) -> bytes:
    """One to three words, numbers or lengths of a pickle are replaced."""
    for _ in range(random.randint(1, 3)):
        try:
            found = [(op.name, at) for op, _, at in pickletools.genops(data)]
        except Exception:  # changed already
            return mutations.of_bytes(random, data)
        name, at = random.choice(found)
        texts = [place for op, place in found if op == "SHORT_BINUNICODE"]
        if texts and random.random() < 0.5:
            at = random.choice(texts)
            word = random.choice(_WORDS).encode("utf-8", "surrogatepass")
            data = data[: at + 1] + bytes([len(word)]) + word + data[at + 2 + data[at + 1] :]
        elif name.startswith(("BININT1", "BINGET")):
            data = data[: at + 1] + bytes([random.randrange(256)]) + data[at + 2 :]
        elif name.startswith(("BININT", "LONG_BIN", "BINBYTES")):
            data = data[: at + 1] + random.randbytes(2) + data[at + 3 :]
        else:
            data = data[:at] + bytes([random.choice(b"}])N(.0tRbsue\x85\x86\x87\x81\x93\x94\x8f\x90")]) + data[at + 1 :]
    return data


def open_networks(path: Path) -> object:
    from fastgan import models

    models.describe(path)
    return models.load(path)
