"""Numbers of parameters and sizes of feature maps, compared with the papers' tables or the authors' code."""

import pytest
import torch

from fastgan import models

#: family, (resolution, channels, latent, width), options, parameters of the generator, parameters of the discriminator
COUNTS = [
    # arXiv:1406.2661's code (mnist.yaml): 100-1200-1200-784, and 784 → 240 maxouts of 5 → 240 of 5 → 1.
    ("mlp", (28, 1, 100, 1200), {"variant": "original"},
     100 * 1200 + 1200 + 1200**2 + 1200 + 1200 * 784 + 784, 784 * 1200 + 1200 + 240 * 1200 + 1200 + 240 + 1),
    ("mlp", (28, 1, 64, 256), {"variant": "minimal"},
     64 * 256 + 256 + 256 * 512 + 512 + 512 * 784 + 784, 784 * 512 + 512 + 512 * 256 + 256 + 256 + 1),
    ("mlp", (1, 1, 1, 16), {"variant": "linear"}, 2, 16 + 16 + 16 + 1),
    # PyTorch's DCGAN example with ngf = ndf = 64: 3,576,704 and 2,765,568; here the first and last layers have biases.
    ("dcgan", (64, 3, 100, 64), {"d_norm": "batch"}, 3_576_704 + 3, 2_765_568 + 64 + 1),
    # arXiv:1511.06434, figure 1: 100 → 1024·4·4 → 512 → 256 → 128 → 3, with 4×4 kernels.
    ("dcgan", (64, 3, 100, 128), {},
     16 * (100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 2 * (1024 + 512 + 256 + 128) + 3, None),
    # arXiv:1802.05957, table 4 (CIFAR-10), layer by layer.
    ("resnet", (32, 3, 128, 128), {"d_norm": "spectral"},
     129 * 4096 + 3 * (2 * (9 * 256**2 + 256) + 256**2 + 256 + 4 * 256) + 2 * 256 + 9 * 256 * 3 + 3,
     (9 * 3 * 128 + 128) + (3 * 128 + 128) + 7 * (9 * 128**2 + 128) + (128**2 + 128) + 128 + 1),
    # BigGAN-PyTorch: 70.43 and 87.98 million at 128×128 with ch = 96.
    ("biggan", (128, 3, 120, 96), {"classes": 1000, "d_norm": "spectral"}, 70_433_988, 87_982_370),
    ("biggan", (128, 3, 120, 64), {"classes": 1000, "d_norm": "spectral"}, 31_978_628, 39_448_258),
    ("biggan", (64, 3, 120, 64), {"classes": 1000, "d_norm": "spectral", "attention": 32}, 31_969_540, 20_571_842),
    # arXiv:1710.10196, table 2: 23.1 million each; here the layers to and from smaller images are counted too.
    ("progan", (1024, 3, 512, 512), {}, 23_079_115, 23_087_249),
    # R3GAN's code for CIFAR-10 without and with classes, FFHQ-64 and FFHQ-256.
    ("r3gan", (32, 3, 64, 768), {}, 20_732_160, 20_683_776),
    ("r3gan", (32, 3, 64, 768), {"classes": 10}, 20_781_952, 21_280_512),
    ("r3gan", (64, 3, 64, 768), {}, 22_429_824, 22_381_440),
    ("r3gan", (256, 3, 64, 768), {}, 23_057_952, 23_009_568),
]  # fmt: skip


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def build_pair(name, sizes, options):
    resolution, channels, latent, width = sizes
    return models.build(name, resolution=resolution, channels=channels, latent=latent, width=width, **options)


@pytest.mark.parametrize(("name", "sizes", "options", "in_generator", "in_discriminator"), COUNTS)
def test_parameters(name, sizes, options, in_generator, in_discriminator):
    with torch.device("meta"):
        generator, discriminator = build_pair(name, sizes, options)
    assert parameters(generator) == in_generator
    assert in_discriminator is None or parameters(discriminator) == in_discriminator


#: (channels, side) of the output of each block, from the tables
MAPS = [
    # arXiv:1511.06434, figure 1
    ("dcgan", (64, 3, 100, 128), {}, [(512, 8), (256, 16), (128, 32)], [(128, 32), (256, 16), (512, 8), (1024, 4)]),
    # arXiv:1802.05957, tables 4 and 5
    ("resnet", (32, 3, 128, 128), {}, [(256, 8), (256, 16), (256, 32)], [(128, 16), (128, 8), (128, 8), (128, 8)]),
    ("resnet", (128, 3, 128, 64), {},
     [(1024, 8), (512, 16), (256, 32), (128, 64), (64, 128)],
     [(64, 64), (128, 32), (256, 16), (512, 8), (1024, 4), (1024, 4)]),
    # arXiv:1809.11096, tables 4 to 6
    ("biggan", (128, 3, 120, 96), {"classes": 1000},
     [(1536, 8), (768, 16), (384, 32), (192, 64), (96, 128)],
     [(96, 64), (192, 32), (384, 16), (768, 8), (1536, 4), (1536, 4)]),
    ("biggan", (256, 3, 119, 96), {"classes": 1000},
     [(1536, 8), (768, 16), (768, 32), (384, 64), (192, 128), (96, 256)],
     [(96, 128), (192, 64), (384, 32), (768, 16), (768, 8), (1536, 4), (1536, 4)]),
    ("biggan", (512, 3, 128, 96), {"classes": 1000},
     [(1536, 8), (768, 16), (768, 32), (384, 64), (192, 128), (96, 256), (96, 512)],
     [(96, 256), (96, 128), (192, 64), (384, 32), (768, 16), (768, 8), (1536, 4), (1536, 4)]),
    # arXiv:1710.10196, table 2
    ("progan", (1024, 3, 512, 512), {},
     [(512, 4), (512, 8), (512, 16), (512, 32), (256, 64), (128, 128), (64, 256), (32, 512), (16, 1024)],
     [(32, 512), (64, 256), (128, 128), (256, 64), (512, 32), (512, 16), (512, 8), (512, 4)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sizes", "options", "up", "down"), MAPS)
def test_feature_maps(name, sizes, options, up, down):
    """With a sixteenth of the paper's channels."""
    resolution, channels, latent, width = sizes
    networks = build_pair(name, (resolution, channels, latent, width // 16), options)
    for network, expected in zip(networks, (up, down), strict=True):
        seen = []
        for block in network.blocks:
            block = block[0] if isinstance(block, torch.nn.ModuleList) else block
            block.register_forward_hook(lambda module, inputs, output, to=seen: to.append(tuple(output.shape[1:3])))
        inputs = (latent,) if expected is up else (channels, resolution, resolution)
        labels = (torch.zeros(2, dtype=torch.int64),) if "classes" in options else ()
        with torch.no_grad():
            network(torch.zeros(2, *inputs), *labels)
        assert seen == [(count // 16, side) for count, side in expected]
