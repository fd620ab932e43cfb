"""StyleGAN2 in NVIDIA's and rosinality's layouts."""

import math

import pytest
import torch
from nvidia_pickles import EasyDict, dumps, module_of, persistent
from torch.nn import functional as F

from fastgan import models
from fastgan.cli import run as command
from fastgan.errors import DataError, UsageError
from fastgan.models.checkpoints.rosinality import from_nvidia
from fastgan.models.stylegan import Discriminator, Generator, Generator3
from fastgan.testing.stylegan import randomize

SIZES = {"channel_base": 128, "channel_max": 16}


def networks(classes=0, **options):
    torch.manual_seed(0)
    generator = Generator(6, classes, 10, 32, 3, mapping_kwargs={"num_layers": 3}, **SIZES, **options)
    found = generator.eval(), Discriminator(classes, 32, 3, **SIZES).eval()
    with torch.no_grad():
        for network in found:
            for name, value in [*network.named_parameters(), *network.named_buffers()]:
                if not name.endswith("resample_filter"):
                    value.add_(0.3 * torch.randn_like(value))
    return found


def assert_equal(found, expected):
    assert type(found) is type(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def assert_contains(found, expected):
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("repository", ["stylegan2-ada-pytorch", "stylegan3"])
def test_pickles(tmp_path, classes, repository):
    generator, discriminator = networks(classes)
    mapping = EasyDict(num_layers=3)
    if repository == "stylegan3":
        arguments, source = (
            {"mapping_kwargs": mapping, "fused_modconv_default": "inference_only", **SIZES},
            "conv_clamp = 256",
        )
    else:
        arguments, source = {"mapping_kwargs": mapping, "synthesis_kwargs": EasyDict(num_fp16_res=4, **SIZES)}, ""

    def pickled(network, *args, **kwargs):
        name = type(network).__name__
        return persistent(module_of(network.state_dict()), *args, class_name=name, source=source, **kwargs)

    positional, group = (6, classes, 10, 32, 3), EasyDict(mbstd_group_size=2)
    sizes = {"c_dim": classes, "img_resolution": 32, "img_channels": 3, "epilogue_kwargs": group, **SIZES}
    content = {
        "training_set_kwargs": EasyDict(path="x.zip", use_labels=bool(classes)),
        "G": pickled(networks(classes)[0], *positional, **arguments),
        "D": pickled(discriminator, **sizes),
        "G_ema": pickled(generator, *positional, **arguments),
        "augment_pipe": persistent(module_of({"p": torch.zeros(())}), class_name="AugmentPipe", xflip=1),
    }
    (tmp_path / "network.pkl").write_bytes(dumps(content, 3))
    found = models.load(tmp_path / "network.pkl")
    assert (found.layout, list(found)) == ("stylegan2", ["G", "D", "G_ema"])
    assert found.facts == {"training_set_kwargs": {"path": "x.zip", "use_labels": bool(classes)}}
    assert_equal(found.generator, generator)
    assert_equal(found["D"], discriminator)
    assert found["D"].b4.mbstd.group == 2
    clamp = None if repository == "stylegan2-ada-pytorch" else 256
    assert found.generator.synthesis.b8.conv1.clamp == clamp
    about = models.describe(tmp_path / "network.pkl")["networks"]
    sizes = {"resolution": 32, "channels": 3, "z": 6, "w": 10, "classes": classes, "class": "Generator"}
    assert_contains(about["G_ema"], {"layout": "stylegan2", "kind": "generator", **sizes})
    assert about["augment_pipe"]["arguments"] == {"xflip": 1}
    # A plain file, in which the arguments stand beside the weights.
    for suffix in (".safetensors", ".pth"):
        models.save(found, tmp_path / f"again{suffix}")
        again = models.load(tmp_path / f"again{suffix}")
        assert list(again) == ["G", "D", "G_ema"]
        for name in found:
            assert_equal(again[name], found[name])
        assert again.generator.synthesis.b8.conv1.clamp == clamp


@pytest.mark.parametrize("classes", [0, 4])
def test_arguments_follow_from_names_and_shapes(tmp_path, classes):
    for network, name in zip(networks(classes), ("G", "D"), strict=True):
        torch.save(network.state_dict(), tmp_path / "x.pth")
        found = models.load(tmp_path / "x.pth")
        assert list(found) == [name]
        assert_equal(found[name], network)


def test_arguments_that_are_not_supported(tmp_path):
    generator = networks()[0]
    for options, sentence in (
        ({"architecture": "resnet"}, "sizes or options that are not supported here: .*architecture"),
        ({"channel_max": 8}, "has shape"),
        ({"img_resolution": 33}, "sizes or options that are not supported here"),
        ({"img_resolution": "large"}, "cannot be built here"),
        ({"mapping_kwargs": {"unknown": 1}}, "cannot be built here"),
        ({"z_dim": 1 << 20}, r"mapping\.fc0\.weight has shape"),
        ({"z_dim": 1 << 45}, "argument z_dim=35184372088832: expected at most 16,777,216"),
        ({"mapping_kwargs": {"num_layers": 10**7}}, "argument num_layers=10000000: expected at most 100"),
        ({"resample_filter": [1] * 9000}, "argument resample_filter of 9000 values"),
    ):
        arguments = {
            "z_dim": 6,
            "c_dim": 0,
            "w_dim": 10,
            "img_resolution": 32,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 3},
        }
        network = persistent(module_of(generator.state_dict()), **arguments | SIZES | options)
        (tmp_path / "x.pkl").write_bytes(dumps({"G": network}))
        with pytest.raises(DataError, match=rf"x.pkl: G .*{sentence}") as error:
            models.load(tmp_path / "x.pkl")
        assert "\n" not in str(error.value)


def test_checkpoints_with_missing_layers(tmp_path):
    state = networks()[0].state_dict()
    for name in ("synthesis.b16.conv0.weight", "mapping.w_avg", "synthesis.b32.torgb.bias"):
        torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "x.pth")
        with pytest.raises(DataError, match=rf"x.pth: G {name} is missing in a Generator"):
            models.load(tmp_path / "x.pth")


# rosinality's StyleGAN2 written from the paper's formulas on its own names.


def dense(state, name, x, lr=1.0):
    weight = state[f"{name}.weight"] * (lr / math.sqrt(x.shape[1]))
    return F.linear(x, weight, state[f"{name}.bias"] * lr)


def lrelu(x, bias):
    return math.sqrt(2) * F.leaky_relu(x + bias.view(1, -1, *[1] * (x.dim() - 2)), 0.2)


def blur(x, kernel, before, after):
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n * c, 1, h, w), (before, after, before, after))
    y = F.conv2d(x, kernel.flip(0, 1)[None, None])
    return y.reshape(n, c, *y.shape[2:])


def doubled(x, kernel):
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, 2 * h, 2 * w)
    y[:, :, ::2, ::2] = x
    return blur(y, kernel, 2, 1)


def modulated(state, name, x, w, demodulate=True, up=False):
    weight = state[f"{name}.weight"][0]
    style = dense(state, f"{name}.modulation", w)
    out = []
    for image, s in zip(x, style, strict=True):  # each sample has a weight of its own
        own = weight * s[None, :, None, None] / math.sqrt(weight[0].numel())
        if demodulate:
            own = own * (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if up:
            y = F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2)
            out.append(blur(y, state[f"{name}.blur.kernel"], 1, 1))
        else:
            out.append(F.conv2d(image[None], own, padding=weight.shape[-1] // 2))
    return torch.cat(out)


def plain_generator(state, z, styles=3, truncation=1.0):
    w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(styles):
        w = lrelu(dense(state, f"style.{i + 1}", w, 0.01), w.new_zeros(()))
    w = state["latent_avg"] + truncation * (w - state["latent_avg"])

    def layer(name, x, noise, up=False):
        x = (
            modulated(state, f"{name}.conv", x, w, up=up)
            + state[f"{name}.noise.weight"] * state[f"noises.noise_{noise}"]
        )
        return lrelu(x, state[f"{name}.activate.bias"])

    def colors(name, x):
        return modulated(state, f"{name}.conv", x, w, demodulate=False) + state[f"{name}.bias"]

    x = layer("conv1", state["input.input"].expand(len(z), -1, -1, -1), 0)
    image = colors("to_rgb1", x)
    for i in range(3):
        x = layer(f"convs.{2 * i}", x, 2 * i + 1, up=True)
        x = layer(f"convs.{2 * i + 1}", x, 2 * i + 2)
        image = doubled(image, state[f"to_rgbs.{i}.upsample.kernel"]) + colors(f"to_rgbs.{i}", x)
    return image


def plain_discriminator(state, x):
    def conv(name, x, stride=1, padding=0):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)

    x = lrelu(conv("convs.0.0", x), state["convs.0.1.bias"])
    for i in (1, 2, 3):
        y = lrelu(conv(f"convs.{i}.conv1.0", x, padding=1), state[f"convs.{i}.conv1.1.bias"])
        y = blur(y, state[f"convs.{i}.conv2.0.kernel"], 2, 2)
        y = lrelu(conv(f"convs.{i}.conv2.1", y, 2), state[f"convs.{i}.conv2.2.bias"])
        skip = conv(f"convs.{i}.skip.1", blur(x, state[f"convs.{i}.skip.0.kernel"], 1, 1), 2)
        x = (y + skip) / math.sqrt(2)
    deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()  # of one group of 4 images
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = lrelu(conv("final_conv.0", x, padding=1), state["final_conv.1.bias"])
    x = lrelu(dense(state, "final_linear.0", x.flatten(1)), x.new_zeros(()))
    return dense(state, "final_linear.1", x).flatten()


def rosinality_files(tmp_path):
    generator, discriminator = networks()
    g, d = from_nvidia(generator.state_dict()), from_nvidia(discriminator.state_dict())
    average = g.pop("latent_avg")
    torch.save({"g": g, "d": d, "g_ema": g, "latent_avg": average}, tmp_path / "rosinality.pt")
    return generator, discriminator, {**g, "latent_avg": average}, d


@torch.no_grad()
def test_rosinality_computes_the_same(tmp_path):
    _, _, g, d = rosinality_files(tmp_path)
    found = models.load(tmp_path / "rosinality.pt")
    assert (found.layout, list(found)) == ("rosinality", ["G", "D", "G_ema"])
    z = torch.randn(4, 6)
    double = {key: value.double() for key, value in g.items()}
    for truncation in (1.0, 0.5):
        expected = plain_generator(double, z.double(), truncation=truncation)
        images = found.generator(z, truncation_psi=truncation, noise_mode="const")
        torch.testing.assert_close(images.double(), expected, atol=1e-4, rtol=1e-5)
    expected = plain_discriminator({key: value.double() for key, value in d.items()}, images.double())
    torch.testing.assert_close(found["D"](images).double(), expected, atol=1e-4, rtol=1e-4)


def test_rosinality_and_back(tmp_path):
    generator, discriminator, g, _ = rosinality_files(tmp_path)
    found = models.load(tmp_path / "rosinality.pt")
    assert_equal(found.generator, generator)
    assert_equal(found["D"], discriminator)
    models.save(found, tmp_path / "back.pt", "rosinality")
    content = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(content) == ["g", "d", "g_ema", "latent_avg"]
    assert {key: value.shape for key, value in content["g_ema"].items()} == {
        key: value.shape for key, value in g.items() if key != "latent_avg"
    }
    assert_equal(models.load(tmp_path / "back.pt").generator, generator)
    about = models.describe(tmp_path / "back.pt")["networks"]["G_ema"]
    assert_contains(about, {"layout": "rosinality", "resolution": 32, "z": 6, "classes": 0})


def test_names_of_rosinality(tmp_path):
    """As its model lists them for size 8, apart from the functions that convert."""
    torch.manual_seed(0)
    generator = Generator(4, 0, 4, 8, 3, mapping_kwargs={"num_layers": 1}, **SIZES)
    names = {name: list(value.shape) for name, value in from_nvidia(generator.state_dict()).items()}
    layer = {
        "conv.modulation.weight": [16, 4],
        "conv.modulation.bias": [16],
        "noise.weight": [1],
        "activate.bias": [16],
    }
    colors = {
        "bias": [1, 3, 1, 1],
        "conv.weight": [1, 3, 16, 1, 1],
        "conv.modulation.weight": [16, 4],
        "conv.modulation.bias": [16],
    }
    expected = {"input.input": [1, 16, 4, 4], "style.1.weight": [4, 4], "style.1.bias": [4], "latent_avg": [4]}
    for name in ("conv1", "convs.0", "convs.1"):
        expected |= {f"{name}.{key}": shape for key, shape in layer.items()} | {
            f"{name}.conv.weight": [1, 16, 16, 3, 3]
        }
    for name in ("to_rgb1", "to_rgbs.0"):
        expected |= {f"{name}.{key}": shape for key, shape in colors.items()}
    expected |= {"convs.0.conv.blur.kernel": [4, 4], "to_rgbs.0.upsample.kernel": [4, 4]}
    expected |= {f"noises.noise_{i}": [1, 1, side, side] for i, side in enumerate((4, 8, 8))}
    assert names == expected


@torch.no_grad()
def test_an_average_that_a_file_lacks(tmp_path):
    generator = networks()[0]
    state = from_nvidia(generator.state_dict())
    del state["latent_avg"]
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    found = models.load(tmp_path / "x.pt").generator
    w = generator.mapping(torch.randn(20_000, 6))[:, 0]
    torch.testing.assert_close(found.mapping.w_avg, w.mean(0), atol=5 * float(w.std()) / 100, rtol=0)


def test_what_rosinality_does_not_have(tmp_path):
    _, _, g, _ = rosinality_files(tmp_path)
    for change, sentence in (
        ({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "is another filter than"),
        ({"convs.9.conv.weight": torch.ones(1)}, "convs.9.conv.weight is not one of rosinality's names"),
        ({"to_rgb1.bias": torch.zeros(1, 4, 1, 1)}, "has shape"),
    ):
        torch.save({**g, **change}, tmp_path / "x.pt")
        with pytest.raises(DataError, match=rf"x.pt: G .*{sentence}"):
            models.load(tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"layout: rosinality's has no counterpart of mapping\.embed"):
        models.save(networks(3)[0], tmp_path / "y.pt", "rosinality")


def test_inspect_and_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rosinality_files(tmp_path)
    assert command(["inspect", "rosinality.pt"]) == 0
    text = capsys.readouterr().out
    assert "  G_ema: rosinality generator, " in text
    assert "    resolution: 32\n    channels: 3\n    z: 6\n    w: 10\n    classes: 0\n" in text
    for psi in ("0.5", "1"):
        words = ["sample", "rosinality.pt", "--n", "4", "--truncation", psi, "--out", f"{psi}.png"]
        assert command(words) == 0
    assert (tmp_path / "0.5.png").read_bytes() != (tmp_path / "1.png").read_bytes()


@pytest.mark.parametrize("radial", [False, True], ids=["t", "r"])
def test_stylegan3_as_a_pickle_and_as_weights(tmp_path, radial):
    torch.manual_seed(0)
    kernel = {"conv_kernel": 1, "use_radial_filters": True} if radial else {}
    sizes = {"channel_base": 256, "channel_max": 16, **kernel}
    generator = randomize(Generator3(6, 0, 10, 32, 3, mapping_kwargs={"num_layers": 2}, **sizes)).eval()
    network = module_of(generator.state_dict())
    arguments = {"mapping_kwargs": EasyDict(num_layers=2), **sizes}
    pickled = persistent(network, 6, 0, 10, 32, 3, class_name="Generator", source="conv_clamp = 256", **arguments)
    (tmp_path / "a.pkl").write_bytes(dumps({"G_ema": pickled}))
    loaded = models.load(tmp_path / "a.pkl")
    assert loaded.layout == "stylegan3"
    assert_equal(loaded.generator, generator)
    models.save(loaded, tmp_path / "b.safetensors", "stylegan3")
    again = models.load(tmp_path / "b.safetensors").generator
    assert_equal(again, generator)
    z = torch.randn(2, 6)
    for found in (loaded.generator, again):
        torch.testing.assert_close(found(z), generator(z), rtol=0, atol=0)


def test_saving_keeps_arguments_that_weights_do_not_show(tmp_path):
    torch.manual_seed(0)
    generator = randomize(Generator(6, 0, 10, 16, 3, mapping_kwargs={"num_layers": 2}, conv_clamp=0.5, **SIZES)).eval()
    options = {"epilogue_kwargs": {"mbstd_group_size": 2}, "conv_clamp": 0.5}
    discriminator = randomize(Discriminator(0, 16, 3, **options, **SIZES)).eval()
    models.save({"G": generator, "D": discriminator}, tmp_path / "a.safetensors", "stylegan2")
    loaded = models.load(tmp_path / "a.safetensors")
    z, images = torch.randn(4, 6), torch.randn(4, 3, 16, 16)
    assert torch.equal(loaded["G"](z), generator(z))
    assert torch.equal(loaded["D"](images), discriminator(images))
