"""When one attack counts as stronger than another, and what the records' checks say."""

import numpy as np
import pytest

from robust_jax.attacks import FGSM, PGD, SparseRS, Square, ThreatModel
from robust_jax.certify import Certificate, Margins, Smoothing
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Judge, side_by_side
from robust_jax.evaluation.records import Decision, Record
from robust_jax.evaluation.sanity import check_certificates, check_records, outranks, probes
from robust_jax.evaluation.sanity.from_records import pairs_by

THREAT = ThreatModel("linf", 0.1)


@pytest.mark.parametrize(
    ("alone", "other", "expected"),
    # One-sided sign test at 5 %: 5 of 5 is chance 1/32, 4 of 4 is 1/16, 8 of 9 is 10/512.
    [(5, 0, True), (4, 0, False), (8, 1, True), (7, 2, False), (0, 5, False), (0, 0, False)],
)
def test_sign_test_against_hand_counted_tails(alone, other, expected):
    weaker = [False] * alone + [True] * other + [True, False]
    stronger = [True] * alone + [False] * other + [True, False]
    assert outranks(weaker, stronger) == (expected, alone)


def test_neighbours_in_one_field():
    runs = {
        "a": AttackRun(PGD(THREAT, num_steps=20)),
        "b": AttackRun(PGD(THREAT, num_steps=5)),
        "c": AttackRun(PGD(THREAT, num_steps=10)),
        "d": AttackRun(PGD(ThreatModel("linf", 0.2), num_steps=5)),
        "e": AttackRun(PGD(THREAT, num_steps=5), eot_samples=4),
        "f": AttackRun(FGSM(THREAT)),
        "g": AttackRun(FGSM(ThreatModel("l2", 0.2))),
        "h": AttackRun(PGD(ThreatModel("linf", 0.3), step_size=0.03)),
        "i": AttackRun(PGD(ThreatModel("linf", 0.6), step_size=0.06)),
    }
    assert list(pairs_by(runs, "num_steps")) == [("b", "c"), ("c", "a")]
    assert list(pairs_by(runs, "eps")) == [("b", "d"), ("h", "i")]
    assert list(pairs_by(runs, "eot_samples")) == [("b", "e")]
    assert list(pairs_by(runs, "num_restarts")) == []


def records_of(standing):
    """Records of attacks that leave the given numbers standing: nested sets, of 100 examples.

    A number is every judge's, a dict each judge's own.
    """

    def record(row, numbers):
        decisions = {
            judge: Decision(int(row >= number), row < number, [0], float(row < number))
            for judge, number in numbers.items()
        }
        return Record(row, 0, 0.0, 0.0, False, decisions)

    judges = next(
        (number for number in standing.values() if isinstance(number, dict)), ["accuracy"]
    )
    return {
        name: {
            row: record(row, number if isinstance(number, dict) else dict.fromkeys(judges, number))
            for row in range(100)
        }
        for name, number in {"clean": 100, **standing}.items()
    }


def status(standing, runs, **fields):
    wanted = Evaluation(attacks=runs, **fields)
    found = check_records(records_of(standing), runs, wanted.deciding)
    assert all(finding.next_step for finding in found if finding.status == "flag")
    return {finding.check: finding.status for finding in found}


def test_an_honest_column_above_the_papers_is_a_flag():
    runs = {
        "pgd": AttackRun(PGD(THREAT)),
        "pgd_eot": AttackRun(PGD(THREAT), eot_samples=4, adaptive=True),
    }
    name = "honest column at or below the paper's"

    def found(paper, honest, adaptive=100):
        both = {"pgd": {"paper": paper, "honest": honest},
                "pgd_eot": {"paper": 0, "honest": adaptive}}  # fmt: skip
        return status(both, runs, judges=side_by_side())[name]

    assert found(paper=50, honest=60) == "flag"
    assert found(paper=50, honest=54) == "passed"  # 4 of 4 is chance
    assert found(paper=50, honest=60, adaptive=40) == "passed"
    assert found(paper=50, honest=30) == "passed"
    assert status({"pgd": 50, "pgd_eot": 60}, runs)[name] == "not run"


def test_adaptive_attacks_weaker_than_the_papers_are_a_flag():
    runs = {
        "pgd": AttackRun(PGD(THREAT), view="surrogate"),
        "soft": AttackRun(PGD(THREAT), adaptive=True),
        "hard": AttackRun(PGD(THREAT, num_steps=5), adaptive=True),
    }
    name = "adaptive attacks beat the paper's"
    both = {"judges": side_by_side()}

    def found(left, runs, **fields):
        columns = {attack: {"paper": n, "honest": n} for attack, n in left.items()}
        return status(columns if fields else left, runs, **fields)[name]

    assert found({"pgd": 50, "soft": 60, "hard": 70}, runs, **both) == "flag"
    assert found({"pgd": 50, "soft": 70, "hard": 40}, runs, **both) == "passed"
    wider = runs | {"pgd": AttackRun(PGD(ThreatModel("linf", 0.2)))}
    assert found({"pgd": 50, "soft": 60, "hard": 70}, wider, **both) == "not run"
    # Without a paper's column adaptive attacks are further ones: none has to be the strongest.
    assert found({"pgd": 50, "soft": 60, "hard": 70}, runs) == "not run"


def test_the_honest_column_is_asked_and_not_the_one_beside_it():
    runs = {"pgd": AttackRun(PGD(THREAT)), "fixed": AttackRun(PGD(THREAT), adaptive=True)}
    judges = side_by_side() | {"fixed": Judge(rule="fixed")}
    assert Evaluation(judges=judges).deciding == "honest"
    assert Evaluation(judges={"a": Judge(), "b": Judge()}).deciding == "b"
    standing = {
        "pgd": {"paper": 50, "honest": 50, "fixed": 50},
        "fixed": {"paper": 100, "honest": 100, "fixed": 0},
    }
    assert status(standing, runs, judges=judges)["adaptive attacks beat the paper's"] == "flag"


def test_square_below_white_box_is_a_flag():
    runs = {"pgd": AttackRun(PGD(THREAT)), "square": AttackRun(Square(THREAT))}
    name = "white box beats black box"
    assert status({"pgd": 60, "square": 50}, runs)[name] == "flag"
    assert status({"pgd": 50, "square": 60}, runs)[name] == "passed"
    assert status({"pgd": 50, "square": 48}, runs)[name] == "passed"
    assert status({"pgd": 50}, {"pgd": runs["pgd"]})[name] == "not run"


def test_a_curve_that_rises_is_a_flag():
    runs = {f"pgd{n}": AttackRun(PGD(THREAT, num_steps=n)) for n in (10, 20)}
    name = "monotone in num_steps"
    assert status({"pgd10": 50, "pgd20": 60}, runs)[name] == "flag"
    assert status({"pgd10": 60, "pgd20": 50}, runs)[name] == "passed"
    assert status({"pgd10": 60, "pgd20": 50}, runs)["monotone in eps"] == ("not run")
    assert status({"pgd10": 60, "pgd20": 50}, runs)["number of examples"] == "note"


EPS = float(np.float32(0.1))


@pytest.mark.parametrize(
    ("certifier", "linf", "l2", "status"),
    [
        (Margins(EPS), EPS, 5.0, "flag"),
        (Margins(EPS), 1.1 * EPS, 0.01, "passed"),
        (Margins(EPS, of="mean_logit"), EPS / 2, 0.5, "flag"),
        (Smoothing(0.5), 0.5, EPS, "flag"),
        (Smoothing(0.5), 0.01, 1.1 * EPS, "passed"),
    ],
)
def test_an_image_certified_and_broken_is_a_flag(certifier, linf, l2, status):
    """In the certificate's own norm, by the distance that was measured; row 3 is not certified."""
    found = records_of({"pgd": 2})
    found["pgd"] = {row: one._replace(linf=linf, l2=l2) for row, one in found["pgd"].items()}
    label = np.asarray([0, 0, 0, -1, 0, 1])
    certificate = Certificate(label, np.where(label == 0, EPS, 0.0))
    certificates = {"a": (certificate, np.zeros(6, int)), "a@other": (certificate, np.ones(6, int))}
    (finding,) = check_certificates(certificates, found, {"a": certifier}, "accuracy")
    assert finding.check == "certified images stand (a)"
    assert finding.status == status
    if status == "flag":
        assert "example 2 by pgd, 4 by pgd." in finding.text
        assert finding.next_step
    else:
        assert "one of 4 certified images" in finding.text


def test_a_certified_image_that_is_wrong_clean_is_a_flag():
    certificate = Certificate(np.zeros(2, int), np.full(2, EPS))
    found = records_of({"clean": 1})
    asked = {"a": Margins(EPS)}, "accuracy"
    (finding,) = check_certificates({"a": (certificate, np.zeros(2, int))}, found, *asked)
    assert finding.status == "flag"
    assert "example 1 by clean" in finding.text
    nothing = Certificate(np.full(2, -1), np.zeros(2))
    (finding,) = check_certificates({"a": (nothing, np.zeros(2, int))}, found, *asked)
    assert finding.status == "not run"
    # A judge of another view says nothing of the deployed rule.
    judge = Evaluation(judges={"a": Judge(view="noise_off")}).deployed
    assert check_certificates({"a": (certificate, np.zeros(2, int))}, found, asked[0], judge) == []


def test_a_ball_without_a_referee_is_said():
    pgd, rs = PGD(ThreatModel("linf", 0.1)), SparseRS(ThreatModel("l0", 5.0))
    runs = {"pgd": AttackRun(pgd), "rs": AttackRun(rs), "far": AttackRun(rs, view="other")}
    (finding,) = probes.without_referee("deployed", runs)
    assert (finding.status, finding.check) == ("not run", "view 'deployed': referees in every ball")
    assert "l0 eps 5" in finding.text
    assert probes.without_referee("deployed", {"pgd": runs["pgd"]}) == []
