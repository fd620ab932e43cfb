"""Diagnoses: each rule finds its own problem, looks only at earlier rows, and finds none in a healthy run."""

import numpy as np
import pytest
import torch

from fastgan.losses.adversarial import AdversarialLoss, hinge_d, wasserstein_g
from fastgan.report.diagnostics import RULES, current, diagnoses, last_healthy_step

N = 60


def healthy(n=N):
    """Metrics as a small healthy run logs them."""
    i = np.arange(n)
    grown = 1 - 0.83 * np.exp(-i / 8)
    return {
        "step": 10 * (i + 1), "loss/discriminator": 0.9 + 0 * i, "loss/generator": 1.2 + 0 * i,
        "logit/real": 1 + 0 * i, "logit/fake": -1 + 0 * i, "auroc/real_fake": 0.9 + 0 * i,
        "gradient/generator": 2 + 0 * i, "gradient/discriminator": 1 + 0 * i, "nearest/real": 1 + 0 * i,
        "nearest/fake": 0.9 * grown, "spread/real": 1 + 0 * i, "latent/distance": 0.9 * grown,
        "range/real_min": -1 + 0 * i,
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
    "discriminator too strong": {"auroc__real_fake": 1.0, "loss__generator": 9.0, "loss__discriminator": 0.01},
    "vanishing generator gradient": {"gradient__generator": 1e-4},
    "range mismatch": {"range__real_max": 255.0},
    "overfitting discriminator": {"auroc__train_held_out": 0.9},
    "plateau": {"update__generator": 1e-7},
}


def test_a_healthy_run_has_no_diagnosis():
    assert diagnoses(rows(healthy())) == []
    assert current([]) == []


@pytest.mark.parametrize("name", CASES)
def test_each_problem_has_its_diagnosis(name):
    found = diagnoses(changed(**CASES[name]))
    assert [diagnosis.name for diagnosis in found] == [name]
    assert found[0].since == 10 * (N // 2 + 1)
    assert found == current(changed(**CASES[name]))
    sentence = found[0].sentence()
    assert sentence.startswith(f"{name} since step 310: ")
    assert "; try " in sentence
    assert "not finite" not in sentence or name == "non-finite"


def test_every_rule_has_a_case():
    assert [rule.name for rule in RULES] == list(CASES)


def test_images_of_all_latents_alike_are_a_collapse_too():
    found = diagnoses(changed(latent__distance=0.1))
    assert [diagnosis.name for diagnosis in found] == ["mode collapse"]


def test_classes_that_are_no_longer_made_are_a_collapse_too():
    columns = healthy()
    i = np.arange(N)
    columns |= {"modes/count": np.minimum(i + 1, 10), "modes/entropy": np.log(np.minimum(i + 1, 10))}
    assert diagnoses(rows(columns)) == []
    columns["modes/entropy"][40:] = np.log(3)
    columns["modes/count"][40:] = 4
    (found,) = diagnoses(rows(columns))
    assert (found.name, found.since) == ("mode collapse", 410)
    assert "; 4 classes generated, with the entropy of 3 equal ones (at most 10 before)" in found.evidence


def test_rules_look_only_at_earlier_rows():
    everything = changed(**CASES["mode collapse"])
    diagnosed = [bool(current(everything[: i + 1])) for i in range(N)]
    assert diagnosed == [i >= N // 2 + 3 for i in range(N)]  # after four rows


def test_a_problem_that_is_over_is_not_current():
    run = changed(**CASES["overfitting discriminator"]) + rows(healthy())[N // 2 :]
    for i, row in enumerate(run):
        row["step"] = i
    assert current(run) == []
    assert [(v.name, v.since, v.until) for v in diagnoses(run)] == [("overfitting discriminator", 30, 59)]


def test_last_healthy_step():
    run = changed(**CASES["mode collapse"])
    # From the first row that looks severe, although only the fourth makes a diagnosis.
    assert [last_healthy_step(run[:i]) for i in (0, 1, N // 2, N // 2 + 1, N // 2 + 3, N)] == [
        0,
        10,
        300,
        300,
        300,
        300,
    ]
    assert last_healthy_step(changed(**CASES["discriminator too strong"])) == 10 * N  # not severe
    for row in run[-3:]:
        row["nearest/fake"] = 0.9
    assert last_healthy_step(run) == 10 * N


def test_a_rollback_is_a_past_diagnosis():
    run = rows(healthy())
    past = {"name": "divergence", "since": 550, "until": 600, "evidence": "it blew up", "suggestions": ["care"]}
    run[20]["rollbacks"] = [{**past, "from_step": 600, "to_step": 210, "rates": {}}]
    (found,) = diagnoses(run)
    assert (found.name, found.since, found.until, found.suggestions) == ("divergence", 550, 600, ("care",))
    assert found.evidence == "it blew up; at step 600 the run went back to step 210"
    assert current(run) == []


def test_an_unbounded_loss_may_be_large():
    columns = healthy()
    columns["loss/discriminator"] = np.linspace(-200, -110, N)
    assert diagnoses(rows(columns), unbounded=True) == []
    assert {diagnosis.name for diagnosis in diagnoses(rows(columns))} == {"divergence"}


def test_a_users_own_loss_that_can_be_negative_still_diverges():
    """The rule takes a fact of the loss; the sign of earlier values does not switch it off."""
    own = AdversarialLoss("shifted hinge", lambda real, fake: hinge_d(real, fake) - 3, wasserstein_g)
    assert not own.unbounded
    columns = {name: values.astype(float) for name, values in healthy().items()}
    real, fake = torch.full((4,), 2.0), torch.full((4,), -2.0)
    early, late = float(own.d_loss(real, fake)), float(own.d_loss(60 * fake, fake))
    assert (early, late) == (-3, 118)  # which is less than 50 times the early size
    columns["loss/discriminator"] = np.where(np.arange(N) < N // 2, early, late)
    assert [diagnosis.name for diagnosis in diagnoses(rows(columns), own.unbounded)] == ["divergence"]
    assert [diagnosis.name for diagnosis in current(rows(columns), own.unbounded)] == ["divergence"]
    assert last_healthy_step(rows(columns)) == 10 * N // 2
    assert diagnoses(rows(columns), unbounded=True) == []


def test_rows_without_these_metrics_give_no_diagnosis():
    assert diagnoses([{"step": i, "loss/discriminator": None} for i in range(50)]) == []
