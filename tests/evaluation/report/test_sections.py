"""Which rows are one curve, and pages of evaluations in which little is left."""

import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.evaluation import AttackRun, Evaluation, Judge, Model
from robust_jax.evaluation.records import Decision, Record
from robust_jax.evaluation.report import sections

IMAGES = np.random.default_rng(0).integers(65, size=(12, 4, 4, 1)).astype(np.float32) / 64
LABELS = (IMAGES.mean((1, 2, 3)) < 0.5).astype(np.int32)
NEAR, FAR = (ThreatModel("linf", eps) for eps in (0.01, 0.02))


def scores(images):
    mean = jnp.mean(images, axis=(1, 2, 3)) - 0.5
    return jnp.stack([mean, -mean], axis=1)


def judged(attacks, function=scores, **fields):
    asked = Evaluation(attacks, batch_size=12, sanity=False, measures={}, **fields)
    return evaluation.run(Model.of(function, num_classes=2), (IMAGES, LABELS), asked)


def curves(attacks):
    """Returns the curves' names and radii, of images that all stand."""
    decisions = {"accuracy": Decision(0, True, [0], 1.0)}
    rows = {row: Record(row, 0, 0.0, 0.0, False, decisions) for row in range(8)}
    found = sections._accuracy_over_eps(
        attacks, dict.fromkeys(("clean", *attacks), rows), "accuracy"
    )
    return [(title, eps) for _, rows in found for title, eps, _ in rows]


@pytest.mark.parametrize(
    "other",
    [
        AttackRun(PGD(FAR, num_steps=3)),
        AttackRun(PGD(FAR, num_steps=2), eot_samples=2),
        AttackRun(PGD(FAR, num_steps=2, step_size=0.001)),
        AttackRun(FGSM(FAR)),
        AttackRun(PGD(ThreatModel("l2", 0.1), num_steps=2)),
    ],
)
def test_rows_of_other_settings_are_no_curve(other):
    assert curves({"near": AttackRun(PGD(NEAR, num_steps=2)), "other": other}) == []


def test_rows_that_differ_in_the_radius_are_one():
    attacks = {f"short {t.eps}": AttackRun(PGD(t, num_steps=2)) for t in (NEAR, FAR)}
    attacks |= {f"step {t.eps}": AttackRun(PGD(t, num_steps=2, step_size=t.eps / 4))
                for t in (NEAR, FAR)}  # fmt: skip
    found = curves(attacks)
    titles = list(dict.fromkeys(title for title, _ in found))
    assert titles == [
        f"PGD, num_steps 2, num_restarts 1, on deployed, cross_entropy ({name} 0.01)"
        for name in ("short", "step")
    ]
    assert [eps for title, eps in found if title == titles[0]] == [
        "linf 0/255", "linf 2.55/255", "linf 5.1/255",
    ]  # fmt: skip


def test_rows_of_one_step_size_are_a_curve():
    """As `over_radii` makes them of an attack whose step size is given."""
    run = AttackRun(PGD(NEAR, num_steps=2, step_size=0.004))
    found = curves(run.over_radii("pgd", eps=(0.01, 0.02, 0.04)))
    assert [eps for _, eps in found] == [
        "linf 0/255", "linf 2.55/255", "linf 5.1/255", "linf 10.2/255",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_curve_is_of_what_the_judge_counts(adaptive, tmp_path):
    attacks = {str(t.eps): AttackRun(FGSM(t), adaptive=adaptive) for t in (NEAR, FAR)}
    judges = {"paper": Judge(rule="paper", adaptive=False)}
    judged(attacks, judges=judges).report(tmp_path / "page.html")
    assert ("Accuracy over eps" in (tmp_path / "page.html").read_text()) != adaptive


@pytest.mark.slow
def test_a_page_without_any_number(tmp_path):
    """Of a model that answers NaN to all that it has not seen."""

    def broken(images):
        seen = jnp.all(64 * images == jnp.round(64 * images), axis=(1, 2, 3))
        return jnp.where(seen[:, None], scores(images), jnp.nan)

    result = judged({"fgsm": AttackRun(FGSM(FAR))}, broken)
    assert result.summary["robust_accuracy"]["fgsm"] == 0
    result.report(tmp_path / "page.html")
    assert "fgsm: all scores are NaN" in (tmp_path / "page.html").read_text()
