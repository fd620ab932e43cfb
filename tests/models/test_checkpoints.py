"""Files of networks are recognized by their content, whatever their names, and saved back."""

import argparse

import pytest
import torch
from nvidia_pickles import EasyDict, dumps, module_of, persistent
from safetensors.torch import save_file
from torch import nn

import fastgan
from fastgan import models
from fastgan.cli import run as command
from fastgan.errors import DataError, UsageError
from fastgan.models import biggan, esrgan, r3gan
from fastgan.models.checkpoints import load_generator
from fastgan.models.checkpoints.layouts import LAYOUTS
from fastgan.models.checkpoints.r3gan import to_r3gan


def randomized(*networks):
    """All parameters and buffers differ from their first values, also those that begin at zero or one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for network in networks:
            for name, value in [*network.named_parameters(), *network.named_buffers()]:
                if value.is_floating_point() and not name.endswith(("_u", "_v", "kernel", "filter")):
                    value.add_(0.1 * torch.rand_like(value))
    return networks


def small_r3gan(classes=0, resolution=64):
    return randomized(*r3gan.build(resolution, 3, 6, 16 * max(resolution // 32, 1), classes, "none"))


def small_biggan(classes=4, resolution=32):
    latent = 4 * len(biggan.networks.UP[resolution])
    return randomized(*biggan.build(resolution, 3, latent, 2, classes, "spectral", embedding=3, attention=16))


def assert_equal(found, expected):
    assert type(found) is type(expected)
    assert not found.training
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


# Independent of the functions that save: the names of R3GAN's authors, by their place.
@pytest.mark.parametrize("classes", [0, 5])
def test_r3gan(tmp_path, classes):
    generator, discriminator = small_r3gan(classes)
    state = to_r3gan(generator)
    block = generator.stages[-1].conv3.weight
    assert state["MainLayers.4.Layers.2.LinearLayer3.Layer.weight"].equal(block)
    assert state["MainLayers.4.Layers.0.LinearLayer.Layer.weight"].shape == (16, 32, 1, 1)
    assert not any(".Resampler" in name or ".Layers.3" in name for name in state if ".0." in name[:13])
    assert to_r3gan(discriminator)["MainLayers.4.Layers.2.Basis.weight"].equal(discriminator.basis.weight)
    pickled = {
        # NVIDIA's class there wraps the network as `Model`.
        name: persistent(module_of({f"Model.{key}": value for key, value in to_r3gan(network).items()}))
        for name, network in (("G", generator), ("D", discriminator), ("G_ema", generator))
    }
    (tmp_path / "r3gan.pkl").write_bytes(dumps({**pickled, "training_set_kwargs": EasyDict(path="x")}))
    found = models.load(tmp_path / "r3gan.pkl")
    assert (found.layout, list(found)) == ("r3gan", ["G", "D", "G_ema"])
    assert found.facts == {"training_set_kwargs": {"path": "x"}}
    assert_equal(found.generator, generator)
    assert_equal(found["D"], discriminator)
    z, y = torch.randn(2, 6), torch.tensor([1, 4]) if classes else None
    assert found["D"](found.generator(z, y), y).equal(discriminator(generator(z, y), y))
    about = models.describe(tmp_path / "r3gan.pkl")["networks"]["G_ema"]
    sizes = {"resolution": 64, "channels": 3, "latent": 6, "width": 32, "classes": classes}
    assert about.items() >= {"layout": "r3gan", "kind": "generator", **sizes}.items()


def test_r3gan_of_other_widths_and_groups(tmp_path):
    """As the authors' networks for ImageNet: groups of 16 channels, as many channels at 64×64 as at 32×32."""
    sizes = {"widths": [32, 64, 32, 48], "group": 16}
    generator = r3gan.Generator(32, 3, 6, 32, 0, **sizes)
    discriminator = r3gan.Discriminator(32, 3, 32, 0, **sizes)
    randomized(generator, discriminator)
    torch.save({"G": to_r3gan(generator), "D": to_r3gan(discriminator)}, tmp_path / "x.pth")
    found = models.load(tmp_path / "x.pth")
    assert_equal(found["G"], generator.eval())
    assert_equal(found["D"], discriminator.eval())
    z = torch.randn(2, 6)
    assert found["D"](found["G"](z)).equal(discriminator(generator(z)))


@pytest.mark.parametrize("classes", [0, 4])
def test_biggan(tmp_path, classes):
    generator, discriminator = (network.eval() for network in small_biggan(classes))
    for network, name in ((generator, "G_ema.pth"), (discriminator, "D.pth")):
        torch.save(biggan.to_biggan_pytorch(network), tmp_path / name)
    found = load_generator(tmp_path / "G_ema.pth")
    assert (found.latent, found.image_shape, found.classes) == (16, (3, 32, 32), classes)
    # One step of power iteration further, as load_biggan_pytorch says: compared with a second conversion.
    again = biggan.to_biggan_pytorch(found)
    for key, value in biggan.to_biggan_pytorch(generator).items():
        if not key.endswith(("u0", "sv0")):
            assert again[key].equal(value), key
    loaded = models.load(tmp_path / "D.pth")
    assert list(loaded) == ["D"]
    with pytest.raises(DataError, match="the file has no generator, only D"):
        _ = loaded.generator
    about = models.describe(tmp_path / "D.pth")["networks"]["D"]
    expected = {"layout": "biggan-pytorch", "resolution": 32, "width": 2, "attention": 16, "norm": "spectral"}
    assert about.items() >= (expected | {"classes": classes}).items()


@pytest.mark.parametrize("resolution", [64, 128])
def test_sizes_of_biggan_follow_from_shapes(tmp_path, resolution):
    generator, discriminator = small_biggan(3, resolution)
    for name, network in (("G", generator), ("D", discriminator)):
        models.save(network, tmp_path / f"{name}.safetensors")
        found = models.load(tmp_path / f"{name}.safetensors")[name]
        assert {k: v.shape for k, v in found.state_dict().items()} == {
            k: v.shape for k, v in network.state_dict().items()
        }


@pytest.mark.parametrize("wrapper", ["params_ema", "params-ema", "params", "state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "generator."])
def test_super_resolution(tmp_path, wrapper, prefix):
    (network,) = randomized(esrgan.SRVGGNetCompact(2, width=4, blocks=1))
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save(
        state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "x.dat"
    )
    found = models.load(tmp_path / "x.dat")
    assert (found.layout, list(found)) == ("basicsr", ["G"])
    assert_equal(found.generator, network.eval())


def test_the_suffix_does_not_count(tmp_path):
    (network,) = randomized(esrgan.RRDBNet(4, width=4, growth=2, blocks=1))
    pickled = dumps({"G": persistent(module_of(to_r3gan(small_r3gan()[0])))})
    for suffix in (".pkl", ".pt", ".onnx", ".safetensors", ""):
        torch.save({"params_ema": network.state_dict()}, tmp_path / f"a{suffix}")
        assert isinstance(load_generator(tmp_path / f"a{suffix}"), esrgan.RRDBNet)
        save_file(network.state_dict(), tmp_path / f"b{suffix}")
        assert isinstance(load_generator(tmp_path / f"b{suffix}"), esrgan.RRDBNet)
        (tmp_path / f"c{suffix}").write_bytes(pickled)
        assert isinstance(load_generator(tmp_path / f"c{suffix}"), r3gan.Generator)


def test_options_of_training_code_are_read(tmp_path):
    """argparse.Namespace, in which training code stores its options, holds values alone."""
    content = {"params": esrgan.SRVGGNetCompact(2, width=4, blocks=1).state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "x.pt")
    assert models.describe(tmp_path / "x.pt")["facts"] == {"args": {"lr": 0.1}}


def test_half_precision(tmp_path):
    generator = small_r3gan()[0]
    torch.save({key: value.half() for key, value in to_r3gan(generator).items()}, tmp_path / "x.pth")
    found = load_generator(tmp_path / "x.pth")
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}
    assert torch.equal(found.basis, generator.basis.half().float())


NO_NETWORK = {
    "hifi-gan": ["conv_pre.weight_g", "ups.0.weight_v"],
}


@pytest.mark.parametrize("name", NO_NETWORK)
def test_layouts_without_a_network(tmp_path, name):
    torch.save({key: torch.zeros(2, 2) for key in NO_NETWORK[name]}, tmp_path / "x.pth")
    about = models.describe(tmp_path / "x.pth")["networks"]["G"]
    assert (about["layout"], about["network"]) == (name, "none here: it is recognized and cannot be loaded")
    with pytest.raises(
        DataError, match=rf"x.pth: G is a \w+.* of {name}, a layout that is recognized but has no network"
    ):
        models.load(tmp_path / "x.pth")


def test_no_weights_fit_two_layouts():
    """Of the networks that can be built here."""
    states = [to_r3gan(network) for network in small_r3gan()]
    states += [biggan.to_biggan_pytorch(network) for network in small_biggan()]
    states += [
        esrgan.SRVGGNetCompact(2, width=4, blocks=1).state_dict(),
        esrgan.RRDBNet(width=4, blocks=1).state_dict(),
    ]
    from fastgan.models.checkpoints.contents import State

    assert [len([layout for layout in LAYOUTS if layout.fits(State(state))]) for state in states] in (
        [1, 1, 2, 1, 1, 1],
    )


def other(state, **changes):
    return {key: changes.get(key.replace(".", "_"), value) for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("AggregationLayer.Layer.weight"), "has weights of no known layout"),
        (lambda s: s.pop("MainLayers.1.Layers.1.NonLinearity2.Bias"), r"G stages.3.bias2 is missing in a Generator"),
        (lambda s: s.update({"more.weight": torch.zeros(1)}), r"G more.weight is unexpected in a Generator"),
        (
            lambda s: s.update({"MainLayers.0.Layers.1.NonLinearity2.Bias": torch.zeros(3)}),
            r"has shape \[3\]: expected",
        ),
        (lambda s: s["MainLayers.0.Layers.0.Basis"].fill_(float("nan")), "are complex, NaN or infinite"),
        (lambda s: s.update({"MainLayers.1.Layers.0.Resampler.Kernel": torch.ones(4, 4)}), "is another filter"),
        (lambda s: s.update({"MainLayers.0.Layers.0.LinearLayer.weight": torch.zeros(7)}), "expected 2 dimensions"),
    ],
)
def test_other_weights(tmp_path, change, sentence):
    state = to_r3gan(small_r3gan()[0])
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(DataError, match=rf"x.pth: .*{sentence}") as error:
        models.load(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_sizes_that_a_few_small_tensors_claim(tmp_path):
    """A network is built without memory first: 8 MB of weights may claim one of terabytes."""
    generator = biggan.to_biggan_pytorch(small_biggan()[0])
    generator["linear.weight"] = torch.zeros(2_000_000, 1)
    torch.save(generator, tmp_path / "x.pth")
    with pytest.raises(DataError, match="state: expected"):
        models.load(tmp_path / "x.pth")


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "x.pkl"):
        with pytest.raises(UsageError, match="file: expected a file of networks, got"):
            models.load(path)
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.pkl: is empty"):
        models.load(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="expected a safetensors file, a PyTorch file or a pickle of networks"):
        models.load(tmp_path / "x.pkl")
    torch.save({"epoch": 1}, tmp_path / "x.pkl")
    with pytest.raises(DataError, match="expected a file of weights, got one with the entries epoch"):
        models.load(tmp_path / "x.pkl")


def test_loading_changes_no_random_numbers(tmp_path):
    models.save(small_r3gan()[0], tmp_path / "x.pth")
    before = torch.get_rng_state()
    models.load(tmp_path / "x.pth")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("family", ["r3gan", "biggan-pytorch"])
def test_saving_several_networks(tmp_path, suffix, family):
    generator, discriminator = small_r3gan(3) if family == "r3gan" else small_biggan(3)
    average = small_r3gan(3)[0] if family == "r3gan" else small_biggan(3)[0]
    networks = {"G": generator, "D": discriminator, "G_ema": average}
    path = tmp_path / f"x{suffix}"
    models.save(networks, path)
    found = models.load(path)
    assert (found.layout, list(found)) == (family, ["G", "D", "G_ema"])
    models.save(found, tmp_path / f"again{suffix}")
    again = models.load(tmp_path / f"again{suffix}")
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            if not key.endswith(("._u", "._v")):
                assert found[name].state_dict()[key].equal(value)
                assert again[name].state_dict()[key].equal(value)
    with pytest.raises(UsageError, match=r"file: .* exists"):
        models.save(networks, path)
    models.save(networks, path, overwrite=True)


def test_what_cannot_be_saved(tmp_path):
    generator = small_r3gan()[0]
    for networks, file, layout, sentence in (
        (generator, "x.pkl", None, "file: expected a name that ends in .safetensors, .pth or .pt"),
        (generator, "x.pth", "rosinality", "layout: expected r3gan for a Generator of this family, got 'rosinality'"),
        (nn.Linear(2, 2), "x.pth", None, "networks: a Linear has no public layout"),
        ({"H": generator}, "x.pth", None, "networks: expected the names G, D, G_ema, G_A, G_B, D_A, D_B, got 'H'"),
        ({}, "x.pth", None, "networks: expected at least one"),
        (
            {"G": generator, "D": esrgan.SRVGGNetCompact(2, width=4)},
            "x.pth",
            None,
            "layout: expected basicsr for a SRVGG",
        ),
    ):
        with pytest.raises(UsageError, match=sentence):
            models.save(networks, tmp_path / file, layout)
    assert not list(tmp_path.iterdir())


def test_inspect_sample_and_export(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = dict(zip("GD", small_r3gan(2, 8), strict=True))
    content = {name: persistent(module_of(to_r3gan(network))) for name, network in networks.items()}
    (tmp_path / "r3gan.pkl").write_bytes(dumps({"training_set_kwargs": EasyDict(path="a\nb"), **content}))
    assert command(["inspect", "r3gan.pkl"]) == 0
    text = capsys.readouterr().out
    for line in (
        "r3gan.pkl: pickle of NVIDIA's repositories",
        "  G: r3gan generator, 23,308 values",
        "    resolution: 8",
        "    classes: 2",
        "      path: a\\nb",
    ):
        assert f"{line}\n" in text
    assert command(["sample", "r3gan.pkl", "--n", "4", "--out", "grid.png"]) == 0
    assert (tmp_path / "grid.png").stat().st_size > 100
    assert command(["export", "r3gan.pkl", "--out", "r3gan.onnx"]) == 0
    capsys.readouterr()
    assert command(["inspect", "r3gan.onnx"]) == 0
    text = capsys.readouterr().out
    assert "  latent network: z [N, 6] and y [N] of 2 classes → images, values in [-1, 1]\n" in text
    assert "    source: r3gan.pkl\n" in text
    assert command(["inspect", "nothing.pkl"]) == 2
    assert "fastgan: file: expected a file of networks, got nothing.pkl" in capsys.readouterr().err


def test_names_of_the_package():
    assert {"load", "save", "describe"} <= set(fastgan.models.__all__)
