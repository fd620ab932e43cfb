"""Files of public code with several networks, or a folder of one file for each, as parts of a run to begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fastgan import models
from fastgan.errors import DataError

Tensors = dict[str, Tensor]

#: Public name of a network of unpaired translation → part of a run, and the name in that. CycleGAN's D_A sees images
#: of b, which its G_A makes.
CHILDREN = {
    "G_A": ("generator", "a_to_b"), "G_B": ("generator", "b_to_a"), "D_A": ("discriminator", "b"),
    "D_B": ("discriminator", "a"),
}  # fmt: skip
#: The names of networks in those of files: latest_net_G_A.pth, 200_net_D.pth.
_NAMES = ("G_A", "G_B", "D_A", "D_B", "G", "D")


def files_in(folder: Path) -> dict[str, Path]:
    """The newest file of each network in a folder of CycleGAN, pix2pix or CUT: "latest", else the highest epoch."""
    found: dict[str, tuple[float, Path]] = {}
    for path in folder.glob("*_net_*.pth"):
        match = re.fullmatch(rf"(latest|\d+)_net_({'|'.join(_NAMES)})\.pth", path.name)
        if match is not None:
            age = float("inf") if match[1] == "latest" else float(match[1])
            found[match[2]] = max(found.get(match[2], (-1.0, path)), (age, path))
    return {name: found[name][1] for name in _NAMES if name in found}


def load_folder(folder: Path) -> dict[str, nn.Module]:
    """The networks in the files of a folder, by their public names, or nothing where there are none."""
    found = {}
    for name, path in files_in(folder).items():
        networks = list(models.load(path).values())
        if len(networks) != 1:
            raise DataError(f"{path}: expected one network, got {len(networks)}")
        found[name] = networks[0]
    return found


def parts_of(found: Mapping[str, nn.Module], networks: Mapping[str, nn.Module]) -> dict[str, Tensors]:
    """State dicts of the parts of a run that public networks fill. networks: the run's, by part.

    Where the run's generator is a ModuleDict, children that the networks are not for stay as they are.
    """
    parts: dict[str, Tensors] = {}
    several = isinstance(networks["generator"], nn.ModuleDict)
    for name, network in found.items():
        if not several and name.endswith("_B"):  # the other direction
            continue
        alone = ("generator", "a_to_b") if name.startswith("G") else ("discriminator", "")
        part, child = CHILDREN.get(name, alone) if several else (alone[0], "")
        for own in (part, "ema") if part == "generator" else (part,):
            whole = parts.setdefault(own, dict(networks[own].state_dict()) if child else {})
            prefix = f"{child}." if child else ""
            for key in [key for key in whole if prefix and key.startswith(prefix)]:
                del whole[key]
            whole.update({f"{prefix}{key}": value for key, value in network.state_dict().items()})
    return parts
