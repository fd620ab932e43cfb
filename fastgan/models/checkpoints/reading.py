"""Reads files of networks by their content, whatever their names: safetensors, PyTorch files, pickles of NVIDIA's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastgan._util.pickle_tensors import plain
from fastgan._util.schema import read_json, shown, shown_name
from fastgan._util.weight_files import check_tensors, is_safetensors, is_torch_file, read_safetensors, read_torch_file
from fastgan.errors import DataError, UsageError, first_line
from fastgan.models.checkpoints import taming
from fastgan.models.checkpoints.contents import Contents, State
from fastgan.models.checkpoints.nvidia_pickle import is_plain_pickle, read_nvidia_pickle

#: Entries that hold the weights of one network in a file, in order of preference: averaged weights first.
_AVERAGED = ("params_ema", "params-ema")
_ONE = (*_AVERAGED, "params", "state_dict", "model")
#: What training code puts before all names: data-parallel wrappers and Lightning modules.
_PREFIXES = ("module.", "generator.", "_orig_mod.", "Model.")
#: Networks in one file, as `fastgan.models.save` takes and writes them; A and B are the two directions of CycleGAN.
NETWORKS = ("G", "D", "G_ema", "G_A", "G_B", "D_A", "D_B")
#: What CycleGAN's code puts before the names of networks.
_NET = re.compile(r"^net_?(?=[GD])")
#: The entry of a file's metadata that holds the arguments of its networks' constructors, by network.
ARGUMENTS = "arguments"


def read(path: str | Path) -> Contents:
    """The networks in a file as tensors by name, without building any network or executing anything.

    Raises UsageError if there is no such file, DataError (with the path and the reason) if it is damaged, of another
    format, or asks for objects other than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"file: expected a file of networks, got {path}, which {problem}")
    try:
        return _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> Contents:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise DataError("is empty")
    # The length with which a safetensors file begins can equal the first bytes of the other formats: tested first.
    if is_safetensors(start):
        contents = _of_safetensors(path)
    elif is_plain_pickle(start):
        contents = read_nvidia_pickle(path)
    elif is_torch_file(start):
        contents = _of_torch_file(read_torch_file(path))
    else:
        raise DataError("expected a safetensors file, a PyTorch file or a pickle of networks, got none of them")
    if not contents.networks:
        raise DataError(f"expected a file of weights, got one with {_entries(contents.facts)}")
    for state in contents.networks.values():
        state.tensors = _without_prefix(state.tensors)
        check_tensors(state.tensors)
    return contents


def _of_safetensors(path: Path) -> Contents:
    from safetensors import safe_open

    tensors = read_safetensors(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
    networks = _several(tensors)
    try:
        arguments = read_json(metadata.pop(ARGUMENTS, "{}"))
    except ValueError as error:
        raise DataError(f"its metadata cannot be read: {first_line(error)}") from error
    states = {name: State(state) for name, state in networks.items()}
    return Contents("safetensors", _with_arguments(states, arguments), metadata)


def _several(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The networks of a state dict whose names all begin with that of one: G.conv.weight, netG_A.model.1.bias; and
    those of a training of taming-transformers."""
    if together := taming.parts(tensors):
        return together
    found = {_NET.sub("", name): name for name in (key.split(".")[0] for key in tensors)}
    if not tensors or any(name not in NETWORKS for name in found):
        return {"": tensors}
    return {name: _below(tensors, f"{found[name]}.") for name in NETWORKS if name in found}


def _of_torch_file(content: Any) -> Contents:
    if not isinstance(content, Mapping):
        raise DataError(f"expected a dict of weights in this PyTorch file, got {type(content).__name__}")
    if _is_state(content):
        return Contents("PyTorch file", {name: State(one) for name, one in _several(dict(content)).items()}, {})
    given = {str(key): dict(value) for key, value in content.items() if _is_state(value)}
    facts = {str(key): _fact(value) for key, value in content.items() if str(key) not in given}
    one = next((name for name in _ONE if name in given), None)
    if one in _AVERAGED and "params" in given:  # BasicSR keeps both generators in one file
        networks = {"G": given["params"], "G_ema": given[one]}
    else:
        networks = given if one is None else _several(given[one])
    states = {_NET.sub("", name): State(tensors) for name, tensors in networks.items()}
    arguments = content.get(ARGUMENTS, {})
    average = content.get("latent_avg")
    if isinstance(average, Tensor) and "g_ema" in states:  # rosinality's average of w, of the averaged generator
        states["g_ema"].tensors["latent_avg"] = average.flatten()
    return Contents("PyTorch file", _with_arguments(states, arguments), facts)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(one, Tensor) for key, one in value.items())
    )


def _fact(value: Any) -> Any:
    """A short plain value of a file, or how many there are."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping | list | tuple):
        return f"{len(value)} values"
    fields = getattr(value, "__dict__", {})
    return plain(fields) if type(value).__name__ == "Namespace" else f"<{type(value).__name__}>"


def _with_arguments(states: dict[str, State], arguments: Any) -> dict[str, State]:
    """The states with the constructor arguments that `fastgan.models.save` writes beside them."""
    if not isinstance(arguments, Mapping):
        raise DataError(f"{ARGUMENTS}: expected a table, got {shown(arguments)}")
    alone = next(iter(arguments.values())) if len(arguments) == len(states) == 1 else {}
    for name, state in states.items():
        given = arguments.get(name, alone)
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise DataError(f"{ARGUMENTS}: expected a table for {shown(name)}, got {shown(given)}")
        state.arguments = {key: plain(value) for key, value in given.items()}
    return states


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = _below(state, prefix)
    return state


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _entries(facts: dict[str, Any]) -> str:
    names = ", ".join(shown_name(name) for name in list(facts)[:3])
    return f"the entries {names}" if names else "nothing in it"
