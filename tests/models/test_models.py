import pytest
import torch
from torch import nn

from fastgan import models
from fastgan.errors import UsageError

SIZES = {"resolution": 28, "channels": 1, "latent": 16, "width": 8}


@pytest.mark.parametrize("d_norm", ["none", "batch", "spectral"])
@pytest.mark.parametrize("resolution", [28, 32, 64])
@pytest.mark.parametrize("name", ["dcgan", "mlp"])
def test_output_shapes_and_that_every_weight_gets_a_gradient(name, resolution, d_norm):
    options = SIZES | {"resolution": resolution, "channels": 3}
    generator, discriminator = models.build(name, **options, d_norm=d_norm)
    images = generator(torch.randn(4, generator.latent))
    assert images.shape == (4, 3, resolution, resolution) == (4, *generator.image_shape)
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (4,)
    logits.square().sum().backward()
    for network in (generator, discriminator):
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("resolution", [14, 20, 30, 48])
def test_dcgan_lists_the_supported_resolutions(resolution):
    with pytest.raises(UsageError, match=r"8, 16, 32, 64, \.\.\., or 28, 56"):
        models.build("dcgan", **SIZES | {"resolution": resolution})


def test_errors_name_the_argument():
    with pytest.raises(UsageError, match=r"model: expected one of biggan, .*dcgan, .*, got 'cnn'"):
        models.build("cnn", **SIZES)
    with pytest.raises(UsageError, match="width"):
        models.build("mlp", **SIZES | {"width": 0})
    with pytest.raises(UsageError, match="norm"):
        models.build("dcgan", **SIZES, d_norm="layer")


def test_dcgan_equals_a_plain_network_written_from_the_paper():
    """Plain PyTorch modules with the same weights give the same images and logits."""
    generator, discriminator = models.build("dcgan", **SIZES | {"resolution": 32})
    generator.eval()
    plain_generator = nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh(),
    ).eval()  # fmt: skip
    plain_discriminator = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(512, 1),
    )  # fmt: skip
    for ours, plain in ((generator, plain_generator), (discriminator, plain_discriminator)):
        with torch.no_grad():
            for own, other in zip(ours.parameters(), plain.parameters(), strict=True):
                own.normal_(0, 0.1)
                other.copy_(own)
    z = torch.randn(5, 16)
    images = generator(z)
    torch.testing.assert_close(images, plain_generator(z[:, :, None, None]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(discriminator(images), plain_discriminator(images).flatten(), rtol=1e-5, atol=1e-5)


def test_spectral_norm_bounds_every_layer_of_the_discriminator():
    torch.manual_seed(0)
    _, discriminator = models.build("dcgan", **SIZES, d_norm="spectral")
    with torch.no_grad():
        for _ in range(300):  # random weights have close singular values, so power iteration converges slowly
            discriminator(torch.randn(2, 1, 28, 28))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
