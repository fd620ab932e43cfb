"""What does not fit StyleGAN is one sentence on the command line: resolutions, labels, checkpoints of other sizes."""

import pytest

SMALL = ["--width", 4, "--latent", 4, "--batch", 4, "--steps", 1, "--compile", "off", "--d-norm", "none"]
STYLEGAN2 = ["train", "demo", "--model", "stylegan2", "--model.mapping-layers", 1, *SMALL]


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3"])
def test_a_resolution_that_is_no_power_of_two_names_those_that_are_possible(cli, images_npz, family):
    done = cli("train", "demo", "--model", family, *SMALL, "--data", images_npz, "--resolution", 20, "--out", "run")
    assert done.returncode == 2
    assert "powers of two from" in done.stderr
    assert "got 20; give 16 or 32 (the generator of stylegan3 alone takes any number from 16)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_labels_where_there_are_none(cli, images_npz):
    words = [*STYLEGAN2, "--data", images_npz, "--resolution", 8, "--out", "run"]
    done = cli(*words, "--condition", "projection")
    assert done.returncode == 2
    assert "labels: images has none, and conditional networks need them" in done.stderr
    assert cli(*words).returncode == 0
    done = cli("sample", "run", "--class", 1)
    assert done.returncode == 2
    assert "class: the generator was trained without labels, it has no classes to choose from" in done.stderr


def test_checkpoints_of_another_resolution_or_width(cli, images_npz):
    words = [*STYLEGAN2, "--data", images_npz]
    assert cli(*words, "--resolution", 8, "--out", "run").returncode == 0
    done = cli("train", "--resume", "run", "--resolution", 16, "--steps", 2)
    assert done.returncode == 2
    assert "resolution: 16 differs from the run's 8; a resumed run can change only" in done.stderr
    done = cli(*words, "--resolution", 16, "--out", "larger", "--init-from", "run")
    assert done.returncode == 0, done.stderr
    assert "tensors taken over" in done.stderr
    assert "fresh: synthesis.b16" in done.stderr
    done = cli(*words, "--resolution", 8, "--width", 8, "--out", "wider", "--init-from", "run")
    assert done.returncode == 2
    assert "init_from: run holds another generator: only " in done.stderr
