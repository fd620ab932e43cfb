"""Files of BasicSR and Real-ESRGAN: generators with and without their average, and discriminators, both ways."""

import copy
from collections import OrderedDict

import pytest
import torch
from random_weights import randomized

from fastgan import models
from fastgan.errors import DataError, UsageError
from fastgan.models.checkpoints import load_generator
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact, UNetDiscriminator, VGGDiscriminator

NETWORKS = {
    "unet": lambda: UNetDiscriminator(3, 4),
    "unet gray": lambda: UNetDiscriminator(1, 2),
    "vgg": lambda: VGGDiscriminator(3, 4),
    "vgg 256": lambda: VGGDiscriminator(1, 2, 256),
    "vgg 8": lambda: VGGDiscriminator(3, 2, 8),
}


def same(found, expected):
    assert type(found).__name__ == type(expected).__name__
    assert found.arguments == expected.arguments
    assert not found.training
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("name", NETWORKS)
def test_discriminators(tmp_path, name):
    """As BasicSR writes net_d_latest.pth: {"params": state}, here with the prefix of distributed training."""
    network = randomized(NETWORKS[name]())
    state = OrderedDict((f"module.{key}", value) for key, value in network.state_dict().items())
    torch.save({"params": state}, tmp_path / "net_d.pth")
    found = models.load(tmp_path / "net_d.pth")
    assert (list(found), found.layout) == (["D"], "basicsr")
    same(found["D"], network)
    about = models.describe(tmp_path / "net_d.pth")["networks"]["D"]
    assert about.items() >= {"layout": "basicsr", "kind": "discriminator", **network.arguments}.items()
    images = torch.rand(2, network.channels, getattr(network, "side", 16), getattr(network, "side", 16))
    torch.testing.assert_close(found["D"](images), network(images))
    # What is saved is what BasicSR reads, and again by itself or as D.
    for given in (network, {"D": network}):
        models.save(given, tmp_path / "again.pth", overwrite=True)
        stored = torch.load(tmp_path / "again.pth", weights_only=True)
        assert list(stored) == ["params"]
        assert list(stored["params"]) == list(network.state_dict())
        same(models.load(tmp_path / "again.pth")["D"], network)


def test_generators_with_and_without_their_average(tmp_path):
    """Public files have "params", "params_ema" or both; the average is preferred, and both are there to go on from."""
    plain, average = (randomized(RRDBNet(2, 3, 4, 2, 1)) for _ in range(2))
    with torch.no_grad():
        average.conv_last.weight.add_(1)
    path = tmp_path / "net_g.pth"
    torch.save({"params": plain.state_dict(), "params_ema": average.state_dict()}, path)
    found = models.load(path)
    assert list(found) == ["G", "G_ema"]
    same(found["G"], plain)
    same(found["G_ema"], average)
    same(load_generator(path), average)
    models.save({"G": plain, "G_ema": average}, tmp_path / "again.pth")
    stored = torch.load(tmp_path / "again.pth", weights_only=True)
    assert torch.equal(stored["params"]["conv_last.weight"], plain.conv_last.weight)
    assert torch.equal(stored["params_ema"]["conv_last.weight"], average.conv_last.weight)
    models.save(plain, tmp_path / "one.pth")
    assert list(torch.load(tmp_path / "one.pth", weights_only=True)) == ["params_ema"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("given", ["alone", "by name", "both"])
def test_the_scale_of_a_reduced_network_is_kept(tmp_path, suffix, given):
    """A bicubic downsampling has no weights: without the note it would be read as a network of a larger scale."""
    network = randomized(SRVGGNetCompact(2, 3, 4, 1, 4))
    networks = {
        "alone": network,
        "by name": {"G_ema": network},
        "both": {"G": copy.deepcopy(network), "G_ema": network},
    }[given]
    models.save(networks, tmp_path / f"x{suffix}")
    found = load_generator(tmp_path / f"x{suffix}")
    assert (found.scale, found.shuffle) == (2, 4)
    same(found, network)


def test_a_discriminator_has_a_file_of_its_own(tmp_path):
    networks = {"G": SRVGGNetCompact(2, 3, 4, 1), "D": UNetDiscriminator(3, 4)}
    with pytest.raises(UsageError, match="networks: basicsr has a file of its own for the discriminator, got G, D"):
        models.save(networks, tmp_path / "x.pth")
    models.save(networks, tmp_path / "x.safetensors")
    assert list(models.load(tmp_path / "x.safetensors")) == ["G", "D"]


def test_damaged_discriminators(tmp_path):
    unet, vgg = UNetDiscriminator(3, 4).state_dict(), VGGDiscriminator(3, 4, 8).state_dict()
    path = tmp_path / "x.pth"
    for state, sentence in (
        ({k: v for k, v in unet.items() if k != "conv5.weight_u"}, "D conv5.weight_u is missing in a UNetDisc"),
        (unet | {"conv9.weight": torch.zeros(1, 3, 3, 3)}, r"D conv9.weight has shape \[1, 3, 3, 3\]: expected"),
        (unet | {"conv0.weight": torch.zeros(4)}, r"D conv0.weight has shape \[4\]: expected 4 dimensions"),
        (vgg | {f"conv{i}_0.weight": torch.zeros(1) for i in range(1, 20)}, "D has .* levels of convolutions"),
        (vgg | {"linear1.weight": torch.zeros(100, 7)}, r"D linear1.weight has shape \[100, 7\]: expected \[100, 64\]"),
    ):  # fmt: skip
        torch.save({"params": state}, path)
        with pytest.raises(DataError, match=sentence):
            models.load(path)
