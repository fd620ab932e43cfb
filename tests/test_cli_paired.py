"""Paired translation on the command line: from a folder of pairs to pictures, and files of the public layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import models
from fastgan.train import checkpoint
from fastgan.train.networks import load_generator

TINY = (
    "--width", 2, "--task.crop", 32, "--steps", 2, "--batch", 2, "--log-every", 2, "--checkpoint-every", 2,
    "--compile", "off",
)  # fmt: skip


@pytest.fixture
def pairs(tmp_path):
    """Six pictures of 34×68: the right half is the negative of the left one."""
    (tmp_path / "pairs").mkdir()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (34, 34, 3), np.uint8)
        Image.fromarray(np.concatenate([image, 255 - image], 1)).save(tmp_path / "pairs" / f"{i}.png")
    return tmp_path / "pairs"


def train(cli, *words):
    done = cli("train", "pix2pix", *TINY, *words)
    assert done.returncode == 0, done.stderr
    return done


def weights(folder, part):
    return checkpoint.load_part(folder / "checkpoints" / "00000002", part)


def test_public_files_of_a_run_begin_another_one(cli, pairs, tmp_path):
    words = ("--data", pairs, "--resolution", 34, "--model.norm", "batch")
    train(cli, *words, "--out", "first")
    found = load_generator(tmp_path / "first")
    models.save(found.generator, tmp_path / "latest_net_G.pth", "cyclegan-pix2pix")
    state = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    assert "model.model.1.model.2.running_mean" in state
    # A learning rate that changes nothing: what the run ends with is what it began with.
    still = ("--lr-g", 1e-30, "--lr-d", 1e-30)
    train(cli, *words, *still, "--init-from", "latest_net_G.pth", "--out", "second")
    before, after = weights(tmp_path / "first", "ema"), weights(tmp_path / "second", "generator")
    for name, tensor in before.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(after[name], tensor), name
    discriminator = models.build("pix2pix", resolution=32, channels=3, latent=1, width=2)[1]
    discriminator.load_state_dict(weights(tmp_path / "first", "discriminator"))
    models.save({"D": discriminator}, tmp_path / "latest_net_D.pth")
    train(cli, *words, *still, "--init-from", "latest_net_D.pth", "--out", "third")
    for name, tensor in weights(tmp_path / "third", "discriminator").items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, discriminator.state_dict()[name]), name


def test_pairs_that_have_moved_resume_and_others_do_not(cli, pairs, tmp_path):
    for half, box in (("a", (0, 0, 34, 34)), ("b", (34, 0, 68, 34))):
        (tmp_path / half).mkdir()
        for file in pairs.iterdir():
            Image.open(file).crop(box).save(tmp_path / half / file.name)
    train(cli, "--data", "a", "--data.target", "b", "--resolution", 34, "--out", "run")
    (tmp_path / "b").rename(tmp_path / "moved")
    done = cli("train", "--resume", "run", "--steps", 4)
    assert done.returncode != 0
    done = cli("train", "--resume", "run", "--steps", 4, "--data.target", "moved")
    assert done.returncode == 0, done.stderr
    Image.new("RGB", (34, 34)).save(tmp_path / "moved" / "0.png")
    done = cli("train", "--resume", "run", "--steps", 6, "--data.target", "moved")
    assert done.returncode != 0
    assert "has other images than those of" in done.stderr


def test_a_file_of_another_network_is_named_before_training(cli, pairs, tmp_path):
    generator, _ = models.build("pix2pix", resolution=32, channels=3, latent=1, width=3)
    models.save(generator, tmp_path / "wider.pth")
    done = cli("train", "pix2pix", *TINY, "--data", pairs, "--resolution", 34, "--init-from", "wider.pth")
    assert done.returncode != 0
    assert "init_from: wider.pth holds another generator: " in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data.direction", "up"), "direction: expected a-to-b or b-to-a, got 'up'"),
        (("--task.crop", 64), "crop: expected at most the side of the images, 34×34, got 64"),
        (("--data.target", "nowhere"), "no such source: 'nowhere'"),
        (("--data.make", "edge"), "make: unknown function 'edge'; did you mean 'edges'"),
        (("--task.crop", 30), "resolution: the U-Net supports multiples of 32, got 30"),
    ],
)
def test_misfits_are_one_sentence(cli, pairs, words, said):
    done = cli("train", "pix2pix", *TINY, "--data", pairs, "--resolution", 34, *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_from_a_folder_to_translated_pictures(cli, pairs, tmp_path):
    train(cli, "--data", pairs, "--resolution", 34, "--data.make", "gray", "--held-out", 2, "--out", "run")
    source = Image.fromarray(np.random.default_rng(9).integers(0, 256, (64, 96), np.uint8))
    source.save(tmp_path / "source.png")
    done = cli("translate", "run", "source.png", "made.png")
    assert done.returncode == 0, done.stderr
    made = np.asarray(Image.open(tmp_path / "made.png"))
    assert made.shape == (64, 96, 3)
    found = load_generator(tmp_path / "run").generator
    assert found.source_channels == 1
    with torch.no_grad():
        expected = found(torch.from_numpy(np.array(source))[None, None].float() / 127.5 - 1)[0]
    expected = ((expected + 1) * 127.5).clamp(0, 255).round().permute(1, 2, 0).numpy()
    assert np.abs(made.astype(float) - expected).max() <= 1
