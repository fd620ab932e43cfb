"""Comparison of a file with its network; here the "file" is any function."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan.errors import ExportError
from fastgan.export.precision import PRECISIONS, at_precision
from fastgan.export.verification_inputs import synthetic_photo, tracing_inputs, verification_batches
from fastgan.export.verify import Reference, psnr, smallest_units, verify
from fastgan.runtime.spec import Spec


class Upscaler(nn.Module):
    """×2, in a few layers with trained-like outputs in [0, 1]."""

    scale, channels = 2, 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1))

    def forward(self, x):
        return F.pixel_shuffle(0.1 * self.body(x), 2) + F.interpolate(x, scale_factor=2, mode="nearest")


SPEC = Spec.of(Upscaler())


def runtime(network):
    network = copy.deepcopy(network).eval()

    def run(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    return run


def test_the_network_itself_passes_at_every_size():
    found = verify(runtime(Upscaler()), SPEC, Upscaler())
    rows = found["parity"]
    assert [(row["batch"], row["height"], row["width"]) for row in rows] == [
        (1, 49, 57), (2, 17, 9), (3, 1, 1), (1, 5, 33)]  # fmt: skip
    assert all(0 < row["max_abs_error"] <= found["limit"] < 1e-5 for row in rows[:2])
    assert all(row["mean_abs_error"] <= row["max_abs_error"] for row in rows)
    assert found["psnr"] > 120


def off_by(offset):
    return lambda x: runtime(Upscaler())(x) + np.float32(offset)


def traced_size_only(x):
    if x.shape[2:] == (1, 1):
        raise RuntimeError("Reshape: 147 elements do not fit [21, 29]\nat node 7")
    return runtime(Upscaler())(x)


def another_shape(x):
    return runtime(Upscaler())(x)[..., 1:]


def wrong_when_thin(x):
    return runtime(Upscaler())(x) * np.float32(1 + (x.shape[2] == 5))


def nan_in_one_pixel(x):
    y = runtime(Upscaler())(x)
    y[-1, 0, -1, -1] = np.nan
    return y


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (off_by(1e-5), r"has an error of 1\.\d\de-05 at batch 1 of 57×49 pixels; \d\.\de-0[67] is allowed"),
        (traced_size_only, "fails at batch 3 of 1×1 pixels: Reshape: 147 elements do not fit"),
        (another_shape, r"gives \[1, 3, 98, 113\] at batch 1 of 57×49 pixels, expected \[1, 3, 98, 114\]"),
        (wrong_when_thin, "has an error of .* at batch 1 of 33×5 pixels"),
        (nan_in_one_pixel, "gives NaN or infinity in fp32, at batch 1"),
    ],
)
def test_what_differs_is_refused(run, sentence):
    with pytest.raises(ExportError, match=sentence):
        verify(run, SPEC, Upscaler())


def test_the_limit_follows_pytorchs_own_error():
    """Cancellation costs PyTorch digits; the export may lose as many, and no more."""

    class Canceling(Upscaler):
        def forward(self, x):
            return (super().forward(x) + 1000) - 1000

    easy, hard = (Reference.of(network.eval(), SPEC).limit for network in (Upscaler(), Canceling()))
    assert easy < 2e-6
    assert 3e-5 < hard < 3e-4  # half a rounding of 1000, twice
    reference = Reference.of(Canceling().eval(), SPEC)
    reference.compare(off_by(1e-5))
    with pytest.raises(ExportError, match="has an error of"):
        reference.compare(off_by(1e-3))


class Random(Upscaler):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(1)


class NotANumber(Upscaler):
    def forward(self, x):
        return torch.sqrt(super().forward(x) - 0.5)


class Overflowing(Upscaler):
    """Its intermediate values exceed the range of float16; its output is finite."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.body[0].weight.mul_(1e6)
            self.body[2].weight.mul_(1e-6)

    def forward(self, x):
        return super().forward(x).nan_to_num(0.0, 0.0, 0.0)  # black, as users see it


def half(network, precision):
    return at_precision(network.eval(), PRECISIONS[precision])


@pytest.mark.parametrize("network", [Random(), NotANumber()])
def test_a_network_that_cannot_be_compared(network):
    with pytest.raises(ExportError, match=r"its output is random: two calls|the network gives NaN"):
        verify(runtime(Upscaler()), SPEC, network.eval())


def test_overflow_in_fp16_names_the_layer_and_another_precision():
    network = Overflowing().eval()
    sentence = r"overflows in fp16, at .*; the first module whose output is not finite is body\.0; export it in bf16"
    with pytest.raises(ExportError, match=sentence):
        Reference.of(network, SPEC, "fp16", half(network, "fp16"))
    reference = Reference.of(network, SPEC, "bf16", half(network, "bf16"))
    found = reference.compare(runtime(half(network, "bf16")))
    assert 30 < found["psnr"] < 70


def test_half_precisions_have_limits_of_their_own():
    network = Upscaler().eval()
    limits = {}
    for name in ("fp32", "fp16", "bf16"):
        reference = Reference.of(network, SPEC, name, half(network, name))
        reference.compare(runtime(half(network, name)))
        limits[name] = reference.limit
    assert limits["fp32"] * 1000 < limits["fp16"] < limits["bf16"] / 4
    with pytest.raises(ExportError, match="has an error of"):
        Reference.of(network, SPEC, "fp16", half(network, "fp16")).compare(runtime(half(network, "bf16")))


def test_int8_has_a_psnr_floor_only():
    network = Upscaler().eval()
    reference = Reference.of(network, SPEC, "int8")
    rounded = reference.compare(lambda x: np.round(runtime(network)(x) * 127) / 127)
    assert rounded["limit"] is None
    assert 50 < rounded["psnr"] < 56  # rounding to steps of 1/127: 20·log10(127·√12) = 52.9
    with pytest.raises(ExportError, match=r"has a PSNR of 2\d\.\d dB against the network; int8 needs 30"):
        reference.compare(lambda x: np.round(runtime(network)(x) * 5) / 5)
    with pytest.raises(ExportError, match="NaN or infinity in int8"):
        reference.compare(nan_in_one_pixel)


def test_psnr():
    one, other = np.full((1, 1, 2, 2), 0.5), np.full((1, 1, 2, 2), 0.6)
    assert psnr([one], [other], (0.0, 1.0)) == pytest.approx(20)
    assert psnr([one], [other], (-1.0, 1.0)) == pytest.approx(26.02, abs=0.01)  # the range is twice as wide
    assert psnr([one, other], [one, one], (0.0, 1.0)) == pytest.approx(23.01, abs=0.01)
    assert psnr([one], [one], (0.0, 1.0)) == 200
    assert psnr([one * 4], [other * 4], (0.0, 1.0)) == 200  # both are white
    assert np.isnan(psnr([one * np.nan], [one], (0.0, 1.0)))


def test_probes_are_of_several_batches_and_odd_sizes():
    latents = [z for (z,) in verification_batches(Spec("latent", (8,)), image_elements=784)]
    assert [z.shape for z in latents] == [(1, 8), (3, 8), (64, 8)]
    assert [len(z) for (z,) in verification_batches(Spec("latent", (8,)), image_elements=3 * 1024**2)] == [1, 3, 4]
    for multiple, sizes in (
        (1, [(49, 57), (17, 9), (1, 1), (5, 33)]),
        (4, [(52, 60), (20, 12), (4, 4), (4, 36)]),
        (32, [(224, 224), (32, 32), (32, 32), (32, 32)]),
    ):
        spec = Spec("image", channels=1, multiple=multiple, range=(-1.0, 1.0))
        images = [x for (x,) in verification_batches(spec, 1)]
        assert [x.shape[2:] for x in images] == sizes
        assert [len(x) for x in images] == [1, 2, 3, 1]
        (traced,) = tracing_inputs(spec)
        assert min(*traced.shape[:1], *traced.shape[2:]) > 1
        assert traced.shape[2] < images[0].shape[2]
        assert all(x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1 for x in images)
        assert images[0].min() < -0.5
        assert images[0].max() > 0.5
    assert np.array_equal(synthetic_photo(40, 50, 3), synthetic_photo(40, 50, 3))


def test_the_smallest_size_that_a_network_takes():
    assert smallest_units(Upscaler(), SPEC) == 1
    network = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 3, 7))
    spec = Spec("image", range=(0.0, 1.0))
    assert smallest_units(network, spec) == 4
    assert [x.shape[2:] for (x,) in verification_batches(spec, 1, 4)] == [(49, 57), (17, 9), (5, 5), (5, 33)]
    with pytest.raises(ExportError, match=r"does not run on \[1, 3, 64, 64\] in float32: .*expected input.* to have 4"):
        smallest_units(nn.Conv2d(4, 4, 1), spec)
