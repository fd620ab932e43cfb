"""StyleGAN-XL: one stage against StyleGAN3, stages that go on from a smaller run, features of classes, training."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastgan import Config, Trainer, models
from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.models.backbones import FrozenBackbone
from fastgan.models.class_embedding import ClassEmbedding, class_features
from fastgan.models.stylegan import Generator3
from fastgan.models.stylegan.stylegan3 import bands_of
from fastgan.testing.stylegan import randomize

SMALL = {"first_layers": 4, "added_layers": 3, "backbone": "random", "side": 64, "d_width": 2}


def pair(resolution=16, classes=3, **options):
    torch.manual_seed(resolution)
    build = {"channels": 3, "latent": 6, "width": 8, "classes": classes}
    return models.build("stylegan-xl", resolution=resolution, **build, **SMALL | options)


def test_one_stage_is_stylegan3_with_features_of_labels():
    generator = randomize(pair()[0].double().eval())
    sizes = {"channel_base": 512, "channel_max": 8, "num_layers": 4}
    plain = Generator3(6, 320, 8, 16, 3, mapping_kwargs={"embed_features": 6}, **sizes).double().eval()
    state = {name.replace("synthesis.b16.", "synthesis."): tensor for name, tensor in generator.state_dict().items()}
    features = state.pop("mapping.embedding.given")
    plain.load_state_dict(state)
    z, c = torch.randn(4, 6, dtype=torch.float64), torch.tensor([2, 0, 1, 1])
    torch.testing.assert_close(generator(z, c), plain(z, features[c]))
    torch.testing.assert_close(generator(z, F.one_hot(c, 3).double()), generator(z, c))


def test_a_stage_keeps_the_layers_before_the_critically_sampled_ones():
    first, second, third = (pair(r, stages=s)[0].synthesis for r, s in ((16, 1), (32, 2), (64, 3)))
    kept = first.layers[:-3]
    assert second.layers[: len(kept)] == kept
    assert third.layers[: len(second.layers) - 3] == second.layers[:-3]
    assert [len(synthesis.layers) for synthesis in (first, second, third)] == [5, 2 + 4, 2 + 1 + 4]
    assert second.num_ws == 7
    # Cutoffs go on from the last kept layer's to half the new side, over all but two of the new layers.
    base = (2**0.3, 10, 512, 8)
    before = bands_of(16, 4, 2, (2.0, 2**2.1), *base)[1]
    new = bands_of(32, 4, 2, (before.cutoff, before.stopband), *base)
    assert [round(band.cutoff, 4) for band in new] == [
        round(before.cutoff * (16 / before.cutoff) ** t, 4) for t in (0, 0.5, 1, 1, 1)
    ]
    assert [band.size for band in new[-2:]] == [32, 32]


def test_layers_of_smaller_stages_are_frozen():
    generator, _ = pair(32, stages=2)
    frozen = {name.split(".")[1] for name, p in generator.synthesis.named_parameters(prefix="x") if not p.requires_grad}
    assert frozen == {"input", "b16"}
    assert all(p.requires_grad for p in pair(32)[0].parameters())


def test_class_features():
    backbone = FrozenBackbone("random")
    images, labels = torch.rand(6, 3, 64, 64) * 2 - 1, torch.tensor([0, 2, 0, 2, 2, 0])
    found = class_features(backbone, images, labels, 4)
    features = backbone(images)[3].mean((2, 3))
    means = torch.stack([features[labels == c].mean(0) for c in (0, 2)]) - features.mean(0)
    torch.testing.assert_close(found[[0, 2]], means / means.square().mean().sqrt(), rtol=1e-4, atol=1e-4)
    assert not found[[1, 3]].any()
    one = class_features(backbone, images, torch.zeros(6, dtype=torch.int64), 1)
    assert one.isfinite().all()
    embedding = ClassEmbedding(4, found)
    assert torch.equal(embedding(torch.tensor([2]), found), found[2:3])
    assert not list(embedding.parameters())


# --- training ---------------------------------------------------------------------------------------------------------


class Batches:
    def __init__(self, side):
        self.at, self.side = 0, side

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        images = torch.rand(4, 3, self.side, self.side, generator=torch.Generator().manual_seed(self.at)) * 2 - 1
        return images, torch.arange(4) % 3

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def trained(steps, side, out=None, reference=True, stages=1, **fit):
    networks = pair(side, stages=stages)
    config = Config.from_flags(
        latent=6, batch=4, log_every=1, sample_every=100, checkpoint_every=100, compile="off", steps=steps,
    )  # fmt: skip
    trainer = Trainer(*networks, "hinge", config, out=out)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, side, side), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(12) % 3, "noise", "") if reference else None
    trainer.fit(Batches(side), reference=images, **fit)
    return trainer


def states(trainer):
    return {
        "G": trainer.generator.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "D": trainer.discriminator.state_dict(),
    }


def test_two_stages(tmp_path, caplog):
    caplog.set_level("INFO", "fastgan")
    first = trained(1, 16, tmp_path / "first")
    assert "class embeddings: mean features of 12 images of 3 classes" in caplog.messages
    given = first.generator.mapping.embedding.given
    for network in (first.ema.module.mapping, first.discriminator):
        assert torch.equal(network.embedding.given, given)
    assert not torch.equal(given, pair()[0].mapping.embedding.given)
    with pytest.raises(
        UsageError, match=r"init_from: GeneratorXL of several stages goes on from a run of one stage less;"
    ):
        trained(1, 32, stages=2)
    whole = trained(1, 32, stages=2, init_from=tmp_path / "first")
    before, after = states(first)["G"], states(whole)["G"]
    kept = [name for name in after if ".b16." in name and not name.endswith("magnitude_ema")]
    assert len(kept) > 4
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert not torch.equal(after["mapping.fc0.weight"], before["mapping.fc0.weight"])
    assert any("of the parameters; fresh: synthesis.b32" in message for message in caplog.messages)


@pytest.mark.full
def test_a_run_of_two_stages_resumes_bit_for_bit(tmp_path):
    trained(1, 16, tmp_path / "first")
    whole = trained(2, 32, stages=2, init_from=tmp_path / "first")
    trained(1, 32, tmp_path / "second", stages=2, init_from=tmp_path / "first")
    part = trained(2, 32, tmp_path / "second", stages=2, resume=True)
    for network, state in states(whole).items():
        for name, tensor in states(part)[network].items():
            assert torch.equal(tensor, state[name]), name


def test_without_labeled_images_the_embeddings_stay_random(caplog):
    trainer = trained(1, 16, reference=False)
    assert torch.equal(trainer.generator.mapping.embedding.given, pair()[0].mapping.embedding.given)
    assert "class embeddings are random" in caplog.text


@pytest.mark.full
def test_several_stages_export(tmp_path):
    pytest.importorskip("onnxruntime")
    from fastgan.export import export

    generator, _ = pair(32, stages=2)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert export(generator, tmp_path / "generator.onnx")["psnr"] > 90


def test_bad_input():
    for options, message in (
        ({"stages": 2}, "stages: expected a number from 1 by which a first stage of 16×16 or larger becomes 16×16"),
        ({"stages": 0}, "got 0"),
        ({"first_layers": 2}, "layers: expected more than 2 in a stage, got 2"),
        ({"d_norm": "batch"}, "d_norm: projected discriminators have spectral and batch norms, got 'batch'"),
        ({"condition": "concat"}, "condition: stylegan-xl supports projection, got 'concat'"),
    ):
        with pytest.raises(UsageError) as error:
            pair(**options)
        assert message in str(error.value)
