"""The PyTorch back-ends on a GPU: a shape runs eagerly at its first call, is captured at the second, then replayed."""

import numpy as np
import pytest
import torch
from torch import nn

from fastgan.runtime import pixel_conversion
from fastgan.runtime.backends import torch as torch_backend
from fastgan.runtime.session import Session


class Upscaler(nn.Module):
    channels, scale = 3, 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.PReLU(16), nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2)
        )

    def forward(self, x):
        return self.body(x) + nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


@pytest.fixture(autouse=True)
def _exact(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_every_call_of_a_shape_gives_what_the_module_gives(backend):
    network = Upscaler().eval()
    session = Session(network, backend=backend, device="cuda")
    assert session.device.startswith("cuda")
    kept = []
    for call in range(4):
        for shape in [(1, 3, 16, 24), (2, 3, 8, 8)]:
            x = torch.rand(shape, generator=torch.Generator().manual_seed(call))
            wanted = network(x).detach()
            torch.testing.assert_close(session(x.cuda()).cpu(), wanted, atol=1e-4, rtol=0)
            result = session(x.cuda())
            kept.append((result, wanted))
            np.testing.assert_allclose(session(x.numpy()), wanted.numpy(), atol=1e-4)
    for result, wanted in kept:  # later replays have not overwritten them
        torch.testing.assert_close(result.cpu(), wanted, atol=1e-4, rtol=0)


class Conditional(nn.Module):
    latent, classes = 5, 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear = nn.Embedding(3, 5), nn.Linear(5, 48)

    def forward(self, z, y):
        return self.linear(z + self.embed(y)).view(-1, 3, 4, 4)


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_a_replayed_graph_has_the_labels_of_its_call(backend):
    network = Conditional().eval()
    session = Session(network, backend=backend, device="cuda")
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for label in (0, 1, 2, 0):
        y = torch.full((4,), label)
        wanted = network(z, y).detach()
        torch.testing.assert_close(session(z.cuda(), y.cuda()).cpu(), wanted, atol=1e-4, rtol=0)
        np.testing.assert_allclose(session(z.numpy(), y.numpy()), wanted.numpy(), atol=1e-4)


def test_pixels_on_the_gpu_equal_the_plain_conversion():
    session = Session(Upscaler().eval(), backend="torch", device="cuda")
    for seed in range(4):
        frames = np.random.default_rng(seed).integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
        plain = pixel_conversion.to_bytes(session(pixel_conversion.to_float(frames, (0, 1))), (0, 1)).astype(int)
        assert np.abs(session.pixels(frames).astype(int) - plain).max() <= 1
        assert np.abs(session.pixels(torch.from_numpy(frames).cuda()).cpu().numpy().astype(int) - plain).max() <= 1


def test_more_shapes_than_graphs():
    network = Upscaler().eval()
    session = Session(network, backend="torch", device="cuda")
    for _ in range(2):
        for side in range(4, 4 + torch_backend.MAX_GRAPHS + 3):
            x = torch.rand(1, 3, side, side)
            for _ in range(3):
                torch.testing.assert_close(session(x), network(x).detach(), atol=1e-4, rtol=0)
    assert len(session._backend._graphs._known) <= torch_backend.MAX_GRAPHS


def test_half_precision_has_float32_inputs_and_outputs():
    network = Upscaler().eval()
    session = Session(Upscaler().half(), backend="torch", device="cuda")
    x = torch.rand(1, 3, 16, 16)
    for _ in range(3):
        y = session(x.cuda())
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.cpu(), network(x).detach(), atol=1e-2, rtol=0)


def test_both_back_ends_are_timed_on_a_gpu():
    session = Session(Upscaler().eval(), device="cuda")
    assert set(session.choice.milliseconds) | set(session.choice.unavailable) >= {"torch", "compile"}
    assert "a CUDA graph for each shape" in session.describe()
