"""Fine-tuning of StyleGAN2 from networks of another resolution or label set: what is taken over and what is not."""

import logging
import re

import pytest
import torch
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
