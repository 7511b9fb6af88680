"""Numbers made of records: accuracies, worst cases by ball, top five, the headline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import FGSM, PGD, DeepFool, Spatial, ThreatModel
from robust_jax.evaluation import harness, judging, records, reductions
from robust_jax.evaluation.attack_runs import balls
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Judge, Selection
from robust_jax.evaluation.selection import chosen_of
from robust_jax.methods import Method
from robust_jax.types import Batch
from tests import small


def test_summary_is_a_reduction_of_the_records():
    def rows(first, second):
        return {
            i: records.Record(i, 0, 0.0, 0.0, False, {
                "softmax": records.Decision(int(not a), a, [0], float(a), 1.0),
                "borda": records.Decision(int(not b), b, [int(not b), i], 0.5, 1.0),
            })
            for i, (a, b) in enumerate(zip(first, second, strict=True))
        }  # fmt: skip

    attack = AttackRun(FGSM(small.THREAT))
    wanted = Evaluation(
        attacks={"a": attack, "b": dataclasses.replace(attack, adaptive=True)},
        judges={"softmax": Judge(adaptive=False), "borda": Judge()},
        worst_of={"both": ("a", "b")},
    )
    attacked = {
        row: record._replace(
            passes=[10 * row, 4] if row else None, linf=0.1 * row, l2=row, l1=2.0 * row, l0=3 * row
        )
        for row, record in rows([True, False, False, False], [True, True, False, True]).items()
    }
    adaptive = rows([False, True, True, True], [True, True, True, False])
    adaptive[0] = adaptive[0]._replace(linf=0.5, l2=0.25)  # as a format before 6 left it
    summary = reductions.summarize(
        {
            "clean": rows([True, True, True, False], [True, False, True, True]),
            "a": attacked,
            "b": adaptive,
        },
        wanted,
        {"clean": 0.5, "a": 1.5},
    )
    assert summary["num_examples"] == 4
    assert summary["wall_seconds"] == 2.0
    assert summary["passes"] == {"a": {"forward": 20.0, "backward": 4.0, "num_images": 3}}
    # Rows 1 and 2 are right clean and fall under a, row 0 under b.
    assert summary["distances"] == {
        "a": {"num_images": 2, "linf": pytest.approx(0.15), "l2": 1.5, "l1": 3.0, "l0": 4.5},
        "b": {"num_images": 1, "linf": 0.5, "l2": 0.25, "l1": None, "l0": None},
    }
    assert summary["clean_accuracy"] == 0.75
    assert summary["robust_accuracy"] == {"a": 0.25}
    assert summary["worst_case_accuracy"] == {"linf eps 0.1": 0.25}
    borda = summary["judges"]["borda"]
    assert borda["robust_accuracy"] == {"a": 0.5, "b": 0.5}
    assert borda["worst_case_accuracy"] == {"linf eps 0.1": 0.25}
    assert borda["worst_of"]["both"] == 0.25
    assert borda["given_clean_correct"] == {"a": 2 / 3, "b": 2 / 3}
    # The softmax network falls on rows 1 and 2 under a, of which Borda has the first right.
    assert borda["successes"]["a"] == {"count": 2, "accuracy": 0.5}
    assert borda["single_draw"]["a"] == 0.5
    # Every row was right for one of the judges, so all were attacked.
    assert borda["top5_accuracy"] == {"clean": 0.75, "a": 0.75, "b": 0.75}
    low, high = summary["intervals"]["clean_accuracy"]
    assert 0 < low < 0.75 < high < 1


@pytest.mark.slow
def test_of_one_member_at_random_all_is_counted():
    """Three members that say class 0, 1 and 1 + the image's number."""

    def members(variables, images, /, *, key=None):
        del variables, key
        third = jax.nn.one_hot(1 + images[:, 0, 0, 0].astype(int), 3)
        first, second = (jnp.broadcast_to(jnp.eye(3)[n], third.shape) for n in (0, 1))
        return jnp.stack([first, second, third])

    def predict(variables, images, /, *, key=None):
        return members(variables, images).mean(axis=0)

    views = {"deployed": predict, "members": members}
    method = Method(lambda **_: {}, lambda **_: None, predict, views)
    judges = {"vote": Judge(), "one": Judge(view="members", rule="paper")}
    wanted = Evaluation(judges=judges, adversary=Adversary(skip_misclassified=False))
    images = jnp.zeros((60, 1, 1, 1)).at[30:].set(1)
    batch = Batch(images, jnp.ones(60, int), jnp.ones(60, bool), jnp.arange(60))
    decide = jax.jit(judging.panel(method, judges, seed=0, num_submissions=100))
    judged = judging.Judgement(decide({}, batch, images), *jnp.zeros((5, 60)), images)
    rows = {row.index: row for row in harness.records_of(batch, judged, "clean")}
    one = reductions.summarize({"clean": rows}, wanted)["judges"]["one"]
    # Two of three are right on the first half, one on the other; the one that decides is drawn.
    assert one["single_draw"]["clean"] == pytest.approx(1 / 2, abs=1e-6)
    assert 0.35 < one["clean_accuracy"] < 0.65
    ten = 1 - ((2 / 3) ** 10 + (1 / 3) ** 10) / 2
    assert one["submissions"]["10"]["clean"] == pytest.approx(ten, abs=1e-5)
    drawn = [rows[i].decisions["one"].prediction for i in range(30, 60)]
    assert {*drawn} == {0, 1, 2}
    again = decide({}, jax.tree.map(lambda leaf: leaf[30:], batch), images[30:])
    assert again["one"].prediction.tolist() == drawn  # a row's own draw, whatever the batch
    # Where members are drawn themselves theirs is an estimate, whose powers say nothing.
    half = rows[0].decisions["vote"]._replace(share_correct=0.5)
    rows[0] = rows[0]._replace(decisions=rows[0].decisions | {"vote": half})
    assert reductions.summarize({"clean": rows}, wanted)["judges"]["one"]["submissions"] == {}
    with pytest.raises(ValueError, match="Expected rule='honest' to be 'paper'"):
        Judge(view="members")
    with pytest.raises(ValueError, match="skip_misclassified=True to be False: judge 'one'"):
        Evaluation({"fgsm": AttackRun(FGSM(small.THREAT))}, judges)


def test_balls_of_one_norm_nest_and_hold_no_attack_without_a_bound():
    small_ball, ball, other = (
        ThreatModel(*at) for at in (("linf", 0.1), ("linf", 0.2), ("l2", 1.0))
    )
    attacks = {
        "far": FGSM(ball),
        "l2": PGD(other),
        "near": FGSM(small_ball),
        "nearest": DeepFool(),
        "nearest_within": DeepFool().within(0.5),
        "turned": Spatial(),
    }
    wanted = Evaluation(attacks={name: AttackRun(attack) for name, attack in attacks.items()})
    assert {str(ball): names for ball, names in balls(wanted.attacks).items()} == {
        "linf eps 0.1": ["near"],
        "linf eps 0.2": ["far", "near"],
        "l2 eps 0.5": ["nearest_within"],
        "l2 eps 1": ["l2", "nearest_within"],
    }
    # Each attack breaks one image; an unbounded one all.
    broken = {"far": [0], "l2": [1], "near": [2], "nearest_within": [3]}
    rows = {
        name: {
            row: records.Record(row, 0, 0.0, 0.0, False, {
                "accuracy": records.Decision(0, row not in broken.get(name, range(5)), [0], 1.0)
            })
            for row in range(5)
        }
        for name in attacks
    }  # fmt: skip
    rows["clean"] = dict.fromkeys(range(5), rows["near"][0])
    assert reductions.summarize(rows, wanted)["worst_case_accuracy"] == {
        "linf eps 0.1": 0.8, "linf eps 0.2": 0.6, "l2 eps 0.5": 0.8, "l2 eps 1": 0.6,
    }  # fmt: skip


def test_top5_of_an_attack_that_left_images_out_is_none():
    def rows(top5):
        decided = {"accuracy": [records.Decision(t[0], t[0] == 0, t, 1.0) for t in top5]}
        return {
            i: records.Record(i, 0, 0.0, 0.0, False, {n: d[i] for n, d in decided.items()})
            for i in range(len(top5))
        }

    clean, attacked = rows([[0, 1], [1, 0]]), rows([[1, 2], [1, 0]])
    wanted = Evaluation(attacks={"a": AttackRun(FGSM(small.THREAT))})
    for skip, found in ((True, None), (False, 0.5)):
        config = dataclasses.replace(wanted, adversary=Adversary(skip_misclassified=skip))
        summary = reductions.summarize({"clean": clean, "a": attacked}, config)
        assert summary["judges"]["accuracy"]["top5_accuracy"] == {"clean": 1.0, "a": found}


def test_the_headline_is_the_protocols_first_judge():
    """Whatever order decisions have: jit sorts them by name."""

    def record(row, **right):
        decisions = {
            judge: records.Decision(0, found, [0], float(found)) for judge, found in right.items()
        }
        return records.Record(row, 0, 0.0, 0.0, False, decisions)

    clean = {0: record(0, a=True, z=False), 1: record(1, a=False, z=True)}
    judges = {"z": Judge(), "a": Judge()}
    selection = Selection(rule="correct")
    assert chosen_of(selection, np.arange(2), {"clean": clean}, judges).tolist() == [1]
    with pytest.raises(ValueError, match="unpack"):
        clean[0].headline()
