"""What an evaluation comes to in words: right whatever was attacked, judged and left out."""

import dataclasses

import pytest

from robust_jax.attacks import PGD, DeepFool, SparseRS, Square, ThreatModel
from robust_jax.certify import Margins, Smoothing
from robust_jax.evaluation import reductions
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Judge, side_by_side
from robust_jax.evaluation.records import Decision, Record
from robust_jax.evaluation.report.sentence import radius, sentences

SMALL, LARGE, ROUND = (
    ThreatModel("linf", 2 / 255), ThreatModel("linf", 8 / 255), ThreatModel("l2", 0.5)
)  # fmt: skip
RUN = AttackRun(PGD(LARGE))


def summary(wanted, standing, *, number=100, clean=None, share=1.0):
    """Numbers of records of which so many stand: nested sets; a dict is each judge's own."""

    def record(row, left):
        lefts = left if isinstance(left, dict) else dict.fromkeys(wanted.judges, left)
        decisions = {
            judge: Decision(int(row >= one), row < one, [0], share if row < one else 0.0, 1.0)
            for judge, one in lefts.items()
        }
        return Record(row, 0, 0.25, 0.5, False, decisions, l1=2.0, l0=3)

    first = number if clean is None else clean
    lefts = {"clean": first, **standing}
    records = {name: {row: record(row, left) for row in range(number)}
               for name, left in lefts.items()}  # fmt: skip
    return reductions.summarize(records, wanted)


def in_words(found, wanted):
    asked = {"attacks": wanted.attacks, "certificates": wanted.certificates}
    return " ".join(sentences(found, judge=wanted.deciding, **asked))


def words(attacks, standing, *, number=100, clean=None, share=1.0, **fields):
    wanted = Evaluation(attacks=attacks, **fields)
    found = summary(wanted, standing, number=number, clean=clean, share=share)
    return in_words(found, wanted)


@pytest.mark.parametrize(
    ("threat", "expected"),
    [
        (LARGE, "8/255 (Linf)"),
        (ThreatModel("linf", 0.1), "0.1 (Linf)"),
        (ThreatModel("linf", 0.031), "0.031 (Linf)"),
        (ThreatModel("linf", 0.5 / 255), "0.5/255 (Linf)"),
        (ThreatModel("linf", 1.0), "1 (Linf)"),
        (ThreatModel("linf", 0.01234), "0.01234 (Linf)"),
        (ROUND, "0.5 (L2)"),
        (ThreatModel("l0", 24.0), "24 changed pixels"),
    ],
)
def test_radius_as_people_write_it(threat, expected):
    assert radius(threat) == expected


def test_one_ball_beside_the_papers_protocol():
    attacks = {"pgd": RUN, "apgd": dataclasses.replace(RUN, adaptive=True)}
    standing = {"pgd": {"paper": 580, "honest": 600}, "apgd": {"paper": 700, "honest": 410}}
    found = words(attacks, standing, number=1000, clean=900, judges=side_by_side())
    assert found == (
        "Of 1,000 images, 90 % are classified right, and 41 % still are under every attack made "
        "within 8/255 (Linf); the paper's own protocol says 58 %."
    )
    # The paper's column counts otherwise: its least number, of what it counts.
    paper = Judge(rule="paper", counts="given_clean_correct")
    found = words(attacks, standing, number=1000, clean=900, judges=side_by_side(paper))
    assert found.endswith("the paper's own protocol says 64 % of those right before.")


def test_no_paper_and_one_attack():
    assert words({"pgd": RUN}, {"pgd": 0}) == (
        "Of 100 images, all are classified right, and none is right under the one attack, pgd, "
        "within 8/255 (Linf)."
    )
    judges = {"right": Judge(counts="given_clean_correct")}
    assert words({"pgd": RUN}, {"pgd": 20}, clean=80, judges=judges) == (
        "Of 100 images, 80 % are classified right; of these, 25 % still are under the one attack, "
        "pgd, within 8/255 (Linf)."
    )


def test_several_balls():
    attacks = {
        "inner": AttackRun(PGD(SMALL)), "outer": dataclasses.replace(RUN, adaptive=True),
        "round": AttackRun(PGD(ROUND)),
    }  # fmt: skip
    standing = {"inner": {"paper": 80, "honest": 70}, "outer": 3, "round": 40}
    assert words(attacks, standing, judges=side_by_side()) == (
        "Of 100 images, all are classified right, and 70 % still are under every attack made "
        "within 2/255 (Linf), where the paper's own protocol says 80 %; 3 % within 8/255 (Linf)"
        "; and 40 % within 0.5 (L2), where the paper's own protocol says 40 %."
    )


def test_of_many_balls_the_smallest_and_the_largest():
    curve = AttackRun(PGD(SMALL)).over_radii("pgd", eps=[k / 255 for k in (1, 2, 4, 8, 16)])
    standing = dict(zip(curve, (90, 70, 50, 20, 1), strict=True))
    assert words(curve, standing) == (
        "Of 100 images, all are classified right, and 90 % still are under every attack made "
        "within 1/255 (Linf) and 1 % within 16/255 (Linf)."
    )


def test_attacks_without_a_bound():
    attacks = {
        "deepfool": AttackRun(DeepFool(distance_norm="linf")),
        "other": AttackRun(DeepFool()),
    }
    found = words(attacks, {"deepfool": 2, "other": 30})
    assert found == (
        "Of 100 images, all are classified right, and 2 % still are under deepfool, an attack "
        "without a bound; half of the images that fell changed by 0.25 in Linf or less."
    )
    # Distances are the headline's, which is not asked here.
    found = words(attacks, {"deepfool": 2, "other": 30}, judges=side_by_side())
    assert found.endswith("under deepfool, an attack without a bound.")
    pixels = {"rs": AttackRun(SparseRS(ThreatModel("l0", 5.0)))}
    assert words(pixels, {"rs": 10}).endswith("the one attack, rs, within 5 changed pixels.")


def test_nothing_attacked_or_nothing_right():
    assert words({}, {}, clean=97) == (
        "Of 100 images, 97 % are classified right; nothing was attacked, so nothing is said of "
        "robustness."
    )
    assert words({"pgd": RUN}, {"pgd": 0}, clean=0) == (
        "Of 100 images, none is right, attacked or not: nothing is said of robustness."
    )
    assert words({"pgd": RUN}, {"pgd": 0}, number=1, clean=0).startswith("Of 1 image, none is")
    # A column that counts none of the attacks.
    only = {"pgd": dataclasses.replace(RUN, adaptive=True)}
    found = words(only, {"pgd": 0}, judges={"paper": Judge(adaptive=False)})
    assert "no attack counts here, so nothing" in found


def test_few_images_are_counted_and_shares_are_not_rounded_away():
    assert words({"pgd": RUN}, {"pgd": 1}, number=8, clean=3) == (
        "Of 8 images, 3 are classified right, and 1 still is under the one attack, pgd, within "
        "8/255 (Linf)."
    )
    for left in (2, 5, 9):
        found = words({"pgd": RUN}, {"pgd": left}, number=1000, clean=998)
        assert "less than 1 % still are under the one attack" in found
    assert words({"pgd": RUN}, {"pgd": 1}, number=1).startswith("Of 1 image, 1 is classified right")
    found = words({"pgd": RUN}, {"pgd": 2}, number=1000, clean=998)
    assert "more than 99 % are classified right, and less than 1 % still are under" in found


def test_a_random_defence_and_its_submissions():
    found = words({"pgd": RUN, "square": AttackRun(Square(LARGE))}, {"pgd": 50, "square": 80},
                  share=0.99)  # fmt: skip
    # Of those that stand one draw of a hundred is wrong, of the others all are.
    assert found.endswith(
        "The defence is random: attacked by pgd and submitted 100 times, nearly all of the images "
        "are wrong at least once."
    )
    # One without a bound is none of the ball's.
    free = {"deepfool": AttackRun(DeepFool())}
    found = words({"pgd": RUN, **free}, {"pgd": 50, "deepfool": 0}, share=0.99)
    assert "attacked by pgd and submitted 100 times" in found
    found = words(free, {"deepfool": 60}, share=0.99)
    assert "attacked by deepfool without a bound and submitted 100 times" in found
    # Of several balls the smallest.
    attacks = {"outer": RUN, "inner": AttackRun(PGD(SMALL))}
    found = words(attacks, {"outer": 10, "inner": 90}, share=0.99)
    assert "attacked by inner within 2/255 (Linf) and submitted 100 times" in found
    found = words({"pgd": RUN}, {"pgd": 50}, share=0.99, judges={"one": Judge(rule="fixed")})
    assert "random" not in found


def test_selections_budgets_flags_and_certificates():
    wanted = Evaluation(
        {"pgd": RUN}, budget="reduced",
        certificates={
            "crown": Margins(8 / 255), "inside": Margins(2 / 255), "sigma 0.5": Smoothing(0.5),
            "mean": Margins(8 / 255, of="mean_logit"),
        },
    )  # fmt: skip
    found = summary(wanted, {"pgd": 40})
    found["candidates"] = {"num_examples": 250, "clean_accuracy": 0.4, "interval": [0.3, 0.5]}
    found["sanity"] = [{"status": "flag"}, {"status": "note"}]
    one = {"num_images": 50, "certified_accuracy": 0.12, "average_certified_radius": 0.4}
    found["certificates"] = {
        "crown": one, "sigma 0.5": {**one, "certified_accuracy": 0.7},
        "inside": {**one, "certified_accuracy": 0.8},
        "mean": {**one, "certified_accuracy": 0.9},
        "crown@plain": {**one, "certified_accuracy": 1.0},
    }  # fmt: skip
    assert in_words(found, wanted) == (
        "At the reduced budget, of 100 images that were chosen for being right (40 % of 250), all "
        "are classified right, and 40 % still are under the one attack, pgd, within 8/255 (Linf). "
        "Of 50 images, 12 % are proven right within 8/255 (Linf). Of 50 images, 80 % are proven "
        "right within 2/255 (Linf). Of 50 images, 90 % are proven right, by the members' mean "
        "logit, within 8/255 (Linf). Of 50 images, 70 % are proven right under noise (sigma "
        "0.5); the mean radius, 0 where nothing is "
        "proven, is 0.4 (L2). A sanity check speaks against these numbers."
    )
    nothing = {"certified_accuracy": 0.0, "average_certified_radius": 0.0}
    found["certificates"] = {"sigma 0.5": one | nothing}
    assert "none is proven right under noise (sigma 0.5). A sanity" in in_words(found, wanted)


def test_a_judge_that_leaves_attacks_out_does_not_say_every():
    attacks = {"pgd": RUN, "apgd": dataclasses.replace(RUN, adaptive=True)}
    papers = {"paper": Judge(adaptive=False)}
    found = words(attacks, {"pgd": 60, "apgd": 0}, judges=papers)
    assert "60 % still are under the one attack that counts here, pgd, within" in found
    attacks |= {"inner": AttackRun(PGD(SMALL)), "square": AttackRun(Square(LARGE))}
    found = words(attacks, {"pgd": 60, "apgd": 0, "inner": 90, "square": 70}, judges=papers)
    assert "90 % still are under every attack that counts here within 2/255 (Linf) and" in found
