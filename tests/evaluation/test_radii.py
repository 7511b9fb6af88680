"""Rows of several radii: one program, numbers that do not rise, files that go on."""

import dataclasses
import json

import jax
import pytest

from robust_jax import evaluation, serialization
from robust_jax.attacks import APGD, BIM, FGSM, DeepFool, ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import claims, records, reductions
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.protocol import Evaluation, Judge
from robust_jax.evaluation.record import Decision, Record
from robust_jax.evaluation.sanity import probes
from robust_jax.runtime import sharding
from tests import small
from tests.compilations import count_compilations

EPS = (0.02, 0.05, 0.1)
ATTACK = BIM(small.THREAT, num_steps=2)
ROWS = AttackRun(ATTACK).over_radii("bim", eps=EPS)


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def model(data):
    method = small.config().method.make(data.task)
    variables, _ = small.trained(method, data, num_steps=30)
    return method, variables


def evaluated(model, data, attacks, directory=None, compiled=None):
    method, variables = model
    wanted = dataclasses.replace(small.config().evaluation, attacks=attacks)
    mesh = sharding.make_mesh(1)
    evaluator = evaluation.make_evaluator(method, wanted, mesh)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    found = {}

    def run():
        found.update(evaluation.evaluate(evaluator, variables, data.test, directory=directory))

    number = count_compilations(run)
    if compiled is not None:
        compiled.append(number)
    return found, reductions.summarize(found, wanted)


@pytest.mark.slow
def test_rows_of_several_radii(model, data, tmp_path):
    compiled = []
    alone = {name: dataclasses.replace(run, after=None) for name, run in ROWS.items()}
    first = next(iter(ROWS))
    evaluated(model, data, {first: ROWS[first]}, compiled=compiled)
    found, summary = evaluated(model, data, ROWS, tmp_path, compiled)
    assert compiled[1] <= compiled[0]
    shares = list(summary["robust_accuracy"].values())
    assert summary["clean_accuracy"] > shares[0] > shares[1] > shares[2] > 0
    cold = evaluated(model, data, alone)[1]["robust_accuracy"]
    for name, share in summary["robust_accuracy"].items():
        assert share <= cold[name]
        lines = (tmp_path / "records" / f"{name}.jsonl").read_text().splitlines()
        attacked = [json.loads(line)["index"] for line in lines]
        assert len(attacked) == summary["passes"][name]["num_images"]
        before = ROWS[name].after or "clean"
        right = [row for row, record in found[before].items() if record.headline().correct]
        assert attacked == right
        carried = [row for row in found[name] if row not in right]
        assert all(found[name][row].linf == found[before][row].linf for row in carried)
    # Stopped in the middle, and asked for a further radius.
    middle = tmp_path / "records" / f"{list(ROWS)[1]}.jsonl"
    middle.write_text("".join(middle.read_text().splitlines(keepends=True)[:40]))
    (tmp_path / "records" / f"{list(ROWS)[2]}.jsonl").unlink()
    more = AttackRun(ATTACK).over_radii("bim", eps=(*EPS, 0.12))
    again, _ = evaluated(model, data, more, tmp_path)
    assert {name: again[name] for name in found} == found


def test_a_larger_ball_keeps_what_a_judge_has_wrong():
    right, wrong = Decision(1, True, [1], 1.0), Decision(2, False, [2], 0.0)
    before = Record(0, 1, 0.1, 0.5, True, {"a": right, "b": wrong}, passes=[3, 2], l1=1.0, l0=2)
    after = Record(
        0, 1, 0.2, 0.9, False, {"a": wrong, "b": right}, passes=[4, 3], l1=1.5, l0=3
    )  # fmt: skip
    both = after._replace(decisions={"a": wrong, "b": wrong})
    assert before.in_a_larger_ball(after, "ab") == both
    # The change is that of the image which the first judge has wrong.
    assert before.in_a_larger_ball(after, "ba") == both._replace(linf=0.1, l2=0.5, l1=1.0, l0=2)
    assert before.in_a_larger_ball(None, "ab") == before._replace(passes=None)
    drawn = before._replace(decisions={"a": right, "b": wrong._replace(share_correct=0.4)})
    shares = [drawn.in_a_larger_ball(after, "ab").decisions["b"].share_correct]
    weaker = after._replace(decisions={"a": wrong, "b": right._replace(share_correct=0.3)})
    shares.append(drawn.in_a_larger_ball(weaker, "ab").decisions["b"].share_correct)
    assert shares == [0.4, 0.3]  # the worse image of the two


def test_draws_of_what_was_not_attacked():
    """Clean and wrong: not robust. Fallen in a smaller ball: nobody knows."""
    ball, run = small.THREAT, AttackRun(FGSM(small.THREAT))
    wide = dataclasses.replace(run, attack=FGSM(ThreatModel("linf", 2 * ball.eps)), after="small")
    wanted = Evaluation({"small": run, "wide": wide})

    def record(row, correct, share):
        decision = Decision(int(not correct), correct, [0], share, 1.0)
        return Record(row, 0, 0.0, 0.0, False, {"accuracy": decision})

    clean = {0: record(0, True, 1.0), 1: record(1, False, 0.4), 2: record(2, True, 0.8)}
    attacked = {0: record(0, True, 0.9), 2: record(2, False, 0.3)}
    found = {"clean": clean, "small": records.with_skipped(run, clean, attacked, wanted.judges)}
    found["wide"] = records.with_skipped(
        wide, found["small"], {0: record(0, True, 0.7)}, wanted.judges
    )
    numbers = reductions.of_judge(found, wanted, "accuracy")
    assert numbers["single_draw"] == {
        "clean": pytest.approx(2.2 / 3), "small": pytest.approx(1.2 / 3), "wide": None
    }  # fmt: skip
    submitted = numbers["submissions"]["10"]
    assert submitted["small"] == pytest.approx(1 - 0.9**10 / 3, abs=0.03)
    assert submitted.keys() == {"clean", "small"}
    assert numbers["top5_accuracy"]["wide"] is None
    # Where nothing is drawn what fell has fallen.
    found["small"][2] = found["wide"][2] = record(2, False, 0.0)
    numbers = reductions.of_judge(found, wanted, "accuracy")
    assert numbers["single_draw"]["wide"] == pytest.approx(0.7 / 3)


def test_claims_hold_a_row_against_those_it_goes_on_from():
    wanted = Evaluation(attacks=ROWS)
    names = list(ROWS)
    description = {
        "name": "a", "step": 1, "weights": "0", "method": {}, "sources": {}, "data": "abc",
        "evaluation": serialization.to_json(wanted),
    }  # fmt: skip
    files = claims.files(description)
    for number, name in enumerate(names):
        claimed = files[f"records/{name}"]["evaluation"]["attacks"]
        assert list(claimed) == names[: number + 1]
    assert serialization.from_json(Evaluation, serialization.to_json(wanted)) == wanted
    assert wanted.reduced().attacks[names[2]].after == names[1]
    assert wanted.descriptions[names[1]].endswith(f"on deployed, after {names[0]}")


def test_what_goes_on_from_what_is_checked():
    run = AttackRun(APGD(ThreatModel("linf", 0.1)))
    with pytest.raises(ValueError, match="to be radii that rise"):
        run.over_radii("a", eps=[0.2, 0.1])
    with pytest.raises(ValueError, match="to be one inside a ball"):
        AttackRun(DeepFool()).over_radii("a", eps=[0.1])
    smaller = AttackRun(FGSM(ThreatModel("linf", 0.05)))
    for rows, message in (
        ({"a": dataclasses.replace(run, after="b"), "b": smaller}, "to be a row above it"),
        ({"a": run, "b": dataclasses.replace(smaller, after="a")}, "a ball inside its own"),
        ({"a": AttackRun(DeepFool()), "b": dataclasses.replace(smaller, after="a")}, "None and"),
        (
            {
                "a": AttackRun(FGSM(ThreatModel("l2", 0.05))),
                "b": dataclasses.replace(smaller, after="a"),
            },
            "inside its own",
        ),
        (
            {"a": smaller, "b": dataclasses.replace(run, after="a", adaptive=True)},
            "Expected adaptive=True of 'b'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Evaluation(attacks=rows)
    another = {"a": smaller, "b": dataclasses.replace(run, after="a")}
    assert Evaluation(attacks=another, judges={"x": Judge()}).attacks == another


def test_what_fooled_a_view_in_a_smaller_ball_fooled_it():
    """One view of one network: what fooled another says nothing of it."""
    wide = ThreatModel("linf", 2 * small.THREAT.eps)
    decisions = {"accuracy": Decision(0, True, [0], 1.0)}
    records_of = {
        name: {0: Record(0, 0, 0.0, 0.0, fooled, decisions)}
        for name, fooled in (("small", True), ("wide", False))
    }
    for view, source, fooled in (
        ("deployed", None, True), ("noise_off", None, False), ("deployed", "near", False),
    ):  # fmt: skip
        attacks = {
            "small": AttackRun(FGSM(small.THREAT), view=view, source=source),
            "wide": AttackRun(FGSM(wide), after="small"),
        }
        assert probes._fooled("wide", 0, attacks, records_of) == fooled
