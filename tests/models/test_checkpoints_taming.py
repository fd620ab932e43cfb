"""Files in the layout of taming-transformers and latent diffusion, which the test writes."""

import pytest
import torch

from fastgan import models
from fastgan.errors import DataError
from fastgan.models.autoencoder import VQGAN, KLAutoencoder
from fastgan.models.checkpoints import load_generator
from fastgan.models.translation import PatchDiscriminator
from tests.random_weights import randomized

SIZES = {"latent": 3, "width": 8, "multipliers": (1, 2, 4), "blocks": 2, "attention": (1, 2), "z_channels": 5}


def vqgan(**options):
    return randomized(VQGAN(**SIZES | {"codes": 10} | options))


def lightning(network, discriminator=None, prefix="", **more):
    """What Lightning saves of a training."""
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    if discriminator is not None:
        for name, value in discriminator.state_dict().items():
            state[f"{prefix}loss.discriminator.main.{name.removeprefix('model.')}"] = value
    state |= {
        f"{prefix}loss.logvar": torch.zeros(()),
        f"{prefix}loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 4, 1, 1),
    }
    return {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "1.0.8", "state_dict": state | more}


def same(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("make", [vqgan, lambda: randomized(KLAutoencoder(**SIZES))])
def test_a_lightning_file(tmp_path, make):
    network, discriminator = make(), randomized(PatchDiscriminator(layers=2, width=4))
    torch.save(lightning(network, discriminator), tmp_path / "last.ckpt")
    found = models.load(tmp_path / "last.ckpt")
    assert (found.layout, sorted(found)) == ("taming", ["D", "G"])
    same(found["G"], network)
    same(found["D"], discriminator)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(found.generator(x), network(x))
    assert torch.equal(found["D"](x), discriminator(x))
    about = models.describe(tmp_path / "last.ckpt")["networks"]["G"]
    assert (about["layout"], about["network"], about["attention"]) == ("taming", type(network).__name__, [1, 2])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saved_and_loaded_again(tmp_path, suffix):
    network = vqgan(codebook="average", restart=0.2, decay=0.9)
    discriminator = randomized(PatchDiscriminator(layers=2, width=4, norm="none"))
    models.save({"G": network, "D": discriminator}, tmp_path / f"x{suffix}", "taming")
    found = models.load(tmp_path / f"x{suffix}")
    same(found["G"], network)
    same(found["D"], discriminator)
    assert (found["G"].quantize.restart, found["G"].quantize.decay) == (0.2, 0.9)
    if suffix == ".pth":
        names = torch.load(tmp_path / "x.pth")["state_dict"]
        assert {"encoder.down.0.downsample.conv.weight", "decoder.up.2.upsample.conv.bias"} <= names.keys()
        assert {"loss.discriminator.main.0.weight", "quantize.embedding.weight"} <= names.keys()
    alone = tmp_path / f"alone{suffix}"
    models.save(network, alone)
    same(load_generator(alone), network)


def test_averages_of_counts_become_those_of_shares(tmp_path):
    network = vqgan(codebook="average")
    content = lightning(network)
    for name in ("cluster_size", "embed_avg"):
        content["state_dict"][f"quantize.embedding.{name}"] = 640 * network.get_buffer(f"quantize.embedding.{name}")
    torch.save(content, tmp_path / "x.ckpt")
    book = load_generator(tmp_path / "x.ckpt").quantize.embedding
    assert float(book.cluster_size.sum()) == pytest.approx(1.0)
    own = network.quantize.embedding
    torch.testing.assert_close(book.embed_avg / book.cluster_size[:, None], own.embed_avg / own.cluster_size[:, None])


def test_averaged_weights_and_the_first_stage_of_a_diffusion_model(tmp_path):
    network, average = randomized(KLAutoencoder(**SIZES)), KLAutoencoder(**SIZES).eval()
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in average.state_dict().items()}
    torch.save(lightning(network, **averages), tmp_path / "x.ckpt")
    found = models.load(tmp_path / "x.ckpt")
    same(found.generator, average)
    same(found["G"], network)
    models.save({name: found[name] for name in ("G", "G_ema")}, tmp_path / "again.pt")
    same(models.load(tmp_path / "again.pt").generator, average)
    unet = {"model.diffusion_model.out.2.weight": torch.ones(3)}
    torch.save(lightning(network, prefix="first_stage_model.", **unet), tmp_path / "whole.ckpt")
    found = models.load(tmp_path / "whole.ckpt")
    same(found.generator, network)
    assert sorted(found) == ["G"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("decoder.up.1.block.0.conv1.weight"), r"up\.1\.block\.0\.conv1\.weight is missing"),
        (
            lambda state: state.pop("encoder.down.1.block.0.conv1.weight"),
            r"down\.1\.block\.0\.conv1\.weight is missing",
        ),
        (lambda state: state.update({"encoder.down.4.block.0.norm1.bias": torch.ones(8)}), r"levels \[0, 1, 2, 4\]"),
        (
            lambda state: state.update({"encoder.down.1.block.0.conv1.weight": torch.ones(12, 8, 3, 3)}),
            r"levels of \[8, 12, 32\] channels: expected multiples of the first layer's 8",
        ),
    ],
)
def test_weights_of_another_network(tmp_path, change, expected):
    content = lightning(vqgan())
    change(content["state_dict"])
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(DataError, match=expected):
        models.load(tmp_path / "x.ckpt")
