"""Rules on figures: each finds its own trouble, looks back only, and leaves a healthy run alone."""

import numpy as np
import pytest

from fastgan.report.diagnostics import RULES, current, sound, verdicts

N = 60


def healthy(n=N):
    """Figures as a small healthy run logs them."""
    i = np.arange(n)
    grown = 1 - 0.83 * np.exp(-i / 8)
    return {
        "step": 10 * (i + 1), "loss/discriminator": 0.9 + 0 * i, "loss/generator": 1.2 + 0 * i,
        "logit/real": 1 + 0 * i, "logit/fake": -1 + 0 * i, "auroc/real_fake": 0.9 + 0 * i,
        "gradient/generator": 2 + 0 * i, "gradient/discriminator": 1 + 0 * i, "nearest/real": 1 + 0 * i,
        "nearest/fake": 0.9 * grown, "spread/real": 1 + 0 * i, "latent/ends": 0.9 * grown, "range/real_min": -1 + 0 * i,
        "range/real_max": 1 + 0 * i, "range/fake_min": -grown, "range/fake_max": grown,
        "update/generator": 1e-3 + 0 * i, "skipped/generator": 0 * i, "skipped/discriminator": 0 * i,
        "auroc/train_held_out": 0.52 + 0 * i,
    }  # fmt: skip


def rows(columns):
    return [{name: values[i].item() for name, values in columns.items()} for i in range(len(columns["step"]))]


def changed(**late):
    """A healthy run that goes wrong in its second half: name__of__column=its later value."""
    columns = {name: values.astype(float) for name, values in healthy().items()}
    for name, value in late.items():
        columns[name.replace("__", "/")][N // 2 :] = value
    return rows(columns)


CASES = {
    "non-finite": {"skipped__generator": np.arange(N // 2) + 1},
    "divergence": {"loss__discriminator": 120.0},
    "mode collapse": {"nearest__fake": 0.2},
    "discriminator too strong": {"discriminator__ranking": 1.0, "loss__generator": 9.0, "loss__discriminator": 0.01},
    "vanishing generator gradient": {"gradient__generator": 1e-4},
    "range mismatch": {"range__real_max": 255.0},
    "overfitting discriminator": {"discriminator__memory": 0.9},
    "plateau": {"update__generator": 1e-7},
}


def test_a_healthy_run_is_left_alone():
    assert verdicts(rows(healthy())) == []
    assert current([]) == []


@pytest.mark.parametrize("name", CASES)
def test_each_trouble_has_its_name(name):
    found = verdicts(changed(**CASES[name]))
    assert [verdict.name for verdict in found] == [name]
    assert found[0].since == 10 * (N // 2 + 1)
    assert found == current(changed(**CASES[name]))
    sentence = found[0].sentence()
    assert sentence.startswith(f"{name} since step 310: ")
    assert "; try " in sentence
    assert "not finite" not in sentence or name == "non-finite"


def test_every_rule_is_tried_here():
    assert [rule.name for rule in RULES] == list(CASES)


def test_images_of_all_latents_alike_are_a_collapse_too():
    found = verdicts(changed(latent__ends=0.1))
    assert [verdict.name for verdict in found] == ["mode collapse"]


def test_classes_that_are_no_longer_made_are_a_collapse_too():
    columns = healthy()
    i = np.arange(N)
    columns |= {"modes/count": np.minimum(i + 1, 10), "modes/entropy": np.log(np.minimum(i + 1, 10))}
    assert verdicts(rows(columns)) == []
    columns["modes/entropy"][40:] = np.log(3)
    columns["modes/count"][40:] = 4
    (found,) = verdicts(rows(columns))
    assert (found.name, found.since) == ("mode collapse", 410)
    assert "; 4 classes seen, as mixed as 3 even ones (once 10)" in found.evidence


def test_rules_look_back_only():
    everything = changed(**CASES["mode collapse"])
    told = [bool(current(everything[: i + 1])) for i in range(N)]
    assert told == [i >= N // 2 + 3 for i in range(N)]  # four lines in a row


def test_what_is_over_is_past():
    run = changed(**CASES["overfitting discriminator"]) + rows(healthy())[N // 2 :]
    for i, row in enumerate(run):
        row["step"] = i
    assert current(run) == []
    assert [(v.name, v.since, v.until) for v in verdicts(run)] == [("overfitting discriminator", 30, 59)]


def test_where_it_last_was_sound():
    run = changed(**CASES["mode collapse"])
    # From the first line on that looks bad, although only the fourth is a verdict.
    assert [sound(run[:i]) for i in (0, 1, N // 2, N // 2 + 1, N // 2 + 3, N)] == [0, 10, 300, 300, 300, 300]
    assert sound(changed(**CASES["discriminator too strong"])) == 10 * N  # not grave
    for row in run[-3:]:
        row["nearest/fake"] = 0.9
    assert sound(run) == 10 * N


def test_what_a_run_went_back_from_is_past():
    run = rows(healthy())
    past = {"name": "divergence", "since": 550, "until": 600, "evidence": "it blew up", "remedies": ["care"]}
    run[20]["restored"] = [{**past, "left": 600, "to": 210, "rates": {}}]
    (found,) = verdicts(run)
    assert (found.name, found.since, found.until, found.remedies) == ("divergence", 550, 600, ("care",))
    assert found.evidence == "it blew up; at step 600 the run went back to step 210"
    assert current(run) == []


def test_a_wasserstein_loss_may_be_a_large_distance():
    columns = healthy()
    columns["loss/discriminator"] = np.linspace(-200, -110, N)
    assert verdicts(rows(columns)) == []


def test_lines_without_these_figures_say_nothing():
    assert verdicts([{"step": i, "loss/discriminator": None} for i in range(50)]) == []
