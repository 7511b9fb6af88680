"""Suites attack what the harness gives them: what their view has wrong may be right elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, voting
from robust_jax.attacks import APGD, MORA, Suite, ThreatModel, as_view
from robust_jax.evaluation import AttackRun, Evaluation, Judge, Model
from robust_jax.evaluation.protocol import Adversary
from robust_jax.runtime import sharding

THREAT = ThreatModel("linf", 0.1)
APGD_ALONE = APGD(THREAT, num_steps=5)
KEY = jax.random.key(0)
IMAGES, LABELS = np.full((8, 4, 4, 1), 0.5, np.float32), np.zeros(8, int)


def bright(above, sure=20.0):
    """The logits of a network that says 0 where the mean pixel is brighter than that."""

    def logits(images):
        score = sure * (jnp.mean(images, axis=(1, 2, 3)) - above)
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    return logits


def robust(model, attack, **fields):
    sources = fields.pop("sources", None)
    runs = {name: AttackRun(one, **fields.pop(name, {})) for name, one in attack.items()}
    wanted = Evaluation(runs, batch_size=8, sanity=False, measures={}, **fields)
    mesh = sharding.make_mesh(1)
    return evaluation.run(model, (IMAGES, LABELS), wanted, mesh=mesh, sources=sources).summary


@pytest.mark.slow
def test_what_the_source_has_wrong_is_transferred_too():
    model = Model.of(bright(0.45), num_classes=2)
    source = Model.of(bright(0.6), num_classes=2, name="source")
    rows = {"alone": APGD_ALONE, "suite": Suite(THREAT, attacks=(APGD_ALONE,))}
    found = robust(model, rows, alone={"source": "s"}, suite={"source": "s"}, sources={"s": source})
    assert found["clean_accuracy"] == 1
    assert found["robust_accuracy"] == {"alone": 0, "suite": 0}


@pytest.mark.slow
def test_one_member_is_attacked_where_the_mean_is_wrong():
    def members(images):
        return jnp.stack([bright(0.8)(images), bright(0.45)(images)])

    model = Model.of(
        lambda images: voting.logits(members(images), "mean_probability"),
        num_classes=2, members=members, vote="mean_probability",
    )  # fmt: skip
    judges = {"accuracy": Judge(), "one member": Judge(view="members", rule="paper")}
    adversary = Adversary(skip_misclassified=False)
    suite = {"suite": Suite(THREAT, attacks=(APGD_ALONE,))}
    found = robust(model, suite, judges=judges, adversary=adversary)
    draws = found["judges"]["one member"]["single_draw"]
    assert draws == {"clean": pytest.approx(0.5), "suite": 0}


@pytest.mark.slow
def test_a_vote_is_attacked_where_the_mean_is_wrong():
    """Two members of three are right, and the third is wrong and sure."""

    def members(images):
        return jnp.stack([bright(0.45)(images), bright(0.45)(images), bright(0.7, 200.0)(images)])

    mora = MORA(THREAT, rule="voting", num_steps=10, num_targets=0, mixtures=(0.5,))
    report = Suite(THREAT, attacks=(mora,)).report(as_view(members), IMAGES, LABELS, key=KEY)
    assert not report.standing.any()
    votes = voting.scores(members(jnp.asarray(report.images)), "majority_lowest_class")
    assert jnp.argmax(votes, axis=1).tolist() == [1] * 8
    alone = Suite(THREAT, attacks=(APGD_ALONE,)).report(as_view(members), IMAGES, LABELS, key=KEY)
    assert alone.fallen_to.tolist() == [-2] * 8  # by what APGD goes by they have
