"""The pickles of NVIDIA's StyleGAN repositories: networks with the source text of their classes, which is not executed.

A file is the pickle of a dict {G, D, G_ema, training_set_kwargs, augment_pipe}. Its networks are rebuilt by a function
that executes the text; here that function's argument is read: the name of the class, the arguments of its constructor,
its parameters, buffers and the modules in it, which are pickled in the same way or as modules of PyTorch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from fastgan._util.memory import require_memory
from fastgan._util.pickle_data import Call, Global, read_pickle
from fastgan._util.pickle_tensors import Tensors, plain, tensor_globals
from fastgan._util.schema import shown
from fastgan.errors import DataError
from fastgan.models.checkpoints.contents import Contents, State

_RECONSTRUCT = Global("torch_utils.persistence", "_reconstruct_persistent_obj")
_OBJECTS = {
    Global("collections", "OrderedDict"),
    Global("dnnlib.util", "EasyDict"),
    _RECONSTRUCT,
    # Of protocol 2 and 3, as Python 3 and 2 name them.
    *(Global(module, name) for module in ("builtins", "__builtin__") for name in ("object", "set")),
    *(Global(module, "_reconstructor") for module in ("copyreg", "copy_reg")),
}
#: Classes of modules whose parameters are read: of PyTorch, and of R3GAN's networks, which NVIDIA's classes wrap.
_MODULES = re.compile(r"(torch\.nn\.modules\.\w+|R3GAN\.(Networks|FusedOperators|Resamplers))\.\w+")
#: Modules and tensors in one file, and how deep modules may be nested.
_COUNT, _DEPTH = 100_000, 32


def is_plain_pickle(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is a pickle, and not one of PyTorch's, which begins with its number."""
    return start[:1] == b"\x80" and start[2:4] != b"\x8a\x0a"


def read_nvidia_pickle(path: Path) -> Contents:
    """The networks of a pickle. Raises DataError, without the name of the file, for another or a damaged one."""
    require_memory(2 * path.stat().st_size, "reading this pickle")
    allowed = _OBJECTS | tensor_globals()
    content, _ = read_pickle(path.read_bytes(), lambda one: one in allowed or _MODULES.fullmatch(str(one)) is not None)
    if not isinstance(content, dict):
        raise DataError(f"expected a pickle of a dict of networks, got {type(content).__name__}")
    reader, networks, facts = _Reader(), {}, {}
    for name, value in content.items():
        if isinstance(value, Call) and value.function == _RECONSTRUCT and isinstance(name, str):
            networks[name] = reader.network(value, name)
        elif value is not None:
            facts[str(name)] = plain(value)
    return Contents("pickle of NVIDIA's repositories", networks, facts)


class _Reader:
    """Reads networks; counts modules and tensors, of which a few can refer to each other without end."""

    def __init__(self) -> None:
        self.tensors, self.count = Tensors(), 0

    def network(self, call: Call, name: str) -> State:
        tensors: dict[str, Tensor] = {}
        class_name, fields = _fields(call, name)
        self._collect(call, "", tensors, 0)
        arguments = plain(fields.get("_init_kwargs") or {})
        positional = plain(fields.get("_init_args") or ())
        if not isinstance(arguments, dict) or not isinstance(positional, list):
            raise DataError(f"{shown(name)} is damaged: expected arguments of its constructor")
        # The repositories differ in this default of their classes alone.
        defaults = {} if _has_clamp(call) else {"conv_clamp": None}
        return State(tensors, class_name, positional, arguments, defaults)

    def _collect(self, call: Any, prefix: str, found: dict[str, Tensor], depth: int) -> None:
        """Add the parameters and persistent buffers of a module and the modules in it, as its state dict has them."""
        self.count += 1
        if depth > _DEPTH or self.count > _COUNT:
            raise DataError(f"the modules of {shown(prefix)} are nested too deeply or too many")
        _, fields = _fields(call, prefix)
        hidden = fields.get("_non_persistent_buffers_set") or ()
        for table in ("_parameters", "_buffers"):
            for name, value in _table(fields, table, prefix).items():
                self.count += 1
                if value is not None and not (table == "_buffers" and name in hidden):
                    found[f"{prefix}{name}"] = self.tensors.tensor(value, f"{prefix}{name}")
        for name, value in _table(fields, "_modules", prefix).items():
            if value is not None:
                self._collect(value, f"{prefix}{name}.", found, depth + 1)


def _fields(call: Any, name: str) -> tuple[str, dict[str, Any]]:
    """The name of the class of a module and its attributes."""
    if isinstance(call, Call) and call.function == _RECONSTRUCT:
        about = call.args[0] if call.args else None
        class_name, fields = (about.get("class_name"), about.get("state")) if isinstance(about, dict) else (None, None)
    elif isinstance(call, Call):
        class_name, fields = call.function.name, call.state
    else:
        class_name = fields = None
    if not isinstance(class_name, str) or not isinstance(fields, dict):
        raise DataError(f"{shown(name.removesuffix('.'))} is no module with its class and state")
    return class_name, fields


def _has_clamp(call: Call) -> bool:
    """Whether the source text of a network's class limits activations by default: 256 in StyleGAN3's repository."""
    source = call.args[0].get("module_src")
    return isinstance(source, str) and re.search(r"conv_clamp\s*=\s*256", source) is not None


def _table(fields: dict[str, Any], name: str, prefix: str) -> dict[str, Any]:
    found = fields.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise DataError(f"{shown(prefix + name)} is damaged: expected a dict by names")
    return found
