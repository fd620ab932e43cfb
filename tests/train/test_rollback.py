"""A run that collapses, goes back and goes on: differently, as often as promised, and the same after a kill."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fastgan import Config, Trainer
from fastgan.errors import CollapseError, UsageError
from fastgan.report.diagnostics import SEVERE, Diagnosis
from fastgan.train import checkpoint, rundir
from fastgan.train.rollback import SLOWED

#: How loud generators hear their latents: all copies of them.
LOUDNESS = [1.0]
FIELDS = {"log_every": 1, "sample_every": 100, "checkpoint_every": 2, "keep_checkpoints": 1, "compile": "off",
          "on_collapse": "rollback"}  # fmt: skip


class Hearing(nn.Sequential):
    latent = 4

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))

    def forward(self, z):
        return 3 * super().forward(LOUDNESS[0] * z)


class Batches:
    """While batches `deaf` are given, generators are deaf: all their images are alike. At one of `killed` it ends."""

    def __init__(self, deaf=(), killed=()):
        self.deaf, self.killed, self.position = deaf, killed, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position in self.killed:
            raise OSError("killed")
        LOUDNESS[0] = 0.0 if self.position in self.deaf else 1.0
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
    return Trainer(Hearing(), discriminator, config=Config.from_flags(**FIELDS | {"steps": steps} | fields), out=out)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def content(run):
    """What must be the same however often the run was killed."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "speed/images_per_second")} for row in lines(run)]
    folder, state = checkpoint.newest(run / "checkpoints")
    parts = {part: (folder / f"{part}.safetensors").read_bytes() for part in checkpoint.PARTS}
    return {"rows": rows, "state": {**state, "seconds": 0}, **parts}


DEAF = range(20, 30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Deaf from step 21 on, for ten batches: the first time back is too early."""
    run = tmp_path_factory.mktemp("whole") / "run"
    t = trainer(run)
    batches = Batches(DEAF)
    t.fit(batches)
    return run, t, batches


def test_a_collapsed_run_goes_back_and_recovers(whole):
    run, t, batches = whole
    assert [row["step"] for row in lines(run)] == list(range(1, 41))
    assert [(past["left"], past["to"], past["since"]) for past in t.restore.history] == [(24, 20, 21)] * 2
    assert batches.position == 48  # never the same batch twice
    rates = {player: update.optimizer.param_groups[0]["lr"] for player, update in t.state.updates.items()}
    assert rates == {"generator": t.config.lr_g / 4, "discriminator": t.config.lr_d}
    assert t.images == 40 * 16
    assert t.monitor.verdicts == []
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_the_report_and_tensorboard_tell_it(whole):
    board = EventAccumulator(str(whole[0] / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss/discriminator")] == list(range(1, 41))
    page = (whole[0] / "report.html").read_text()
    assert page.count("at step 24 the run went back to step 20") == 2
    assert "<b>mode collapse</b>" in page


def test_other_random_numbers_each_time(tmp_path, monkeypatch):
    seeds = []
    t = trainer(tmp_path / "run")
    monkeypatch.setattr(t.noise, "latents", lambda n, draw=t.noise.latents: seeds.append(draw(n)) or seeds[-1])
    t.fit(Batches(DEAF))
    drawn = [z.flatten().tolist() for z in seeds]
    assert len(drawn) == len(set(map(tuple, drawn))) == 2 * 48


@pytest.mark.parametrize("killed", [(22,), (25,), (21, 26, 29, 35)])
def test_killed_and_resumed_is_never_killed(whole, tmp_path, killed):
    run, waits = tmp_path / "run", list(killed)
    while True:
        t = trainer(run)
        try:
            t.fit(Batches(DEAF, waits[:1]), resume=(run / "config.json").exists())
        except OSError:
            waits.pop(0)
            continue
        break
    assert waits == []
    mine, theirs = content(run), content(whole[0])
    for name in theirs:
        assert mine[name] == theirs[name], name
    assert (run / "report.html").read_text().count("went back to step 20") == 2


def test_killed_while_it_goes_back(whole, tmp_path, monkeypatch):
    """Its lines not yet dropped; then the replaced checkpoint there, and later ones not yet deleted."""
    run = tmp_path / "run"

    def dies(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(rundir.Metrics, "back_to", dies)
        with pytest.raises(OSError, match="killed"):
            trainer(run).fit(Batches(DEAF))
    assert checkpoint.steps_in(run / "checkpoints") == [20]
    assert len(lines(run)) == 24
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_remove", dies)
        with pytest.raises(OSError, match="killed"):
            trainer(run).fit(Batches(DEAF), resume=True)
    assert checkpoint.steps_in(run / "checkpoints") == [20, 22]
    trainer(run).fit(Batches(DEAF), resume=True)
    mine, theirs = content(run), content(whole[0])
    for name in theirs:
        assert mine[name] == theirs[name], name


def test_the_checkpoint_from_before_stays_where_others_go(tmp_path):
    kept = []

    class Watching(Batches):
        def __next__(self):
            kept.append(checkpoint.steps_in(tmp_path / "run" / "checkpoints"))
            return super().__next__()

    trainer(tmp_path / "run", 26).fit(Watching(range(20, 22)))
    # Two lines that look bad are no verdict yet; what a third and fourth would go back to must be there.
    assert kept[22:25] == [[20, 22], [20, 22], [24]]


def test_it_stops_after_three_times(tmp_path):
    t = trainer(tmp_path / "run")
    with pytest.raises(CollapseError, match=r"at step 24: mode collapse since .* it has gone back 3 times already"):
        t.fit(Batches(range(20, 100)))
    assert len(t.restore.history) == 3
    assert (tmp_path / "run" / "report.html").read_text().count("went back to step 20") == 3


def test_it_stops_where_there_is_nothing_to_go_back_to(tmp_path):
    t = trainer(tmp_path / "run", checkpoint_every=30)
    with pytest.raises(CollapseError, match="no whole checkpoint from before that"):
        t.fit(Batches(DEAF))
    with pytest.raises(UsageError, match="on_collapse: 'restore' goes back to a checkpoint, and without `out`"):
        trainer(None)


def test_a_divergence_slows_both(tmp_path, monkeypatch):
    assert set(SLOWED) == set(SEVERE)
    t = trainer(tmp_path / "run", 9)
    judge, told = t.monitor.judge, []

    def once(row, say):
        judge(row, say)
        if row["step"] == 5 and not told:
            told.append(Diagnosis("divergence", 5, 5, "made up", ("none",)))
            return told[0]
        return None

    monkeypatch.setattr(t.monitor, "judge", once)
    t.fit(Batches())
    assert t.restore.history[0]["to"] == 4
    assert t.state.updates["generator"].optimizer.param_groups[0]["lr"] == t.config.lr_g / 2
    assert t.state.updates["discriminator"].optimizer.param_groups[0]["lr"] == t.config.lr_d / 2


def test_ranks_do_as_the_first_one_says(tmp_path, monkeypatch):
    """A rank that found nothing goes back too; one that found something alone does not."""
    t = trainer(tmp_path / "run", 9)
    monkeypatch.setattr(t.world, "broadcast_", lambda tensors: tensors[0].copy_(torch.tensor([6, 1])))
    assert t.restore.decide(None) == (False, 6, "divergence")
    monkeypatch.setattr(t.world, "broadcast_", lambda tensors: tensors[0].copy_(torch.tensor([-2, 0])))
    assert t.restore.decide(Diagnosis("mode collapse", 5, 5, "", ())) == (False, None, "mode collapse")
