"""Makes a network of a class that is here and gives it the weights of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastgan._util.memory import require_memory
from fastgan._util.schema import shown_name
from fastgan.errors import DataError, FastganError, first_line

Network = TypeVar("Network", bound=nn.Module)


def built(make: Callable[[], Network], state: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> Network:
    """The network that `make` returns with these weights in float32, on the CPU, in eval mode.

    optional: ends of names that may be missing; they keep the values of a new network. PyTorch's global random numbers
    are unchanged. Raises DataError for sizes that cannot be built, missing or unexpected names, and other shapes.
    """
    name = check(make, state, optional)
    with torch.random.fork_rng(devices=[]):
        network = make()
    own = network.state_dict()
    require_memory(4 * sum(value.numel() for value in own.values()), f"this {name}")
    network.load_state_dict({**own, **{key: value.float() for key, value in state.items()}})
    return network.eval()


def check(make: Callable[[], nn.Module], state: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> str:
    """Raise DataError unless these are the weights of the network; returns its name. Takes no memory for weights."""
    try:
        with torch.device("meta"):
            network = make()
    except FastganError as error:
        raise DataError(f"has a network of sizes or options that are not supported here: {error}") from error
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError) as error:  # sizes that do not fit
        raise DataError(f"has a network that cannot be built here ({first_line(error)})") from error
    name, own = type(network).__name__, network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(optional or ("\n",))]
    unexpected = [key for key in state if key not in own]
    for keys, problem in ((missing, "is missing"), (unexpected, "is unexpected")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise DataError(f"{shown_name(keys[0])}{more} {problem} in a {name} of these sizes")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise DataError(
                f"{key} has shape {list(value.shape)}: expected {list(own[key].shape)} in a {name} of these sizes"
            )
        if value.dtype.is_complex or not value.float().isfinite().all():
            raise DataError(f"{key} has values that are complex, NaN or infinite")
    return name
