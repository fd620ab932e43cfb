"""Every metric on real images (5,000 of Fashion-MNIST and 5,000 others), on noise, and on damaged samples."""

import dataclasses

import numpy as np
import pytest

from fastgan.data import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.registry import METRICS, select, short

from .conftest import subset


@pytest.mark.parametrize("n", [2500, pytest.param(5000, marks=pytest.mark.full)])
def test_real_against_real(halves, digits, n):
    found = evaluate(halves[0], halves[1], digits, n=n)
    protocol = digits.protocol
    names = [row.name for row in found.rows]
    assert f"fid{short(n)}_{protocol}" in names
    assert f"precision{short(n)}_k3_{protocol}" in names
    assert len(names) == len(set(names))
    spread = float(np.var(digits(halves[1].images).features.numpy(), axis=0).sum())
    assert 0 < found["fid"].value < 0.02 * spread
    assert abs(found["kid"].value) < 4 * found["kid"].error
    assert found["is"].value == pytest.approx(found["is"].real, rel=0.05)
    assert found["precision"].value > 0.85
    assert found["recall"].value > 0.85
    assert 0.9 < found["density"].value < 1.1
    assert found["coverage"].value > 0.93
    assert found["spectral"].value < 0.3
    assert abs(found["diversity"].value - found["diversity"].real) < 5 * found["diversity"].error
    (classes,) = (row for row in found.rows if "classes" in row.name)
    assert list(classes.parts) == list(halves[1].class_names)
    assert all(value < 0.2 * spread for value in classes.parts.values())
    assert [warning.split(":")[0] for warning in found.warnings] == (["2500 samples are few"] if n == 2500 else [])
    assert {row.name.split("_")[0].rstrip("k0123456789") for row in found.rows} >= {"duplicates", "copied"}


def test_noise_against_real(halves, digits):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1, 28, 28), dtype=np.uint8)
    found = evaluate(noise, halves[1], digits)
    assert found["fid"].value > 50
    assert found["fid"].name == f"fid1k_ref5k_{digits.protocol}"
    assert found["kid"].value > 20 * found["kid"].error
    assert found["precision"].value < 0.05
    assert found["coverage"].value < 0.05
    assert found["spectral"].value > 5
    assert any("few" in warning and "1k samples" in warning for warning in found.warnings)
    assert any("1,000 samples against 5,000 real images" in warning for warning in found.warnings)


def test_blur_and_missing_classes_make_metrics_worse(halves, digits):
    real = subset(halves[1], range(2000))
    good = subset(halves[0], range(2000))
    names = ["fid", "kid", "pr", "dc", "spectral"]
    plain = evaluate(good, real, digits, metrics=names)
    blurred = good.images.astype(np.float32)
    blurred = sum(np.roll(blurred, step, axis) for axis in (2, 3) for step in (-1, 0, 1)) / 6
    blur = evaluate(blurred.round().astype(np.uint8), real, digits, metrics=names)
    assert blur["fid"].value > 3 * plain["fid"].value
    assert blur["spectral"].value > 10 * plain["spectral"].value
    assert blur["precision"].value < plain["precision"].value
    kept = good.images[np.isin(good.labels, range(5))]
    missing = evaluate(kept, real, digits, metrics=names)
    assert missing["recall"].value < 0.75 < plain["recall"].value
    assert missing["coverage"].value < 0.65
    assert missing["precision"].value > 0.8
    assert missing["fid"].value > 3 * plain["fid"].value


def test_mode_collapse_and_copies_give_warnings(halves, digits):
    real = subset(halves[1], range(1000))
    one = np.repeat(halves[0].images[:20], 50, axis=0)
    found = evaluate(one, real, digits, metrics=["copies", "class_fid"])
    assert any("duplicate another sample by pixels" in warning for warning in found.warnings)
    (classes,) = (row for row in found.rows if "classes" in row.name)
    assert "as predicted by digits" in classes.note
    copied = evaluate(real.images[200:400], real, digits, metrics="copies")
    assert copied["copied"].value == 1
    assert any("100.0% of the samples copy a real image" in warning for warning in copied.warnings)
    others = evaluate(real.images[800:900], subset(halves[1], range(2000)), None, metrics="copies", n=500)
    assert others["copied"].value == 1  # copies are searched in the whole set, not in the 500 chosen images


def test_a_missing_class_is_named(halves, digits):
    real, fake = subset(halves[1], range(600)), subset(halves[0], range(600))
    fake = subset(fake, np.flatnonzero(fake.labels != 3))
    found = evaluate(fake, real, digits, metrics="class_fid").rows[0]
    assert found.parts["Dress"] is None
    assert "without Dress" in found.note
    assert "own labels" in found.note
    unlabeled = ImageSet(real.images, None, "mine", "none")
    found = evaluate(fake, unlabeled, digits, metrics="class_fid").rows[0]
    assert found.value is None
    assert found.note == "the real images have no labels"


def test_constant_images(halves, digits):
    """The results are finite, and there is a warning."""
    gray = np.full((200, 1, 28, 28), 77, np.uint8)
    found = evaluate(gray, subset(halves[1], range(300)), digits)
    for row in found.rows:
        assert row.value is None or np.isfinite(row.value), row
    assert any("200 of 200 samples are of a single gray level" in warning for warning in found.warnings)
    assert "singular" in found["fid"].note
    assert "to compare with them, --extractor inception" in found["fid"].note
    assert found["recall"].value == 0


def test_an_extractor_of_photographs_on_small_gray_images(halves, digits):
    other = dataclasses.replace(digits, photographs=True, own=False, protocol="other", accuracy=0.4)
    found = evaluate(subset(halves[0], range(50)), subset(halves[1], range(50)), other, metrics="fid,class_fid")
    warnings = [warning for warning in found.warnings if "photographs" in warning]
    assert "gray and smaller than 64 pixels" in warnings[0]
    assert "digits" in warnings[0]
    assert any("accuracy of only 40% on held-out images" in warning for warning in found.warnings)


def test_paired_metrics(halves):
    truth = subset(halves[0], range(20))
    brighter = np.clip(truth.images.astype(int) + 5, 0, 255).astype(np.uint8)
    found = evaluate(brighter, truth, metrics=["psnr", "ssim"], n=10)
    assert found["psnr"].name == "psnr10"
    assert 20 * np.log10(255 / 5) <= found["psnr"].value < 38
    assert found["ssim"].value < 1
    with pytest.raises(UsageError, match="psnr compares each sample with the real image of the same position"):
        evaluate(brighter[:10], truth, metrics=["psnr"])


def test_errors(halves, digits):
    real = subset(halves[1], range(10))
    with pytest.raises(UsageError, match=r"samples: expected images \[1, 28, 28\] as in embedded, got \[1, 32, 32\]"):
        evaluate(np.zeros((9, 1, 32, 32), np.uint8), real, digits)
    with pytest.raises(UsageError, match=r"got \[3, 28, 28\]"):
        evaluate(np.zeros((9, 3, 28, 28), np.uint8), real, digits)
    with pytest.raises(UsageError, match="samples: expected uint8"):
        evaluate(np.zeros((9, 1, 28, 28), np.float32), real, digits)
    with pytest.raises(UsageError, match="n: expected at least 2"):
        evaluate(real, real, digits, n=1)
    with pytest.raises(UsageError, match="neighbors for 4 fake samples"):
        evaluate(subset(real, range(4)), real, digits, metrics="pr")
    with pytest.raises(UsageError, match="metrics: expected some of fid, kid"):
        evaluate(real, real, digits, metrics="fid,lpips")
    with pytest.raises(UsageError, match="extractor: these metrics need one"):
        evaluate(real, real, metrics="fid")


def test_names():
    assert [short(n) for n in (5000, 50_000, 2500, 999)] == ["5k", "50k", "2500", "999"]
    assert set(select(None)) | {"psnr", "ssim", "cas", "c2st"} == set(METRICS)
