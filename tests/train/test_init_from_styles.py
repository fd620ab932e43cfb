"""Fine-tuning of StyleGAN2 from networks of another resolution or label set: what is taken over and what is not."""

import json
import logging
import re

import pytest
import torch
from nvidia_pickles import EasyDict, dumps, module_of, persistent
from safetensors.torch import save_file

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.train.init_from import start_from

SMALL = {"batch": 4, "compile": "off", "steps": 1}


def made(resolution=16, classes=0, width=8, seed=0):
    torch.manual_seed(seed)
    networks = models.build(
        "stylegan2", resolution=resolution, channels=1, latent=8, width=width, classes=classes, mapping_layers=2
    )
    return Trainer(*networks, config=Config.from_flags(**SMALL))


@pytest.mark.parametrize(("resolution", "classes"), [(32, 0), (16, 3), (8, 0)])
def test_tensors_of_the_same_name_and_shape_are_taken_over_and_the_others_named(tmp_path, caplog, resolution, classes):
    source, ours = made(seed=1), made(resolution, classes)
    for network, part in ((source.generator, "generator"), (source.discriminator, "discriminator")):
        path = tmp_path / f"{part}.safetensors"
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
        mine = ours.state.networks[part]
        before, given = {n: v.clone() for n, v in mine.state_dict().items()}, network.state_dict()
        with caplog.at_level(logging.INFO, "fastgan"):
            caplog.clear()
            start_from(ours.state, path)
        line = next(record.getMessage() for record in caplog.records if "taken over" in record.getMessage())
        taken = 0
        for name, value in mine.state_dict().items():
            fits = name in given and given[name].shape == value.shape
            assert torch.equal(value, given[name] if fits else before[name])
            assert fits or name in line or re.match(r".*?b\d+", name)[0] in line
            taken += fits
        assert f"{taken} of {len(before)} tensors taken over" in line
        if resolution == 32:
            assert ("fresh: synthesis.b32" if part == "generator" else "fresh: b32") in line
    if classes:
        assert "b4.fc.weight" not in line


def test_a_whole_match_names_nothing_and_other_networks_are_refused(tmp_path, caplog):
    source, ours = made(seed=1), made()
    path = tmp_path / "g.safetensors"
    save_file({name: value.contiguous() for name, value in source.generator.state_dict().items()}, path)
    with caplog.at_level(logging.INFO, "fastgan"):
        start_from(ours.state, path)
    assert "taken over" not in caplog.text
    assert all(
        torch.equal(a, b) for a, b in zip(source.generator.parameters(), ours.generator.parameters(), strict=True)
    )
    plain = models.build("dcgan", resolution=16, channels=1, latent=8, width=4)[0]
    save_file({name: value.contiguous() for name, value in plain.state_dict().items()}, path)
    with pytest.raises(UsageError, match=r"init_from: .* holds another generator"):
        start_from(ours.state, path)


def test_a_file_with_all_networks_fills_all(tmp_path):
    source, ours = made(seed=1), made()
    path = tmp_path / "networks.pt"
    torch.save({"g_ema": source.generator.state_dict()}, path)
    start_from(ours.state, path)
    for mine in (ours.generator, ours.ema.module):
        assert all(torch.equal(a, b) for a, b in zip(source.generator.parameters(), mine.parameters(), strict=True))


def pickled(networks, path):
    """An official file of these networks, in the structure of NVIDIA's pickles."""
    classes = {"generator": "Generator", "discriminator": "Discriminator"}
    made = {}
    for name, part in (("G", "generator"), ("D", "discriminator"), ("G_ema", "generator")):
        network = networks[part]
        arguments = {n: v for n, v in network.arguments.items() if v is not None}
        made[name] = persistent(module_of(network.state_dict()), class_name=classes[part], **arguments)
    path.write_bytes(dumps(made | {"augment_pipe": None, "training_set_kwargs": EasyDict(path="set.zip")}))
    return path


@pytest.mark.parametrize(("resolution", "classes"), [(32, 3), (8, 0), (16, 3)])
def test_an_official_file_fine_tunes_on_another_resolution_and_label_set(tmp_path, caplog, resolution, classes):
    source, ours = made(seed=1), made(resolution, classes)
    path = pickled(source.state.networks, tmp_path / "official.pkl")
    before = {p: {n: v.clone() for n, v in net.state_dict().items()} for p, net in ours.state.networks.items()}
    labels = torch.arange(4) % classes if classes else None
    images = torch.rand(4, 1, resolution, resolution) * 2 - 1
    with caplog.at_level(logging.INFO, "fastgan"):
        start_from(ours.state, path)
    for part, network in ours.state.networks.items():
        given = source.state.networks[part].state_dict()
        for name, value in network.state_dict().items():
            fits = name in given and given[name].shape == value.shape
            assert torch.equal(value, given[name] if fits else before[part][name]), name
        assert any(re.match(rf"{part}: \d+ of {len(before[part])} tensors taken over, \d+% of", m)
                   for m in caplog.messages) or resolution == 8  # fmt: skip
    assert "starting from the weights of generator and ema and discriminator from" in caplog.text
    ours.fit(iter([images if labels is None else (images, labels)]))
    assert ours.step == 1


@pytest.mark.parametrize("other", ["one tensor", "another width", "small tensors"])
def test_a_file_that_shares_little_is_refused_with_the_counts(tmp_path, other):
    ours, path = made(), tmp_path / "other.safetensors"
    before = {n: v.clone() for n, v in ours.generator.state_dict().items()}
    if other == "one tensor":
        name = "synthesis.b4.conv1.weight"
        tensors = {name: ours.generator.state_dict()[name].clone(), "unrelated.weight": torch.zeros(3, 3)}
    elif other == "small tensors":  # most by their number, few by their size
        tensors = {n: v.contiguous() for n, v in ours.generator.state_dict().items()}
        largest = sorted(dict(ours.generator.named_parameters()), key=lambda n: tensors[n].numel())[-6:]
        tensors |= {name: torch.zeros(1) for name in largest}
    else:
        tensors = {n: v.contiguous() for n, v in made(width=16, seed=1).generator.state_dict().items()}
    save_file(tensors, path)
    with pytest.raises(UsageError, match=r"another generator: only \d+ of \d+ tensors of .*, [\d,]+ of [\d,]+ param"):
        start_from(ours.state, path)
    assert all(torch.equal(before[n], v) for n, v in ours.generator.state_dict().items())


def test_stylegan3_takes_over_from_other_labels_and_from_no_other_resolution(tmp_path):
    def trainer(resolution=16, classes=0, seed=0):
        torch.manual_seed(seed)
        networks = models.build(
            "stylegan3", resolution=resolution, channels=1, latent=8, width=8, classes=classes, channel_base=256
        )
        return Trainer(*networks, config=Config.from_flags(**SMALL))

    source, path = trainer(seed=1), tmp_path / "g.safetensors"
    save_file({n: v.contiguous() for n, v in source.generator.state_dict().items()}, path)
    ours = trainer(classes=3)
    start_from(ours.state, path)
    assert torch.equal(ours.generator.synthesis.L0_36_8.weight, source.generator.synthesis.L0_36_8.weight)
    assert torch.equal(ours.generator.mapping.fc1.weight, source.generator.mapping.fc1.weight)
    with pytest.raises(UsageError, match="holds another generator"):
        start_from(trainer(resolution=32).state, path)


def test_stylegan2_resumes_with_other_rates_and_images_that_have_moved(cli, images_npz, tmp_path):
    words = ["--model", "stylegan2", "--model.mapping-layers", 1, "--width", 4, "--latent", 4, "--batch", 4]
    words += ["--resolution", 8, "--steps", 2, "--compile", "off", "--checkpoint-every", 1]
    assert cli("train", "demo", "--data", images_npz, *words, "--d-norm", "none", "--out", "run").returncode == 0
    moved = images_npz.rename(tmp_path / "moved.npz")
    done = cli("train", "--resume", "run", "--steps", 3, "--data", moved, "--lr-g", "1e-4", "--lr-schedule", "linear")
    assert done.returncode == 0, done.stderr
    assert "changed from step 2 on: lr_g 0.0008 → 0.0001" in done.stderr
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["changes"] == [{"step": 2, "lr_g": [0.0008, 0.0001]}]
