"""The monitor: figures and diagnoses once a log interval, which change nothing that is trained."""

import json
import math

import pytest
import torch
from torch import nn

import fastgan
from fastgan import Config, Trainer
from fastgan.errors import CollapseError, UsageError


def networks(norm=lambda layer: layer):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    discriminator = nn.Sequential(norm(nn.Linear(2, 8)), nn.LeakyReLU(0.2), nn.Dropout(0.1), norm(nn.Linear(8, 1)))
    return generator, discriminator


def batches(seed=0):
    source = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(16, 2, generator=source)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(t):
    return torch.cat([p.flatten() for m in (t.generator, t.discriminator) for p in m.state_dict().values()])


def test_measuring_changes_nothing():
    trained = []
    for every in (1, 12):
        t = Trainer(*networks(nn.utils.parametrizations.spectral_norm), "wgan-gp", Config.from_flags(
            loss="wgan-gp", steps=12, log_every=every, compile="off"), latent_shape=(4,))  # fmt: skip
        t.fit(batches(), held_out=torch.randn(8, 2))
        trained.append(weights(t))
    assert torch.equal(*trained)


def test_figures_and_the_table_of_layers(tmp_path):
    norm = nn.utils.parametrizations.spectral_norm
    config = Config.from_flags(loss="wgan-gp", steps=4, log_every=2, sample_every=2, compile="off")
    t = Trainer(*networks(norm), "wgan-gp", config, latent_shape=(4,), out=tmp_path / "run")
    t.fit(batches(), held_out=torch.randn(8, 2))
    names = {
        "update/generator", "update/discriminator", "latent/path", "latent/distance", "gradient_norm/mean",
        "gradient_norm/deviation", "auroc/train_held_out", "auroc/real_fake", "nearest/fake", "skipped/generator",
    }  # fmt: skip
    assert all(names <= line.keys() for line in lines(tmp_path / "run"))
    table = {row["weight"]: row for row in json.loads((tmp_path / "run" / "layers.json").read_text())}
    weight = t.discriminator[3].parametrizations.weight.original.detach()
    row = table["discriminator.3.parametrizations.weight.original"]
    assert row["spectral_norm"] == pytest.approx(torch.linalg.matrix_norm(weight, 2).item(), rel=0.05)
    assert row["norm"] == pytest.approx(weight.norm().item(), rel=1e-2)
    # Adam moves each number by about its learning rate.
    size = t.config.optim.lr_d * math.sqrt(weight.numel())
    assert 0.05 * size < row["change"] * row["norm"] < 5 * size
    assert {name.split(".")[0] for name in table} == {"generator", "discriminator"}


def test_held_out_images_are_classified_in_batches():
    seen = []
    discriminator = nn.Sequential(nn.Linear(2, 1, bias=False))
    discriminator.register_forward_pre_hook(lambda module, args: None if module.training else seen.append(len(args[0])))
    t = Trainer(networks()[0], discriminator, config=Config.from_flags(steps=1, compile="off"), latent_shape=(4,))
    held_out = torch.randn(40, 2)
    last = t.fit(batches(), held_out=held_out)
    real, unseen = (discriminator(x).flatten() for x in (t.state.batch["real"], held_out))
    assert last["auroc/train_held_out"] == pytest.approx((real[:, None] > unseen[None]).float().mean().item())
    assert seen == [16, 16, 16, 8]


def test_the_auroc_is_one_where_the_discriminator_overfits():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.ones_(discriminator[0].weight)
    t = Trainer(
        networks()[0],
        discriminator,
        "hinge",
        Config.from_flags(loss="hinge", steps=1, compile="off"),
        latent_shape=(4,),
    )
    last = t.fit(iter([torch.ones(16, 2)]), held_out=-torch.ones(4, 2))
    assert last["auroc/train_held_out"] == 1.0


class Sides(nn.Module):
    """Two classes of points, left and right, and a third that no point is in. It must be in eval mode."""

    def forward(self, points):
        assert not self.training
        return torch.stack([-points[:, 0], points[:, 0], torch.full_like(points[:, 0], -1e9)], 1)


def test_a_classifier_counts_modes(tmp_path):
    t = Trainer(
        *networks(),
        config=Config.from_flags(steps=2, log_every=1, compile="off"),
        latent_shape=(4,),
        out=tmp_path / "run",
    )
    classifier = Sides()
    last = t.fit(batches(), classifier=classifier)
    assert last["modes/count"] == 2
    assert 0 < last["modes/entropy"] <= math.log(2)
    assert classifier.training  # as before
    with torch.no_grad():
        t.ema.module[-1].weight.zero_()
        t.ema.module[-1].bias.fill_(1)
    found = t.monitor.measure()
    assert (found["modes/count"], found["modes/entropy"]) == (1, 0)


class Collapsed(nn.Module):
    """Returns one image for all latents."""

    latent = 4

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.tensor([2.0, -2.0]))

    def forward(self, z):
        return self.image + 0 * z[:, :2]


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_a_collapse_is_logged_and_stops_the_run_where_asked(tmp_path, caplog, on_collapse):
    config = Config.from_flags(
        steps=60, log_every=1, sample_every=100, checkpoint_every=100, compile="off", on_collapse=on_collapse
    )
    t = Trainer(Collapsed(), networks()[1], config=config, out=tmp_path / "run")
    if on_collapse == "warn":
        t.fit(batches())
        assert t.step == 60
    else:
        with pytest.raises(CollapseError, match=r"stopped at step 34: mode collapse since step 31: .* try "):
            t.fit(batches())
        assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000034"]
    assert caplog.text.count("mode collapse since step 31") == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b>mode collapse</b>" in page
    assert 'class="band"' in page


def test_a_resumed_run_knows_its_earlier_lines(tmp_path):
    def run(steps):
        config = Config.from_flags(steps=steps, log_every=1, sample_every=100, checkpoint_every=16, compile="off")
        return Trainer(Collapsed(), networks()[1], config=config, out=tmp_path / "run")

    run(32).fit(batches())
    t = run(36)
    t.fit(batches(), resume=True)
    assert [(diagnosis.name, diagnosis.since) for diagnosis in t.monitor.diagnoses] == [("mode collapse", 31)]
    assert len(t.state.rows) == 36


def test_all_ranks_stop_where_one_does(monkeypatch):
    t = Trainer(*networks(), config=Config.from_flags(steps=9, log_every=1, compile="off"), latent_shape=(4,))
    monkeypatch.setattr(t.state.world, "any", lambda mine: mine or t.step == 3)
    with pytest.raises(CollapseError, match="stopped at step 3: another rank has found"):
        t.fit(batches())


def test_held_out_images_have_the_shape_of_the_batches():
    t = Trainer(*networks(), config=Config.from_flags(steps=1, compile="off"), latent_shape=(4,))
    with pytest.raises(UsageError, match=r"held_out: expected images like the batches', \[M, 2\], got \[8, 3\]"):
        t.fit(batches(), held_out=torch.randn(8, 3))


def test_figures_that_are_not_finite_are_left_out(tmp_path):
    t = Trainer(
        Collapsed(), networks()[1], config=Config.from_flags(steps=2, log_every=1, compile="off"), out=tmp_path / "run"
    )
    with torch.no_grad():
        t.ema.module.image.fill_(float("nan"))
    t.fit(batches())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert "latent/distance" not in json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_step_that_is_not_finite_is_a_diagnosis(tmp_path, caplog):
    bad = iter([torch.randn(4, 2), torch.full((4, 2), float("nan")), torch.randn(4, 2), torch.randn(4, 2)])
    config = Config.from_flags(steps=4, log_every=1, compile="off")
    t = Trainer(*networks(), config=config, latent_shape=(4,), out=tmp_path / "run")
    t.fit(bad)
    assert "non-finite since step 2" in caplog.text
    assert t.monitor.diagnoses == []  # it is over
    assert fastgan.Config.from_flags(on_collapse="stop").logging.on_collapse == "stop"
