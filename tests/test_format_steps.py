"""What each step from a format to the next makes of what is stored."""

import dataclasses
import json

import pytest

from robust_jax import formats, serialization
from robust_jax.attacks import PGD, Averaged, HopSkipJump, ThreatModel
from robust_jax.certify import Smoothing
from robust_jax.evaluation import claims, compare, records, reductions
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Selection
from robust_jax.experiment import checkpoints
from robust_jax.methods import MethodConfig
from tests.fixtures.runs import CONFIGS, EVALUATION_STOPPED, NUM_STEPS, STOPPED

OLD = "c6714d0"
STEPS = {"plain": STOPPED["plain"], "kap": NUM_STEPS, "regroup": 1, "ensemble": NUM_STEPS}
"""Of each run's last checkpoint: REGroup is fitted to what was trained without a step."""


@pytest.mark.parametrize("name", CONFIGS)
def test_format_1_is_today_s(name, repository):
    """The runs of c6714d0 have no number but in checkpoints, and are those of today's configs."""
    workdir = repository / "tests" / "fixtures" / OLD / name
    assert checkpoints.resumable_step(workdir, CONFIGS[name]) == STEPS[name]
    files = sorted(workdir.rglob("evaluation.json"))
    assert len(files) == 1 + (name in EVALUATION_STOPPED)
    # Products had the device's own precision, which it did not say.
    fields = {"printed": None, "measures": None, "precision": "default"}
    wanted = dataclasses.replace(CONFIGS[name].evaluation, **fields)
    for file in files:
        assert "format" not in json.loads(file.read_text())
        found = claims.read(file.parent)
        assert found["method"] == serialization.to_json(CONFIGS[name].method)
        assert found["evaluation"] == serialization.to_json(wanted)
        lines = [path.read_text() for path in file.parent.rglob("*.jsonl")]
        assert lines
        assert not any("format" in line for line in lines)
    (ended,) = [file.parent for file in files if (file.parent / "summary.json").is_file()]
    run = compare.read(ended)
    assert run.config == dataclasses.replace(wanted, certificates={})
    again = reductions.summarize(records.read_records(ended), wanted)
    for key in ("clean_accuracy", "robust_accuracy"):
        assert again[key] == run.summary[key]
        assert again["intervals"][key] == run.summary["intervals"][key]
    # One ball: that of all attacks.
    worst = [tuple(each["worst_case_accuracy"].values()) for each in (again, run.summary)]
    assert worst[0] == worst[1]


def test_format_3_is_today_s(repository):
    """Its evaluations are the same, their fields in groups; none of them says its measures."""
    workdir = repository / "tests" / "fixtures" / "9833d00" / "kap"
    assert checkpoints.resumable_step(workdir, CONFIGS["kap"]) == NUM_STEPS
    wanted = dataclasses.replace(CONFIGS["kap"].evaluation, printed=None, measures=None)
    files = sorted(workdir.rglob("evaluation.json"))
    assert len(files) == 2
    for file in files:
        assert json.loads(file.read_text())["format"] == 3
        found = claims.read(file.parent)
        assert found["evaluation"] == serialization.to_json(wanted)
        described = [
            *file.parent.glob("records/*.jsonl"),
            *file.parent.glob("certificates/*.jsonl"),
        ]
        assert len(described) == 4
        for path in described:
            name = str(path.relative_to(file.parent).with_suffix(""))
            alone = formats.read("claim", path.with_suffix(".json"))
            # Fields that have come since, whose defaults are what was done.
            alone["method"] = serialization.completed(MethodConfig, alone["method"])
            for row, run in alone["evaluation"]["attacks"].items():
                run = serialization.completed(AttackRun, run)
                alone["evaluation"]["attacks"][row] = run
            for title, one in alone["evaluation"]["certificates"].items():
                one = serialization.completed(Smoothing, one)
                alone["evaluation"]["certificates"][title] = one
            assert alone == claims.files(found)[name]
    stored = serialization.to_json(CONFIGS["kap"].evaluation)
    meta = workdir / "checkpoints" / str(NUM_STEPS) / "meta" / "metadata"
    found = formats.read("checkpoint", meta)["config"]["evaluation"]
    assert serialization.completed(Evaluation, found) == stored


def test_records_of_format_5_do_not_say_l1_and_l0(repository):
    """Nor do numbers made of them: a 0 would be an image that nothing changed."""
    workdir = repository / "tests" / "fixtures" / "f356365" / "plain"
    (file,) = workdir.rglob("summary.json")
    assert json.loads(file.read_text())["format"] == 5
    assert compare.read(file.parent).summary["distances"] == {}
    found = records.read_records(file.parent)
    assert all(row.l1 is row.l0 is None for rows in found.values() for row in rows.values())
    again = reductions.summarize(found, CONFIGS["plain"].evaluation)["distances"]
    assert list(again) == ["fgsm", "pgd"]
    for medians in again.values():
        assert medians["num_images"] > 0
        assert medians["linf"] == pytest.approx(0.05)
        assert medians["l1"] is medians["l0"] is None


def test_certificates_of_format_6_do_not_say_their_votes(repository):
    """Nor does a summary of it: a 0 would be certificates without a test."""
    workdir = repository / "tests" / "fixtures" / "9e86c57" / "kap"
    (file,) = workdir.rglob("summary.json")
    assert json.loads(file.read_text())["format"] == 6
    (summary,) = compare.read(file.parent).summary["certificates"].values()
    assert summary["num_votes"] is summary["most_votes"] is summary["intervals"] is None
    assert summary["num_images"] == 4
    lines = formats.read_lines("certificate", file.parent / "certificates" / "smoothing.jsonl")
    assert [line["num_votes"] for line in lines] == [None] * 4


MEASURED = {"agreement": {"type": "Agreement"}}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"measures": {}}, None),
        ({}, None),
        ({"measures": {}, "sanity": False}, {}),
        ({"sanity": False}, {}),
        ({"measures": MEASURED, "sanity": False}, MEASURED),
        ({"measures": MEASURED}, MEASURED),
    ],
)
def test_measures_of_format_3(asked, expected):
    """None of a protocol were the standard ones, where it probed the model too."""
    config = {"evaluation": {"type": "Evaluation", **asked}}
    found = formats.current("checkpoint", {"format": 3, "config": config}, name="meta")
    assert found["config"]["evaluation"].get("measures") == expected
    claimed = formats.current("claim", {"format": 3, **config}, name="claim")
    assert claimed["evaluation"]["measures"] is None


def test_fields_of_format_3_are_grouped():
    fields = {"selection": "random", "attack_labels": "predicted", "seed": 3}
    found = formats._grouped({"type": "Evaluation", **fields})
    assert found.pop("measures") is None
    assert found == {
        "type": "Evaluation",
        "seed": 3,
        "selection": {"type": "Selection", "rule": "random"},
        "adversary": {"type": "Adversary", "labels": "predicted"},
    }
    assert serialization.from_json(Evaluation, found) == Evaluation(
        selection=Selection(rule="random"), adversary=Adversary(labels="predicted"), seed=3
    )


def test_decision_attacks_of_format_2_began_at_noise():
    run = serialization.to_json(AttackRun(HopSkipJump().within(2.0)))
    del run["attack"]["attack"]["start"]
    found = formats.current("claim", {"format": 2, "evaluation": run}, name="claim")
    assert found["evaluation"]["attack"]["attack"]["start"] == "noise"


def test_what_runs_at_once_has_other_names_in_format_4():
    threat = ThreatModel("linf", 0.1)
    attack = Averaged(threat, PGD(threat, num_restarts=2, parallel=True))
    stored = serialization.to_json(AttackRun(attack))
    old = json.loads(json.dumps(stored))
    old["attack"]["parallel"] = old["attack"].pop("parallel_draws")
    old["attack"]["attack"]["parallel_restarts"] = old["attack"]["attack"].pop("parallel")
    found = formats.current("checkpoint", {"format": 3, "config": old}, name="meta")
    assert serialization.from_json(AttackRun, found["config"]) == AttackRun(attack)
