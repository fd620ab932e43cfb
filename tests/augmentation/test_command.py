"""fastgan augment: what it writes, what it refuses, and what it says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import Config, cli, models
from fastgan.augmentation import folder
from fastgan.cli.augment import drawing
from fastgan.data import open_source
from fastgan.errors import DataError
from fastgan.train.networks import Trained

from .conftest import corners

NAMES = ("a/b", "right", "b: left", "last")
FOLDERS = ["a-b", "right", "b- left", "last"]
WORDS = ("--data", "real", "--out", "more", "--per-class", "12", "--steps", "40")


def save(data, path):
    for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        into = path / str(label)
        into.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(into / f"{i:03d}.png")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps, its images, and others to test with."""
    at = tmp_path_factory.mktemp("run")
    save(corners([8, 10, 12, 6], 0), at / "real")
    save(corners([20] * 4, 1), at / "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        patch.setenv("FASTGAN_CACHE", str(at / "cache"))
        words = "--model dcgan --resolution 8 --width 4 --latent 4 --batch 8 --steps 2 --compile off --out run"
        assert cli.run(["train", "--data", "real", "--condition", "projection", *words.split()]) == 0
        words = words.replace("--out run", "--out plain").split()
        assert cli.run(["train", "--data", "real", *words]) == 0
    return at


@pytest.fixture
def augment(run, tmp_path, monkeypatch, capsys):
    """augment(*words): exit code, output and error of the command on the run, in a copy of its folder."""
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))

    def call(*words, source="run"):
        capsys.readouterr()
        code = cli.run(["augment", source, *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def good(monkeypatch):
    """In place of a trained generator, one whose images are good, except each second one of class 1."""
    made = [corners([500 * (i == label) for i in range(4)], 10 + label).images for label in range(4)]
    made[1][::2] = made[0][::2]
    monkeypatch.setattr(
        "fastgan.cli.augment.drawing", lambda *_: lambda label, first, n: made[label][first : first + n]
    )
    return made


def test_a_balanced_set_that_can_be_trained_on(augment, good, tmp_path):
    code, out, err = augment(*WORDS, "--grid", "shown.png")
    assert (code, err) == (0, "")
    found = open_source(tmp_path / "more")
    assert found.class_names == ("0", "1", "2", "3")
    assert np.bincount(found.labels).tolist() == [12, 12, 12, 12]
    report = json.loads((tmp_path / "more" / "augment.json").read_text())
    rows = report["classes"]
    assert [row["real"] for row in rows] == [8, 10, 12, 6]
    assert [row["generated"] for row in rows] == [4, 2, 0, 6]
    assert rows[1]["rejected"]["other class"] >= 2
    assert rows[2]["drawn"] == 0
    for row in rows:
        assert row["drawn"] == row["generated"] + sum(row["rejected"].values())
    names = sorted(path.name for path in (tmp_path / "more" / "3").iterdir())
    assert names == [f"generated{i:05d}.png" for i in range(6)] + [f"real{i:05d}.png" for i in range(6)]
    first = pixels(tmp_path / "more" / "3" / "generated00000.png")
    assert any(np.array_equal(first, image[0]) for image in good[3])
    kept = pixels(tmp_path / "more" / "3" / "real00000.png")
    assert np.array_equal(kept, pixels(min((tmp_path / "real" / "3").iterdir())))
    assert "36 real and 12 generated images: more" in out
    assert pixels(tmp_path / "shown.png").shape[1] > 16 * 48
    before = (tmp_path / "more" / "augment.json").read_bytes()
    assert augment(*WORDS)[::2] == (2, "fastgan: out: more exists; --overwrite replaces it\n")
    (tmp_path / "more" / "3" / "generated00000.png").unlink()
    assert augment(*WORDS, "--overwrite")[0] == 0
    assert (tmp_path / "more" / "augment.json").read_bytes() == before
    assert len(open_source(tmp_path / "more")) == 48


def test_the_proof_is_in_the_report_and_says_whether_it_helps(augment, good, tmp_path):
    code, out, _ = augment(*WORDS, "--prove", 2, "--held-out", "test", "--flips")
    assert code == 0
    found = json.loads((tmp_path / "more" / "augment.json").read_text())["proof"]
    assert [len(row["accuracies"]) for row in found["rows"]] == [2] * 4
    assert (found["tested"], found["steps"], found["classical"]) == (80, 40, "shifts and flips")
    assert found["sentence"] in out
    code, out, err = augment(*WORDS, "--overwrite", "--prove", 2, "--held-out", "real")
    assert code == 2
    assert "held_out: all of its 36 images are in --data; give others" in err


def test_what_is_missing_is_an_error_after_all_is_written(augment, tmp_path):
    """The run of two steps makes images of no class."""
    code, _, err = augment(*WORDS, "--tries", 2, "--confidence", 0.9)
    assert code == 1
    assert "images are missing after 2 tries for each, of '0' (4 of 4), '1' (2 of 2), '3' (6 of 6)" in err
    assert len(open_source(tmp_path / "more")) == 36
    report = json.loads((tmp_path / "more" / "augment.json").read_text())
    assert [row["missing"] for row in report["classes"]] == [4, 2, 0, 6]


def test_bad_input_is_named_before_any_work(augment, tmp_path):
    npz = tmp_path / "unlabeled.npz"
    np.savez(npz, images=corners([5, 5], 0).images)
    save(corners([5, 5, 5], 0), tmp_path / "three")
    save(corners([5, 5, 5, 5], 0), tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "pictures" / "0").mkdir(parents=True)
    (tmp_path / "pictures" / "0" / "real00000.png").write_bytes(b"")
    np.savez(tmp_path / "gap.npz", images=corners([5, 0, 5, 5], 0).images, labels=corners([5, 0, 5, 5], 0).labels)
    for words, source, sentence in [
        (
            ("--data", "unlabeled.npz"),
            "run",
            "data: expected labeled images, such as a folder for each class; unlabeled",
        ),
        (("--data", "three"), "run", "three has other classes than the 4 named before"),
        (("--data", "gap.npz"), "run", "data: expected images of each class, gap has none of '1'"),
        (("--per-class", "6"), "run", "per_class: expected more than the 6 images that the smallest class has, got 6"),
        (("--per-class", "0"), "run", "per_class: expected a number >= 1, got 0"),
        (("--tries", "0"), "run", "tries: expected a number >= 1, got 0"),
        ((), "plain", "run: expected a class-conditional generator"),
        ((), "nothing", "run: expected the directory of a run, got nothing"),
        (("--prove", "3"), "run", "held_out: --prove needs labeled images that neither the run nor --data has"),
        (("--prove", "1"), "run", "prove: expected at least 2 seeds"),
        (("--flips",), "run", "flips: it belongs to --prove SEEDS"),
        (("--out", "mine"), "run", "out: mine has other files than those of an augmented set, such as "),
        (("--out", "pictures"), "run", "out: pictures is not empty, and no augmented set (augment.json)"),
        (("--out", "run/config.json"), "run", "out: expected a folder, run/config.json is none"),
        (("--grid", "more/x.png"), "run", "grid: more/x.png would be an image of the set"),
        (("--far", "0.1"), "run", "far: expected a number above near"),
    ]:
        code, _, err = augment(*WORDS, "--overwrite", *words, source=source)
        assert code in (1, 2)
        assert sentence in err, (words, err)
        assert not (tmp_path / "more").exists()
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_images_of_another_size_than_the_runs(augment, tmp_path):
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    facts["config"]["data"]["resolution"] = 16
    (tmp_path / "run" / "config.json").write_text(json.dumps(facts))
    assert "data: expected images [1, 8, 8] as the run makes, got [1, 16, 16]" in augment(*WORDS)[2]


def test_folders_of_classes_are_names_of_files():
    assert folder.names_of(NAMES) == FOLDERS
    assert folder.names_of(["a/b", "a:b", "..", "x"]) == ["a-b 0", "a-b 1", "class", "x"]
    assert folder.names_of(["Cat", "cat"]) == ["Cat 0", "cat 1"]


def trained(name, **options):
    """A run's networks before training, as they are loaded."""
    generator, _ = models.build(name, resolution=8, channels=1, latent=4, width=2, classes=2, **options)
    shape = () if name == "variation" else (4,)
    generator.eval().requires_grad_(False)
    return Trained(generator, shape, 0, {"config": Config().to_dict()}, Path("run"), getattr(generator, "classes", 0))


@pytest.mark.parametrize("name", ["dcgan", "variation"])
def test_an_image_depends_on_its_class_and_number_alone(name):
    torch.manual_seed(0)
    real, run = corners([5, 3], 0), trained(name)
    draw = drawing(run, real, 7, torch.device("cpu"))
    whole = draw(1, 0, 6)
    assert whole.dtype == np.uint8
    assert np.array_equal(draw(1, 2, 3), whole[2:5])
    z = torch.from_numpy(np.random.default_rng((7, 1, 4)).standard_normal(4, np.float32))[None]
    # Images of the class are varied in turn: three of them are there.
    given = torch.from_numpy(real.images[[5 + 4 % 3]]) / 127.5 - 1
    made = run.generator(given, z) if name == "variation" else run.generator(z, torch.tensor([1]))
    assert np.abs(whole[4] - ((made[0].numpy() + 1) * 127.5)).max() <= 1
    other = drawing(run, real, 8, torch.device("cpu"))
    assert not np.array_equal(other(1, 0, 6), whole)


def test_images_that_are_not_finite_are_an_error():
    run = trained("dcgan")
    run.generator.to_image.conv.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="run: its generator returns images that are NaN or infinite"):
        drawing(run, corners([5, 3], 0), 0, torch.device("cpu"))
