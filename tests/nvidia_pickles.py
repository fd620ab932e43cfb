"""Writes pickles of the structure of NVIDIA's: networks as calls of a function with source text, class and state."""

import io
import pickle
import sys
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import nn

#: What the original function would execute.
SOURCE = "raise RuntimeError('the source text of a pickle was executed')  # conv_clamp = None\n"


def _reconstruct_persistent_obj(meta):
    raise RuntimeError("called")


class EasyDict(dict):
    """Pickled by name, as a dict with items."""


@contextmanager
def _importable():
    """Modules of the names that the pickle has to contain: the pickler looks the objects up in them."""
    made = {}
    for name, content in (
        ("torch_utils", {}),
        ("torch_utils.persistence", {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}),
        ("dnnlib", {}),
        ("dnnlib.util", {"EasyDict": EasyDict}),
    ):
        made[name] = ModuleType(name)
        vars(made[name]).update(content)
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
        _reconstruct_persistent_obj.__module__ = EasyDict.__module__ = __name__


class Persistent:
    """A network as NVIDIA's decorator pickles it; state: the attributes of the module."""

    def __init__(self, class_name, state, source=SOURCE):
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,), None


def persistent(module, *args, class_name=None, source=SOURCE, **kwargs):
    """A module of any class; args, kwargs: of its constructor."""
    state = {name: value for name, value in module.__dict__.items() if name in _FIELDS}
    state["_modules"] = {
        # Modules of PyTorch are pickled as themselves.
        name: child if type(child).__module__.startswith("torch.nn.") else persistent(child, source=source)
        for name, child in module._modules.items()
    }
    return Persistent(
        class_name or type(module).__name__, state | {"_init_args": args, "_init_kwargs": EasyDict(kwargs)}, source
    )


_FIELDS = ("training", "_parameters", "_buffers", "_non_persistent_buffers_set")


def dumps(content, protocol=4):
    out = io.BytesIO()
    with _importable():
        pickle.Pickler(out, protocol).dump(content)
    return out.getvalue()


class Child(nn.Module):
    """A small module with what state dicts have: parameters, buffers, those that are not saved, none at all."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2).t())
        self.register_parameter("bias", None)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("half_", torch.randn(4).half())
        self.register_buffer("brain", torch.randn(4).bfloat16())
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.absent = Child(), nn.BatchNorm2d(2), None
        self.list = nn.ModuleList([nn.Linear(2, 2)])
        self.tied = self.first.weight


def module_of(state):
    """A module with these tensors as parameters and buffers, under their names."""
    root = nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        if value.is_floating_point() and not last.endswith(("filter", "Kernel", "avg", "const")):
            module.register_parameter(last, nn.Parameter(value.clone()))
        else:
            module.register_buffer(last, value.clone())
    return root
