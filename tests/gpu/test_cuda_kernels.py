"""The CUDA C++ kernels as nvcc and as NVRTC compiled them, on a GPU."""

import functools

import pytest
import torch

from fastgan.ops import _cuda
from fastgan.ops.spectral_norm import cuda, reference

KINDS = {"nvcc": _cuda._Built, "nvrtc": _cuda._Compiled}


@functools.cache
def load(kind):
    try:
        return KINDS[kind]("spectral_norm", torch.cuda.current_device())
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(params=KINDS)
def kernels(request, monkeypatch):
    found = load(request.param)
    monkeypatch.setattr(_cuda, "kernels", lambda family, device: found)
    return found


def group(dtype=torch.float32, shapes=((64, 3, 3, 3), (128, 64, 4, 4), (512, 256, 4, 4), (1, 8192), (1000, 128))):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=dtype).cuda() for shape in shapes]
    sizes = [size for w in weights for size in (len(w), w[0].numel())]
    vectors = [torch.nn.functional.normalize(torch.randn(n, generator=generator, dtype=dtype), dim=0) for n in sizes]
    return weights, torch.cat(vectors).cuda(), [0] * len(weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_results_are_those_of_the_reference(kernels, iterations, v_first, dtype):
    weights, uv, dims = group(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    options = dims, iterations, v_first, 1e-12, None
    found = cuda.spectral_normalize(weights, uv, *options)
    truth = reference.spectral_normalize([w.double() for w in weights], uv.double(), *options)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a.double(), b, **tolerance)
    uv, sigma = found[:2]
    gradients = cuda.spectral_scale_grad(weights, weights, uv, sigma, dims)
    for a, b in zip(gradients, reference.spectral_scale_grad(weights, weights, uv, sigma, dims), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_weights_that_do_not_fit_into_shared_memory(kernels):
    weights, uv, dims = group(shapes=((8192, 8192), (4096, 4096)))  # 320 MB
    found = cuda.power_iteration(weights, uv, dims, 2, False, 1e-12)
    truth = reference.power_iteration([w.double() for w in weights], uv.double(), dims, 2, False, 1e-12)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_rounded_to_half_types(kernels, dtype):
    weights, uv, dims = group()
    full = cuda.spectral_normalize(weights, uv, dims, 1, False, 1e-12, None)
    half = cuda.spectral_normalize(weights, uv, dims, 1, False, 1e-12, dtype)
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(half[2:], full[2:], strict=True))


def test_a_wrong_launch_raises(kernels):
    with pytest.raises((RuntimeError, KeyError)):
        kernels.launch("no_such_kernel", 1, 32, 0, False, b"")
