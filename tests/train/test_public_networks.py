"""Runs that begin with public files of CycleGAN and CUT, and whose networks are saved as such files."""

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.models.translation import PatchDiscriminator, ResNetGenerator
from fastgan.train.init_from import start_from
from fastgan.train.public_networks import files_in

#: Names of the public code → ours.
OURS = {"G_A": "generator.a_to_b", "G_B": "generator.b_to_a", "D_A": "discriminator.b", "D_B": "discriminator.a"}


def trainer(family="cyclegan", task="unpaired"):
    torch.manual_seed(0)
    options = {"blocks": 1, "layers": 1}
    networks = models.build(family, resolution=16, channels=3, latent=1, width=4, **options)
    return Trainer(*networks, "least-squares", Config.from_flags(task=task, batch=1, model=family, width=4))


def public(kind, seed):
    torch.manual_seed(seed)
    sizes = {"blocks": 1, "width": 4} if kind is ResNetGenerator else {"layers": 1, "width": 4, "norm": "instance"}
    return kind(**sizes)


def write(folder, seed=1, names=tuple(OURS), epoch="latest"):
    """The files of the public code, bare state dicts. Returns the networks by their public names."""
    networks = {}
    for i, name in enumerate(names):
        networks[name] = public(ResNetGenerator if name[0] == "G" else PatchDiscriminator, seed + i)
        torch.save(networks[name].state_dict(), folder / f"{epoch}_net_{name}.pth")
    return networks


def equal(network, other):
    own, theirs = network.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


def part(state, name):
    root, _, child = name.partition(".")
    return state.networks[root].get_submodule(child)


def test_a_folder_of_cyclegan(tmp_path):
    write(tmp_path, seed=9, epoch="5")
    networks = write(tmp_path)
    write(tmp_path, seed=19, epoch="200")
    assert {name: path.name for name, path in files_in(tmp_path).items()} == {n: f"latest_net_{n}.pth" for n in OURS}
    state = trainer().state
    start_from(state, tmp_path)
    for name, ours in OURS.items():
        assert equal(part(state, ours), networks[name])
    assert equal(state.ema.module["b_to_a"], networks["G_B"])
    for name in OURS:
        (tmp_path / f"latest_net_{name}.pth").unlink()
    assert files_in(tmp_path)["G_A"].name == "200_net_G_A.pth"


def test_what_a_run_saves_begins_another(tmp_path):
    state = trainer().state
    for weight in [w for network in state.networks.values() for w in network.parameters()]:
        torch.nn.init.normal_(weight)
    for name, ours in OURS.items():
        models.save(part(state, ours), tmp_path / f"latest_net_{name}.pth")
    # What the public code reads: bare state dicts with its names.
    assert "model.10.conv_block.1.weight" in torch.load(tmp_path / "latest_net_G_A.pth", weights_only=True)
    models.save({name: part(state, ours) for name, ours in OURS.items()}, tmp_path / "all.pth")
    for source in (tmp_path, tmp_path / "all.pth"):
        other = trainer().state
        start_from(other, source)
        for ours in OURS.values():
            assert equal(part(other, ours), part(state, ours))


def test_one_direction_alone_and_contrastive_translation(tmp_path):
    (generator,) = write(tmp_path, names=("G_A",)).values()
    state = trainer().state
    before = state.networks["generator"]["b_to_a"].state_dict()["model.1.weight"].clone()
    start_from(state, tmp_path / "latest_net_G_A.pth")
    assert equal(state.networks["generator"]["a_to_b"], generator)
    assert equal(state.ema.module["a_to_b"], generator)
    assert torch.equal(state.networks["generator"]["b_to_a"].state_dict()["model.1.weight"], before)
    folder = tmp_path / "cut"
    folder.mkdir()
    networks = write(folder, seed=3, names=("G", "D"))
    state = trainer("cut", "contrastive").state
    start_from(state, folder)
    assert equal(state.networks["generator"]["a_to_b"], networks["G"])
    assert equal(state.networks["discriminator"], networks["D"])


def test_networks_of_another_size(tmp_path):
    torch.save(ResNetGenerator(blocks=2, width=4).state_dict(), tmp_path / "latest_net_G_A.pth")
    with pytest.raises(UsageError, match=r"init_from: .* holds another generator: .* for 'a_to_b"):
        start_from(trainer().state, tmp_path)
