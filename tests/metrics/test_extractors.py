import copy
import dataclasses
import hashlib
import subprocess

import numpy as np
import pytest
import torch

from fastgan.data import ImageSet
from fastgan.errors import DataError, UsageError
from fastgan.metrics import extractors
from fastgan.metrics.extractors import digits, efficientnet, inception
from fastgan.metrics.features import features_path, reference_features

from .conftest import subset

CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A file of random weights with the names of the public file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = inception.Inception().state_dict()
    path = tmp_path_factory.mktemp("weights") / inception.FILES[0]
    torch.save({name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}, path)
    return path


def test_inception_has_the_parameters_of_the_public_file(inception_file, halves):
    """23,850,960, as in torch-fidelity; with equal random weights both networks agree to 1.3e-6 at every depth."""
    extractor = extractors.open_extractor(str(inception_file), halves[0], CPU)
    assert sum(p.numel() for p in extractor.network.parameters()) == 23_850_960
    assert len(extractor.network.state_dict()) == 566
    found = extractor(noise(2, 3, 40, 40))
    assert found.features.shape == (2, 2048)
    assert found.logits.shape == (2, 1008)
    activations = next(extractor.activations(noise(2, 3, 40, 40)))
    assert [tuple(t.shape[1:]) for t in activations] == [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 8, 8)]
    assert extractor.protocol == "inception_clean"
    gray = extractor(noise(2, 1, 28, 28))
    same = extractor(noise(2, 1, 28, 28).repeat(3, axis=1))
    assert torch.equal(gray.features, same.features)


def test_pooling_of_inception():
    """Averages exclude the padding, and only the last block uses the maximum."""
    ones = torch.ones(1, 1, 5, 5)
    assert torch.equal(inception._average(ones), ones)
    network = inception.Inception()
    assert [network.Mixed_7b._maximum, network.Mixed_7c._maximum] == [False, True]


def test_inception_from_the_hub_cache(inception_file, halves, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="the weights of inception are missing; fetch them") as error:
        extractors.open_extractor("inception", halves[0], CPU)
    # The shell command in the message does what it says, where it is given another place and another file.
    assert inception.fetch_command(tmp_path / "checkpoints" / inception.FILES[0]) in str(error.value)
    assert inception.SHA256[:8] in inception.FILES[0]
    source, target = tmp_path / "published", tmp_path / "a folder" / "weights.pth"
    source.write_bytes(b"weights")
    monkeypatch.setattr(inception, "URL", source.as_uri())
    assert subprocess.run(["bash", "-c", inception.fetch_command(target)], capture_output=True).returncode == 1
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert subprocess.run(["bash", "-c", inception.fetch_command(target)], capture_output=True).returncode == 0
    assert target.read_bytes() == b"weights"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / inception.FILES[0]).symlink_to(inception_file)
    clean, legacy = (extractors.open_extractor(name, halves[0], CPU) for name in ("inception", "inception_legacy"))
    assert legacy.protocol == "inception_legacy"
    assert "other than the published ones: not comparable with FIDs of papers" in legacy.about
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(inception_file.read_bytes()).hexdigest())
    assert "the published ones" in extractors.open_extractor("inception", halves[0], CPU).about
    assert clean.weights == legacy.weights
    assert clean.key != legacy.key
    photographs = ImageSet(noise(2, 3, 64, 64), None, "photographs", "none")
    assert extractors.default_extractor(photographs) == "inception"
    assert extractors.default_extractor(halves[0]) == "digits"


def test_files_that_are_no_weight_files(tmp_path, halves, inception_file):
    def fails(match, name="weights.pth"):
        with pytest.raises(DataError, match=match):
            extractors.open_extractor(str(tmp_path / name), halves[0], CPU)

    (tmp_path / "weights.pth").write_bytes(b"no weights")
    fails("is not a readable weight file")
    torch.save([1, 2], tmp_path / "weights.pth")
    fails("expected a dictionary of tensors, got list")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    fails("has not the weights of Inception-v3 as FID uses it: it has no Conv2d_1a_3x3.conv.weight")
    state = torch.load(inception_file, weights_only=True)
    torch.save({**state, "AuxLogits.fc.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    fails("it also has AuxLogits.fc.weight")
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "weights.pth")
    fails("another shape of fc.weight")
    with pytest.raises(UsageError, match=r"extractor: expected auto, digits, .* or a file of weights, got 'vgg'"):
        extractors.open_extractor("vgg", halves[0], CPU)


@pytest.mark.network
def test_efficientnet_from_its_package(halves, caplog):
    """It classifies a cat and a cup of coffee. (Its outputs equal those of the package's own network bit for bit.)"""
    caplog.set_level("INFO", "fastgan")
    extractor = extractors.open_extractor("efficientnet", halves[0], CPU)
    assert "license: Apache-2.0" in caplog.messages[0]
    assert sum(p.numel() for p in extractor.network.parameters()) == 4_652_008
    from skimage.data import chelsea, coffee

    outputs = [extractor(np.ascontiguousarray(image.transpose(2, 0, 1))[None]) for image in (chelsea(), coffee())]
    assert [int(s.logits.argmax()) for s in outputs] == CLASSES
    assert outputs[0].features.shape == (1, 1280)
    extractors.open_extractor("efficientnet", halves[0], CPU)
    assert len(caplog.messages) == 1  # the second time it is read from the cache
    path = digits.cache_dir() / "metrics" / "efficientnet-lite0-57934424.pth"
    assert extractors.open_extractor(str(path), halves[0], CPU).key == extractor.key


#: ImageNet's classes Egyptian cat and espresso.
CLASSES = [285, 967]


def test_same_padding_equals_tensorflows():
    layer = efficientnet._Same(1, 1, 3, 2, bias=False)
    layer.weight.data.fill_(1)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # even sides: only at the right and bottom
    assert torch.equal(layer(x), torch.nn.functional.conv2d(padded, layer.weight, stride=2))
    odd = torch.arange(25.0).view(1, 1, 5, 5)
    assert torch.equal(layer(odd), torch.nn.functional.conv2d(odd, layer.weight, stride=2, padding=1))


def test_digits_reports_its_accuracy(halves, digits):
    assert digits.accuracy > 0.7
    assert f"accuracy {digits.accuracy:.1%} on 500 others" in digits.about
    assert digits.dim == 256
    found = digits(halves[0].images[:1000])
    assert found.features.shape == (1000, 256)
    accuracy = float((found.logits.argmax(1).numpy() == halves[0].labels[:1000]).mean())
    assert accuracy == pytest.approx(digits.accuracy, abs=0.06)
    with pytest.raises(UsageError, match=r"was trained on images \[1, 28, 28\], got \[1, 32, 32\]"):
        digits(noise(2, 1, 32, 32))
    with pytest.raises(UsageError, match="expected uint8"):
        digits(noise(2, 1, 28, 28).astype(np.float32))


def test_digits_is_read_from_the_cache_the_second_time(halves, caplog):
    caplog.set_level("INFO", "fastgan")
    few = subset(halves[0], range(300))
    first = digits.train(few)
    again = digits.train(few)
    assert len(caplog.messages) == 1
    assert (first.key, first.accuracy) == (again.key, again.accuracy)
    (file,) = (digits.cache_dir() / "metrics").glob("digits-*")
    file.write_bytes(file.read_bytes()[:1000])
    assert digits.train(few).key == first.key
    assert len(caplog.messages) == 2
    other = subset(halves[0], range(1, 301))
    assert digits.train(other).key != first.key
    with pytest.raises(UsageError, match="is trained with labels"):
        digits.train(ImageSet(few.images, None, "mine", "none"))
    with pytest.raises(UsageError, match="at least 100 images of 2 classes, got 50"):
        digits.train(subset(few, range(50)))


def test_reference_features_are_cached(digits, halves, caplog):
    images = halves[0].images[:50].copy()
    calls = []

    class Counting(type(digits)):
        def __call__(self, images):
            calls.append(len(images))
            return super().__call__(images)

    counting = Counting(**{name: getattr(digits, name) for name in digits.__dataclass_fields__})
    first = reference_features(counting, images)
    again = reference_features(counting, images)
    assert calls == [50]
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.logits, again.logits)
    images[49, 0, 27, 27] ^= 1  # one pixel
    reference_features(counting, images)
    assert calls == [50, 50]
    path = features_path(counting, images)
    path.write_bytes(path.read_bytes()[:-100])
    reference_features(counting, images)
    assert calls == [50, 50, 50]
    assert "damaged" in caplog.messages[0]


def test_features_that_are_not_finite(halves, digits):
    network = copy.deepcopy(digits.network)
    network.classifier.layers[0].weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"the features of digits-\w+: 8 of 8 samples are NaN"):
        dataclasses.replace(digits, network=network)(halves[0].images[:8])
