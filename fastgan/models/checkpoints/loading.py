"""Opens the networks of a file, whatever its layout, and describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastgan._util.schema import shown_name
from fastgan.errors import DataError
from fastgan.models.checkpoints.contents import Contents, State
from fastgan.models.checkpoints.layouts import DISCRIMINATOR, known_layout, layout_of
from fastgan.models.checkpoints.reading import read

#: The names of networks in files of some projects → ours.
_NAMES = {"g_ema": "G_ema", "g": "G", "d": "D"}
#: The generator that is meant where none is named: averaged weights first.
_PREFERRED = ("G_ema", "G")


class Networks(Mapping[str, nn.Module]):
    """The networks of a file by name: G, D and G_ema, as far as the file has them; a single generator is G.

    layout: of its generator, such as "stylegan2" or "rosinality". facts: what else is in the file, plain values.
    """

    def __init__(self, networks: Mapping[str, nn.Module], layout: str, facts: Mapping[str, Any]):
        self._networks, self.layout, self.facts = dict(networks), layout, dict(facts)

    def __getitem__(self, name: str) -> nn.Module:
        return self._networks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    @property
    def generator(self) -> nn.Module:
        """G_ema, or G where the file has no averaged weights, or its only generator.

        Raises DataError for a file of a discriminator alone, and for one of several generators, such as CycleGAN's.
        """
        for name in _PREFERRED:
            if name in self:
                return self[name]
        found = [name for name in self if name.startswith("G")]
        if len(found) == 1:
            return self[found[0]]
        if found:
            raise DataError(f"the file has the generators {', '.join(found)}: name one of them (FILE:{found[0]})")
        raise DataError(f"the file has no generator, only {', '.join(self)}")


def load(file: str | Path) -> Networks:
    """The networks of a file, in eval mode, float32, on the CPU; the layout is recognized by the content.

    file: NVIDIA's .pkl (stylegan2-ada-pytorch, StyleGAN3, R3GAN), of which nothing is executed; safetensors and PyTorch
    files with the weights of StyleGAN2 or 3 under the same names, of rosinality's StyleGAN2, R3GAN, BigGAN-PyTorch,
    CycleGAN, pix2pix, pix2pixHD, VQGAN and latent diffusion's autoencoders, or a super-resolution network (BasicSR,
    ESRGAN); or an ncnn model. Networks that only
    serve training there, such as augment_pipe, are left out. Raises UsageError if there is no such file, DataError
    (with the path and the reason) if it is damaged, names other objects, or has a network that is not known.
    """
    return _loaded(Path(file), everything=True)


def load_generator(file: str | Path, name: str | None = None) -> nn.Module:
    """`load(file).generator`, without building other networks of the file; or that of a name, such as "G_A"."""
    path = Path(file)
    found = _loaded(path, everything=name is not None)
    if name is not None:
        if name not in found:
            raise DataError(f"{path} has no network {shown_name(name)}, only {', '.join(found)}")
        return found[name]
    try:
        return found.generator
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def describe(file: str | Path) -> dict[str, Any]:
    """What is in a file: {"format", "networks": {name: {"layout", "kind", "parameters", sizes...}}, "facts"}.

    Builds no network of a generator or discriminator; layouts that have no network here are described too. Raises like
    `load`, but not for unknown layouts, of which the first names are in the result.
    """
    path = Path(file)
    if _is_ncnn(path):
        network = _ncnn(path)
        sizes = {"layout": "ncnn", "kind": "upscaler", "network": type(network).__name__, **network.arguments}
        count = sum(value.numel() for value in network.state_dict().values())
        return {"format": "ncnn model", "networks": {"G": {**sizes, "parameters": count}}, "facts": {}}
    contents = read(path)
    networks = {}
    for name, state in _named(contents).items():
        layout = layout_of(state)
        about: dict[str, Any] = {"parameters": state.parameters}
        if state.class_name:
            about["class"] = state.class_name
        if layout is None:
            about |= {"layout": "unknown", "first names": list(state.tensors)[:3], "arguments": state.arguments}
        else:
            about |= {"layout": layout.name, "kind": layout.kind}
            if not layout.module:
                about["network"] = "none here: it is recognized and cannot be loaded"
            try:
                about |= layout.facts(state)
            except DataError as error:
                raise DataError(f"{path}: {_of(name)}{error}") from error
        networks[name] = about
    return {"format": contents.format, "networks": networks, "facts": contents.facts}


def _loaded(path: Path, everything: bool) -> Networks:
    if _is_ncnn(path):
        return Networks({"G": _ncnn(path)}, "ncnn", {})
    contents = read(path)
    states = _named(contents)
    wanted = [name for name, state in states.items() if layout_of(state) is not None or len(states) == 1]
    if not everything:
        wanted = next(([name] for name in _PREFERRED if name in wanted), wanted)
    networks, layouts = {}, {}
    try:
        for name in wanted or list(states)[:1]:
            layout = known_layout(states[name])
            layouts[name] = layout.name
            networks[name] = layout.build(states[name])
    except DataError as error:
        raise DataError(f"{path}: {_of(name)}{error}") from error
    layout_name = next((layouts[name] for name in _PREFERRED if name in layouts), next(iter(layouts.values())))
    return Networks(networks, layout_name, contents.facts)


def _named(contents: Contents) -> dict[str, State]:
    """The networks by our names; the one network of a file of weights alone by what it is."""
    found = {}
    for name, state in contents.networks.items():
        if not name:
            layout = layout_of(state)
            name = "D" if layout is not None and layout.kind == DISCRIMINATOR else "G"
        found[_NAMES.get(name, name)] = state
    return found


def _of(name: str) -> str:
    return f"{name} " if name else ""


def _is_ncnn(path: Path) -> bool:
    """Of this format alone the name counts: it is two files, and its weights have no beginning to recognize."""
    from fastgan._util.weight_files import is_safetensors, is_torch_file

    if path.suffix not in (".param", ".bin") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return not (is_safetensors(start) or is_torch_file(start))


def _ncnn(path: Path) -> Any:
    from fastgan.models import esrgan

    return esrgan.load(path)
