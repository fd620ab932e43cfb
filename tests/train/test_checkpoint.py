import json
import os
import subprocess

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from fastgan.errors import CheckpointError
from fastgan.train import checkpoint


def parts(value):
    return {part: {"w": torch.full((3,), value)} for part in checkpoint.PARTS}


def test_the_newest_are_kept_and_load_again(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, parts(float(step)), {"images": step}, keep=2)
    assert checkpoint.steps_in(tmp_path) == [20, 30]
    folder, state = checkpoint.newest(tmp_path)
    assert (state["step"], state["images"]) == (30, 30)
    assert checkpoint.load_part(folder, "ema")["w"].tolist() == [30.0] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000020", "00000030"]  # no temporary files


FILES = [*(f"{part}.safetensors" for part in checkpoint.PARTS), "state.json", "SHA256SUMS"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog, damage, name):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, parts(float(step)), {"images": 8}, keep=2)
    victim = tmp_path / "00000002" / name
    data = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    else:
        victim.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"")
    folder, state = checkpoint.newest(tmp_path)
    assert (folder.name, state["step"]) == ("00000001", 1)
    (warning,) = caplog.messages
    assert "00000002" in warning
    # Damage in the checksums shows at a file whose checksum is missing.
    assert name in warning or (name == "SHA256SUMS" and "is damaged" in warning)
    assert "trying the one before" in warning


def test_a_checksum_protects_each_byte_of_state_and_checksums(tmp_path):
    folder = checkpoint.save(tmp_path, 1, parts(1.0), {"images": 8}, keep=1)
    for name in ("state.json", "SHA256SUMS"):
        data = (folder / name).read_bytes()
        for i in range(len(data) - 1):  # without the newline at the end
            (folder / name).write_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :])
            with pytest.raises(CheckpointError):
                checkpoint.read_state(folder)
        (folder / name).write_bytes(data)
    assert checkpoint.read_state(folder)["images"] == 8


def test_other_files_and_folders_are_skipped(tmp_path, caplog):
    checkpoint.save(tmp_path, 1, parts(1.0), {}, keep=1)
    (tmp_path / "00000002").mkdir()
    (tmp_path / "00000003").mkdir()
    (tmp_path / "00000003" / "state.json").write_text('{"step": 3}')
    (tmp_path / "00000004").write_text("a file")
    for name in ("latest", "²", "7"):
        (tmp_path / name).mkdir()
    assert checkpoint.newest(tmp_path)[1]["step"] == 1
    later, earlier = caplog.messages
    assert "00000003: SHA256SUMS is missing" in later
    assert "00000002: state.json is missing" in earlier
    checkpoint.save(tmp_path, 2, parts(2.0), {}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000004", "7", "latest", "²"]


def test_a_failed_overwrite_of_a_step_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, parts(1.0), {"images": 1}, keep=1)
    replace = os.replace

    def fail(source, target):
        if target.name == "00000001":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(CheckpointError, match=r"Input/output error.*; the checkpoint of step 1 is whole"):
        checkpoint.save(tmp_path, 1, parts(1.0), {"images": 2}, keep=1)
    assert checkpoint.newest(tmp_path)[1]["images"] == 1
    monkeypatch.undo()
    checkpoint.save(tmp_path, 1, parts(1.0), {"images": 3}, keep=1)
    assert checkpoint.newest(tmp_path)[1]["images"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_all_files_are_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    replace = os.replace
    monkeypatch.setattr(checkpoint, "sync", lambda path: events.append(("sync", path.resolve().name)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda a, b: (events.append(("rename", b.name)), replace(a, b)))
    checkpoint.save(tmp_path / "checkpoints", 1, parts(1.0), {}, keep=1)
    synced = [("sync", name) for name in (*FILES, ".00000001.part")]
    parent = ("sync", tmp_path.name)
    assert events == [parent, *synced, ("rename", "00000001"), ("sync", "checkpoints")]


def test_sha256sum_verifies_the_checksums(tmp_path):
    folder = checkpoint.save(tmp_path, 1, parts(1.0), {}, keep=1)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 5


def convert_to_version_0_1(folder):
    """Change a checkpoint to the format of version 0.1, with the checksums in state.json."""
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    state = json.loads((folder / "state.json").read_text())
    sums.pop("state.json")
    (folder / "state.json").write_text(json.dumps({**state, "sha256": sums}))
    (folder / "SHA256SUMS").unlink()


def test_a_checkpoint_of_version_0_1_loads(tmp_path):
    folder = checkpoint.save(tmp_path, 1, parts(1.0), {"images": 8}, keep=1)
    convert_to_version_0_1(folder)
    assert checkpoint.read_state(folder)["images"] == 8
    (folder / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ema.safetensors is damaged"):
        checkpoint.read_state(folder)


def test_no_whole_checkpoint_and_no_checkpoint_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.newest(tmp_path)
    checkpoint.save(tmp_path, 1, parts(1.0), {}, keep=1)
    (tmp_path / "00000001" / "generator.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint.*generator.safetensors is damaged"):
        checkpoint.newest(tmp_path)


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, parts(1.0), {}, keep=1)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(CheckpointError, match=r"checkpoint 2 could not be written.*No space left"):
        checkpoint.save(tmp_path, 2, parts(2.0), {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    assert checkpoint.read_state(tmp_path / "00000001")["step"] == 1


def test_a_full_disk_reported_by_safetensors_is_a_checkpoint_error(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, parts(1.0), {}, keep=1)
    (tmp_path / ".00000007.part").mkdir()  # left by a process that was killed

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"checkpoint 2 could not be written.*No space left"):
        checkpoint.save(tmp_path, 2, parts(2.0), {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


def test_tied_weights_can_be_saved(tmp_path):
    shared = torch.ones(3)
    folder = checkpoint.save(tmp_path, 1, {p: {"a": shared, "b": shared} for p in checkpoint.PARTS}, {}, keep=1)
    assert checkpoint.load_part(folder, "ema")["b"].tolist() == [1.0] * 3


def test_later_checkpoints_are_deleted_when_a_resumed_run_saves(tmp_path):
    for step in (3000, 4000):
        checkpoint.save(tmp_path, step, parts(float(step)), {}, keep=2)
    (tmp_path / "00004000" / "state.json").write_text("{")
    checkpoint.save(tmp_path, 3100, parts(3100.0), {}, keep=1)
    assert checkpoint.steps_in(tmp_path) == [3100]


def test_loading_another_network_fails_before_anything_changes(tmp_path):
    network = nn.Linear(3, 2)
    tensors = {part: network.state_dict() for part in checkpoint.PARTS}
    folder = checkpoint.save(tmp_path, 1, tensors, {}, keep=1)
    other = nn.Linear(4, 2)
    before = other.weight.clone()
    with pytest.raises(CheckpointError, match=r"another network: ema has \[2, 3\] for 'weight', this one has \[2, 4\]"):
        checkpoint.load_network(other, folder, "ema")
    assert torch.equal(other.weight, before)
    with pytest.raises(CheckpointError, match="this one has nothing"):
        checkpoint.load_network(nn.Linear(3, 2, bias=False), folder, "ema")


def test_optimizer_round_trip_continues_bit_for_bit(tmp_path):
    def make():
        torch.manual_seed(0)
        network = nn.Linear(4, 4)
        return network, torch.optim.Adam(network.parameters(), 0.1, fused=True)

    def steps(network, optimizer, n, start):
        for i in range(n):
            optimizer.zero_grad()
            network(torch.full((2, 4), float(start + i))).square().sum().backward()
            optimizer.step()

    whole, whole_optimizer = make()
    steps(whole, whole_optimizer, 5, 0)
    first, first_optimizer = make()
    steps(first, first_optimizer, 3, 0)
    tensors = checkpoint.optimizer_tensors(first_optimizer, "generator")
    assert all(key.startswith("generator.") for key in tensors)
    second, second_optimizer = make()
    second.load_state_dict(first.state_dict())
    checkpoint.load_optimizer(second_optimizer, tensors, "generator")
    steps(second, second_optimizer, 2, 3)
    assert torch.equal(whole.weight, second.weight)
