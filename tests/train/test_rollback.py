"""Rollback after a collapse: other random numbers, lower learning rates, at most three times, and resumable."""

import hashlib
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fastgan import Config, Trainer
from fastgan.errors import CollapseError, UsageError
from fastgan.report.diagnostics import SEVERE, Diagnosis
from fastgan.train import checkpoint, rollback
from fastgan.train.logging import Metrics
from fastgan.train.rollback import SLOWED

#: By which all copies of the generator multiply their latents; 0 makes all their images alike.
LATENT_SCALE = [1.0]
FIELDS = {"log_every": 1, "sample_every": 100, "checkpoint_every": 2, "keep_checkpoints": 1, "compile": "off",
          "on_collapse": "rollback"}  # fmt: skip


class Scaled(nn.Sequential):
    latent = 4

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))

    def forward(self, z):
        return 3 * super().forward(LATENT_SCALE[0] * z)


class Batches:
    """While batches `collapsed` are given, the latent scale is 0. At a batch of `killed` it raises OSError."""

    def __init__(self, collapsed=(), killed=()):
        self.collapsed, self.killed, self.position = collapsed, killed, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position in self.killed:
            raise OSError("killed")
        LATENT_SCALE[0] = 0.0 if self.position in self.collapsed else 1.0
        batch = torch.randn(16, 2, generator=torch.Generator().manual_seed(self.position))
        self.position += 1
        return batch

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def trainer(out, steps=40, **fields):
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return Trainer(Scaled(), discriminator, config=Config.from_flags(**FIELDS | {"steps": steps} | fields), out=out)


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def content(run):
    """What must be the same however often the run was killed."""
    measured = ("seconds", "speed/images_per_second", "memory/peak_gb")
    rows = [{k: v for k, v in row.items() if k not in measured} for row in rows_of(run)]
    folder, state = checkpoint.newest(run / "checkpoints")
    parts = {part: (folder / f"{part}.safetensors").read_bytes() for part in checkpoint.PARTS}
    return {"rows": rows, "state": {**state, "seconds": 0}, **parts}


COLLAPSED = range(20, 30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Collapsed from step 21 on, for ten batches: after the first rollback it collapses again."""
    run = tmp_path_factory.mktemp("whole") / "run"
    t = trainer(run)
    batches = Batches(COLLAPSED)
    t.fit(batches)
    return run, t, batches


def test_a_collapsed_run_rolls_back_and_recovers(whole):
    run, t, batches = whole
    assert [row["step"] for row in rows_of(run)] == list(range(1, 41))
    assert [(past["from_step"], past["to_step"], past["since"]) for past in t.state.rollbacks] == [(24, 20, 21)] * 2
    assert batches.position == 48  # never the same batch twice
    rates = {name: update.optimizer.param_groups[0]["lr"] for name, update in t.state.updates.items()}
    assert rates == {"generator": t.config.optim.lr_g / 4, "discriminator": t.config.optim.lr_d}
    assert t.state.images == 40 * 16
    assert t.monitor.diagnoses == []
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_the_report_and_tensorboard_show_the_rollbacks(whole):
    events = EventAccumulator(str(whole[0] / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/discriminator")] == list(range(1, 41))
    page = (whole[0] / "report.html").read_text()
    assert page.count("at step 24 the run went back to step 20") == 2
    assert "<b>mode collapse</b>" in page


def test_each_rollback_goes_on_with_other_random_numbers(tmp_path, monkeypatch):
    drawn = []
    t = trainer(tmp_path / "run")
    normal = t.state.random.normal
    monkeypatch.setattr(t.state.random, "normal", lambda *shape: drawn.append(normal(*shape)) or drawn[-1])
    t.fit(Batches(COLLAPSED))
    latents = [z.flatten().tolist() for z in drawn]
    # Two an iteration; the first two are also drawn, and drawn again, to prepare the run.
    assert latents[:2] == latents[2:4]
    assert len(latents) - 2 == len(set(map(tuple, latents))) == 2 * 48


@pytest.mark.parametrize("killed", [(22,), (25,), (21, 26, 29, 35)])
def test_killed_and_resumed_is_never_killed(whole, tmp_path, killed):
    run, waits = tmp_path / "run", list(killed)
    while True:
        t = trainer(run)
        try:
            t.fit(Batches(COLLAPSED, waits[:1]), resume=(run / "config.json").exists())
        except OSError:
            waits.pop(0)
            continue
        break
    assert waits == []
    found, expected = content(run), content(whole[0])
    for name in expected:
        assert found[name] == expected[name], name
    assert (run / "report.html").read_text().count("went back to step 20") == 2


def test_killed_during_a_rollback(whole, tmp_path, monkeypatch):
    """Before its lines are dropped; then with the replaced checkpoint written and later ones not yet deleted."""
    run = tmp_path / "run"

    def fail(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "back_to", fail)
        with pytest.raises(OSError, match="killed"):
            trainer(run).fit(Batches(COLLAPSED))
    assert checkpoint.steps_in(run / "checkpoints") == [20]
    assert len(rows_of(run)) == 24
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_remove", fail)
        with pytest.raises(OSError, match="killed"):
            trainer(run).fit(Batches(COLLAPSED), resume=True)
    assert checkpoint.steps_in(run / "checkpoints") == [20, 22]
    trainer(run).fit(Batches(COLLAPSED), resume=True)
    found, expected = content(run), content(whole[0])
    for name in expected:
        assert found[name] == expected[name], name


def test_the_checkpoint_before_a_suspected_collapse_is_kept(tmp_path):
    kept = []

    class Recording(Batches):
        def __next__(self):
            kept.append(checkpoint.steps_in(tmp_path / "run" / "checkpoints"))
            return super().__next__()

    trainer(tmp_path / "run", 26).fit(Recording(range(20, 22)))
    # Two lines that look bad are no diagnosis yet; the checkpoint that a third and fourth would go back to must stay.
    assert kept[22:25] == [[20, 22], [20, 22], [24]]


def test_it_stops_after_three_rollbacks(tmp_path):
    t = trainer(tmp_path / "run")
    with pytest.raises(CollapseError, match=r"at step 24: mode collapse since .* it has gone back 3 times already"):
        t.fit(Batches(range(20, 100)))
    assert len(t.state.rollbacks) == 3
    assert (tmp_path / "run" / "report.html").read_text().count("went back to step 20") == 3


def test_it_stops_without_a_checkpoint_from_before(tmp_path):
    t = trainer(tmp_path / "run", checkpoint_every=30)
    with pytest.raises(CollapseError, match="no whole checkpoint from before that"):
        t.fit(Batches(COLLAPSED))
    with pytest.raises(UsageError, match="on_collapse: 'rollback' goes back to a checkpoint, and without `out`"):
        trainer(None)


def test_a_divergence_lowers_both_learning_rates(tmp_path, monkeypatch):
    assert set(SLOWED) == set(SEVERE)
    t = trainer(tmp_path / "run", 9)
    diagnose, found = t.monitor.diagnose, []

    def once(row):
        diagnose(row)
        if row["step"] == 5 and not found:
            found.append(Diagnosis("divergence", 5, 5, "made up", ("none",)))
            return found[0]
        return None

    monkeypatch.setattr(t.monitor, "diagnose", once)
    t.fit(Batches())
    assert t.state.rollbacks[0]["to_step"] == 4
    assert t.state.updates["generator"].optimizer.param_groups[0]["lr"] == t.config.optim.lr_g / 2
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == t.config.optim.lr_d / 2


def test_all_ranks_follow_the_decision_of_rank_0(tmp_path, monkeypatch):
    """A rank that found nothing goes back too; one that found something alone does not."""
    t = trainer(tmp_path / "run", 9)
    monkeypatch.setattr(t.state.world, "broadcast_", lambda tensors: tensors[0].copy_(torch.tensor([6, 1])))
    assert rollback.decide(t.state, None) == (False, 6, "divergence")
    monkeypatch.setattr(t.state.world, "broadcast_", lambda tensors: tensors[0].copy_(torch.tensor([-2, 0])))
    assert rollback.decide(t.state, Diagnosis("mode collapse", 5, 5, "", ())) == (False, None, "mode collapse")


def test_rollbacks_of_an_older_version_are_restored(tmp_path):
    """Their names in state.json were others; the learning rates that they lowered stay lowered."""
    trainer(tmp_path / "run", 2).fit(Batches())
    folder, state = checkpoint.newest(tmp_path / "run" / "checkpoints")
    past = {"name": "mode collapse", "since": 1, "step": 2, "evidence": "made up", "remedies": ["none"],
            "left": 2, "to": 1, "rates": {"generator": 0.5, "discriminator": 1.0}}  # fmt: skip
    state = {name: value for name, value in state.items() if name != "rollbacks"} | {"restored": [past]}
    (folder / "state.json").write_text(json.dumps(state))
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    sums = [f"{digest}  state.json" if line.endswith("state.json") else line for line in sums]
    (folder / "SHA256SUMS").write_text("".join(f"{line}\n" for line in sums))
    t = trainer(tmp_path / "run", 4)
    t.fit(Batches(), resume=True)
    (found,) = t.state.rollbacks
    assert (found["from_step"], found["to_step"], found["suggestions"]) == (2, 1, ["none"])
    assert t.state.updates["generator"].optimizer.param_groups[0]["lr"] == t.config.optim.lr_g / 2
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == t.config.optim.lr_d
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[1]["rollbacks"] == t.state.rollbacks
