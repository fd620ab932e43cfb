"""OpCases of instance_norm_act."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import instance_norm_act
from fastgan.testing.case import FLOATS, HALVES, Cost, Inputs, Normal, OpCase, Shape

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "leaky_relu": functools.partial(F.leaky_relu, negative_slope=0.2),
}


def instance_norm_cases() -> Iterator[OpCase]:
    """The cases, for CASES."""
    image = (2, 5, 3, 7)
    for name, shape in (("linear", image), ("relu", image), ("leaky_relu", image), ("leaky_relu_1d", (3, 5, 71))):
        act = name.removesuffix("_1d")
        yield OpCase(
            name=f"instance_norm_{name}",
            ops=("instance_norm_act", "instance_norm_act_grad"),
            make=_one,
            call=functools.partial(instance_norm_act, act=act),
            plain=functools.partial(_plain, act=act),
            shape=shape,
            curved=True,
            couples=True,
            cost=_cost,
            penalty_calls={"instance_norm_act": 2, "instance_norm_act_grad": 3},
            least_pixels=2,
            dtypes={"reference": FLOATS + HALVES, "cpp": FLOATS, "triton": FLOATS + HALVES},
            core=name in ("linear", "relu"),
            bench_shapes=((1, 256, 64, 64), (8, 64, 64, 64)) if name == "relu" else (),
        )


def _one(normal: Normal, shape: Shape) -> Inputs:
    return (normal(*shape),)


def _plain(x: Tensor, act: str) -> Tensor:
    return _PLAIN[act](F.instance_norm(x))


def _cost(inputs: Inputs) -> dict[str, Cost]:
    (x,) = inputs
    size = x.numel() * x.element_size()
    # Sums of x and of its squares, then the result; sums of g and of g · v, then the gradient.
    return {"forward": Cost(2 * size, 8 * x.numel()), "backward": Cost(3 * size, 14 * x.numel())}
