"""Files of CycleGAN, pix2pix and pix2pixHD: recognized by content, sizes from names and shapes, and saved back."""

from collections import OrderedDict

import pytest
import torch
from random_weights import randomized
from safetensors.torch import save_file
from torch import nn

from fastgan import models
from fastgan.cli import run as command
from fastgan.errors import DataError, UsageError
from fastgan.models.checkpoints import load_generator
from fastgan.models.checkpoints.contents import State
from fastgan.models.checkpoints.layouts import layout_of
from fastgan.models.translation import (
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)

#: Network → its layout. What names and shapes do not show has the value that a reader takes.
NETWORKS = {
    "resnet": (ResNetGenerator(3, 1, 2, 4), "cyclegan-pix2pix"),
    "resnet dropout": (ResNetGenerator(1, 3, 3, 4, "batch", True), "cyclegan-pix2pix"),
    "resnet zeros": (ResNetGenerator(3, 3, 1, 4, "none", True, "zeros"), "cyclegan-pix2pix"),
    "resnet zeros without dropout": (ResNetGenerator(3, 3, 1, 4, "instance", False, "zeros"), "cyclegan-pix2pix"),
    "resnet one halving": (ResNetGenerator(3, 3, 2, 4, downsamplings=1), "pix2pixhd"),
    "global": (ResNetGenerator(36, 3, 2, 2, downsamplings=4), "pix2pixhd"),
    "global batch": (ResNetGenerator(3, 3, 1, 2, "batch", downsamplings=3, bias=True), "pix2pixhd"),
    "unet": (UNetGenerator(3, 2, 7, 4), "cyclegan-pix2pix"),
    "unet instance": (UNetGenerator(1, 3, 5, 4, "instance", dropout=False), "cyclegan-pix2pix"),
    "unet none": (UNetGenerator(1, 3, 5, 4, "none", dropout=False), "cyclegan-pix2pix"),
    "patches": (PatchDiscriminator(3, 3, width=4), "cyclegan-pix2pix"),
    "patches instance": (PatchDiscriminator(3, 0, 1, 4, "instance"), "cyclegan-pix2pix"),
    "patches none": (PatchDiscriminator(1, 1, 5, 4, "none"), "cyclegan-pix2pix"),
    "pixels": (PixelDiscriminator(3, 1, 4), "cyclegan-pix2pix"),
    "pixels instance": (PixelDiscriminator(1, 0, 4, "instance"), "cyclegan-pix2pix"),
    "scales": (MultiScaleDiscriminator(3, 36, 2, 3, 4), "pix2pixhd"),
    "scales batch": (MultiScaleDiscriminator(3, 0, 3, 1, 4, "batch"), "pix2pixhd"),
}


def assert_equal(found, expected):
    assert type(found) is type(expected)
    assert found.arguments == expected.arguments
    assert not found.training
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.float()), name


@pytest.mark.parametrize("name", NETWORKS)
def test_bare_state_dicts(tmp_path, name):
    network, layout = NETWORKS[name]
    state = OrderedDict(randomized(network).state_dict())
    assert layout_of(State(state)).name == layout
    torch.save(state, tmp_path / "latest_net.pth", _use_new_zipfile_serialization=False)
    about = models.describe(tmp_path / "latest_net.pth")["networks"]
    key = "D" if isinstance(network, PatchDiscriminator | PixelDiscriminator | MultiScaleDiscriminator) else "G"
    assert about[key].items() >= {"layout": layout, "network": type(network).__name__, **network.arguments}.items()
    assert_equal(models.load(tmp_path / "latest_net.pth")[key], network)
    for again in ("x.pth", "x.safetensors"):
        models.save(network, tmp_path / again)
        assert_equal(models.load(tmp_path / again)[key], network)
    # What is saved is what the public code loads: a bare state dict with the same names.
    assert list(torch.load(tmp_path / "x.pth", weights_only=True)) == list(state)


def test_files_of_training_code(tmp_path):
    generator, discriminator = randomized(ResNetGenerator(3, 3, 1, 4)), randomized(PatchDiscriminator(3, width=4))
    path = tmp_path / "x.pth"
    state = {f"module.{key}": value for key, value in generator.state_dict().items()}
    torch.save(state, path)
    assert_equal(load_generator(path), generator)
    torch.save({"epoch": 3, "netG_A": state, "netD_A": discriminator.state_dict(), "optimizer": {"state": {}}}, path)
    found = models.load(path)
    assert (list(found), found.facts["epoch"]) == (["G_A", "D_A"], 3)
    assert_equal(found.generator, generator)
    assert_equal(found["D_A"], discriminator)
    lightning = {f"netG.{key}": value for key, value in generator.state_dict().items()}
    lightning |= {f"netD.{key}": value for key, value in discriminator.state_dict().items()}
    torch.save({"state_dict": lightning, "global_step": 1}, path)
    assert list(models.load(path)) == ["G", "D"]
    torch.save({key: value.half() for key, value in generator.state_dict().items()}, path)
    assert load_generator(path).state_dict()["model.1.weight"].dtype is torch.float32


def test_old_files_have_statistics_of_instance_norms(tmp_path):
    """PyTorch 0.3 tracked them; they are not used."""
    network = randomized(ResNetGenerator(3, 3, 1, 4))
    state = dict(network.state_dict())
    for name, layer in network.named_modules():
        if isinstance(layer, nn.InstanceNorm2d):
            channels = network.get_submodule(
                f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) - 1}"
            ).out_channels
            state |= {f"{name}.running_mean": torch.ones(channels), f"{name}.running_var": torch.ones(channels)}
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, tmp_path / "x.pth")
    assert_equal(load_generator(tmp_path / "x.pth"), network)


def test_old_files_have_no_count_of_batches(tmp_path):
    network = randomized(UNetGenerator(3, 3, 5, 4))
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "x.pth")
    assert_equal(load_generator(tmp_path / "x.pth"), network)


def test_discriminator_of_several_scales_without_access_to_its_features(tmp_path):
    network = randomized(MultiScaleDiscriminator(3, 3, 2, 3, 4, "batch"))
    state = {}
    for name, value in network.state_dict().items():
        scale, layer, inner, last = name.replace("scale", "").replace("_layer", ".").split(".")
        place = int(inner) if layer == "0" else 2 + 3 * (int(layer) - 1) + int(inner)
        state[f"layer{scale}.{place}.{last}"] = value
    torch.save(state, tmp_path / "x.pth")
    assert_equal(models.load(tmp_path / "x.pth")["D"], network)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_directions_in_one_file(tmp_path, suffix, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = {
        "G_A": ResNetGenerator(3, 1, 1, 4, dropout=False),
        "G_B": UNetGenerator(1, 3, 5, 4, "batch", dropout=False),
        "D_A": PatchDiscriminator(1, width=4, norm="instance"),
        "D_B": PatchDiscriminator(2, 1, width=4, norm="none"),
    }
    for network in networks.values():
        randomized(network)
    models.save(networks, f"x{suffix}")
    found = models.load(f"x{suffix}")
    assert (list(found), found.layout) == (list(networks), "cyclegan-pix2pix")
    for name, network in networks.items():
        # With arguments that names and shapes do not show: dropout of a U-Net, channels of a discriminator's source.
        assert_equal(found[name], network)
    assert_equal(load_generator(f"x{suffix}", "G_B"), networks["G_B"])
    with pytest.raises(
        DataError, match=rf"x{suffix}: the file has the generators G_A, G_B: name one of them \(FILE:G_A\)"
    ):
        load_generator(f"x{suffix}")
    with pytest.raises(DataError, match="has no network H, only G_A, G_B, D_A, D_B"):
        load_generator(f"x{suffix}", "H")
    assert command(["inspect", f"x{suffix}"]) == 0
    assert "G_B: cyclegan-pix2pix image translator, " in capsys.readouterr().out


def test_layouts_are_not_mixed(tmp_path):
    generator = ResNetGenerator(3, 3, 1, 2, downsamplings=3)
    with pytest.raises(UsageError, match="layout: expected cyclegan-pix2pix or taming for a PatchDiscriminator"):
        models.save({"G": generator, "D": PatchDiscriminator(width=2)}, tmp_path / "x.pth")
    networks = {"G": ResNetGenerator(3, 3, 1, 2), "D": MultiScaleDiscriminator(scales=1, width=2)}
    models.save(networks, tmp_path / "x.pth", "pix2pixhd")
    assert list(models.load(tmp_path / "x.pth")) == ["G", "D"]


def state_of(name):
    return dict(randomized(NETWORKS[name][0]).state_dict())


def renamed(state, old, new):
    return {name.replace(old, new): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda: {k: v for k, v in state_of("resnet").items() if k != "model.15.bias"},
            "model.15.bias is missing in a Res",
        ),
        (lambda: state_of("resnet") | {"model.11.extra": torch.zeros(1)}, "model.11.extra is unexpected in a ResNet"),
        (
            lambda: state_of("resnet") | {"model.4.weight": torch.zeros(8, 4, 3, 2)},
            r"model.4.weight has shape \[8, 4, 3, 2\]",
        ),
        (lambda: state_of("resnet") | {"model.1.weight": torch.zeros(4)}, "model.1.weight has shape .* expected 4 dim"),
        (lambda: renamed(state_of("resnet"), "model.10.", "model.12."), r"has residual blocks \[11, 12\]: expected"),
        (lambda: renamed(state_of("resnet"), "model.1", "model.91"), "has weights of no known layout"),
        (lambda: state_of("unet") | {"model.model.3.weight": torch.zeros(1)}, "model.model.3.weight has shape"),
        (
            lambda: {k: v for k, v in state_of("unet").items() if "running_var" not in k},
            "running_var .* is missing in a UNet",
        ),
        (
            lambda: state_of("unet") | {"model." * 40 + "1.weight": torch.zeros(1)},
            "has 39 levels: expected at most 16",
        ),
        (
            lambda: state_of("patches") | {f"model.{i}.weight": torch.zeros(1, 1, 1, 1) for i in range(99, 199)},
            "at most 16",
        ),
        (lambda: state_of("patches") | {"model.0.weight": torch.full((4, 6, 4, 4), torch.nan)}, "NaN or infinite"),
        (lambda: state_of("scales") | {f"scale{i}_layer0.0.bias": torch.zeros(4) for i in range(99)}, "has 99 scales"),
    ],
)
def test_other_weights(tmp_path, change, sentence):
    torch.save(change(), tmp_path / "x.pth")
    with pytest.raises(DataError, match=rf"x.pth: .*{sentence}") as error:
        models.load(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments", ['{"": {"padding": [1], "dropout": {}}}', '{"": {"channels": -1, "source_channels": 4}}']
)
def test_hostile_arguments(tmp_path, arguments):
    """They are the file's own, and of what its weights show nothing else is taken."""
    save_file(state_of("resnet"), tmp_path / "x.safetensors", {"arguments": arguments})
    if "padding" in arguments:
        with pytest.raises(DataError, match="padding: expected one of reflect"):
            models.load(tmp_path / "x.safetensors")
    else:
        assert models.load(tmp_path / "x.safetensors").generator.channels == 3
