"""OpCase: the description of an operation for the contract tests and the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shape = tuple[int, ...]
Inputs = tuple[Tensor, ...]
Normal = Callable[..., Tensor]

HALVES = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Cost:
    """The least work of any implementation: bytes read and written once, and floating-point operations."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class OpCase:
    """One use of a public operation.

    The first input is the activation x [N, C, *]; the others are its parameters. Everything is differentiated.
    """

    name: str
    ops: tuple[str, ...]
    """The names (in fastgan.ops._library.registry) of the ops that run in two orders of gradients."""
    make: Callable[[Normal, Shape], Inputs]
    """make(normal, shape of x): the inputs in double, where normal(*size) draws from the normal distribution."""
    call: Callable[..., Tensor]
    """The public function, of the inputs."""
    plain: Callable[..., Tensor]
    """The same in plain PyTorch. In double it is the exact result from which errors are measured."""
    shape: Shape
    """x in the tests: odd sizes."""
    curved: bool
    """Whether the op has a second derivative other than zero."""
    cost: Callable[[Inputs], Mapping[str, Cost]]
    """The cost of "forward" and "backward" for these inputs."""
    penalty_calls: Mapping[str, int]
    """How often each op runs in a gradient penalty through two uses of the operation, with the backward pass."""
    bench_shapes: tuple[Shape, ...] = ()
    """Shapes that the benchmark times; if there are none, only the tests use the case."""
    mixed: bool = True
    """Whether parameters may be float32 with an activation in half precision."""
    couples: bool = False
    """Whether every gradient contains a sum over the whole output, as that of a norm does."""
    library: bool = False
    """Whether it contains PyTorch's convolutions, whose sums depend on the number of threads."""
    unrolled: bool = False
    """Whether a program of the Triton kernel is a long unrolled loop, for which its interpreter takes long."""
    least_images: int = 0
    """The smallest N that the op takes."""
    least_pixels: int = 1
    """The smallest side of an image that the op takes."""
    terms: int = 1
    """How many rounded sums are added up into each element of the result."""
    tiled: tuple[str, ...] = ()
    """The back-ends in which a NaN or an infinity reaches a whole tile of the result, not only what it is added to."""
    core: bool = True
    """Whether the case is used in slow tests: in Triton, compilers and exporters."""
    dtypes: Mapping[str, tuple[torch.dtype, ...]] = field(default_factory=lambda: {"reference": FLOATS + HALVES})
    """The dtypes that each back-end supports. A back-end is added here with its kernel."""

    def __str__(self) -> str:
        return self.name

    def inputs(
        self,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        *,
        shape: Shape | None = None,
        seed: int = 0,
        parameter_dtype: torch.dtype | None = None,
    ) -> Inputs:
        """Leaves that require gradients, the same numbers for every dtype, device and layout up to rounding."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        x, *parameters = self.make(normal, shape or self.shape)
        x = x.to(device, dtype)
        if x.dim() == 4:
            x = x.contiguous(memory_format=memory_format)
        rest = [p.to(device, parameter_dtype or dtype) for p in parameters]
        return tuple(t.requires_grad_() for t in (x, *rest))

    @property
    def memory_formats(self) -> tuple[torch.memory_format, ...]:
        """The layouts that x can have."""
        if len(self.shape) == 4:
            return torch.contiguous_format, torch.channels_last
        return (torch.contiguous_format,)

    def sized(self, images: int | None = None, pixels: int | None = None) -> Shape:
        """The test shape with another N, or with every dimension after the channel set to `pixels`."""
        n, c, *rest = self.shape
        return (n if images is None else images, c, *(rest if pixels is None else [pixels] * len(rest)))


def cotangent(y: Tensor, seed: int = 1) -> Tensor:
    """A fixed random tensor like y, for a vector-Jacobian product."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    return draw.contiguous(memory_format=torch.channels_last) if _channels_last(y) else draw


def _channels_last(y: Tensor) -> bool:
    return y.dim() == 4 and not y.is_contiguous() and y.is_contiguous(memory_format=torch.channels_last)


def detached(inputs: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """Fresh leaves with the same values and layouts, in another dtype if one is given."""
    return tuple(t.detach().to(dtype or t.dtype, copy=True).requires_grad_() for t in inputs)
