"""What an evaluation comes to, in a sentence that somebody can be told."""

from collections.abc import Mapping, Sequence

from robust_jax.attacks import MinimumNormAttack, ThreatModel
from robust_jax.attacks.threat import COUNTS, Norm
from robust_jax.certify import Margins, Smoothing
from robust_jax.evaluation.attack_runs import AttackRun, balls
from robust_jax.evaluation.judges import PAPER
from robust_jax.evaluation.summary import CertificateSummary, JudgeSummary, Summary

COUNTED_SINGLY = 20
"""Fewer images than these are counted: of eight images a percentage says too much."""

MOST_BALLS = 4
"""Of more balls the smallest and the largest of each norm are named."""

NORMS: dict[Norm, str] = {
    "linf": "Linf", "l2": "L2", "l1": "L1", "l0": "changed pixels", "l0_values": "changed values",
}  # fmt: skip


MEANING: dict[Norm, str] = {
    "linf": "Linf: the largest change of a value of a pixel, on a scale from 0 to 1",
    "l2": "L2: the Euclidean length of the change of all values, each on a scale from 0 to 1",
    "l1": "L1: the sum of the changes of all values, each on a scale from 0 to 1",
}
"""What a radius measures; counts need no words."""


Attacks = Mapping[str, AttackRun]


def sentences(
    summary: Summary,
    *,
    judge: str,
    attacks: Attacks,
    certificates: Mapping[str, Smoothing | Margins],
) -> list[str]:
    """Returns what an evaluation comes to, by the word of its deciding judge.

    Of a random defence a second sentence says what many submissions come to, of certificates
    another what is proven, and where a sanity check was raised the last one says so.

    Args:
        summary: from `reductions.summarize`, with what `run` adds to it.
        judge: whose word counts, `Evaluation.deciding`.
        attacks: by name.
        certificates: certifiers, by name.
    """
    numbers, reduced = summary["judges"][judge], summary["budget"] == "reduced"
    start = f"{'At the reduced budget, of' if reduced else 'Of'} {_images(summary)}"
    if numbers["clean_accuracy"] == 0:
        found = [f"{start}, none is right, attacked or not: nothing is said of robustness."]
    else:
        found = [f"{start}, {_under_attack(summary, judge, attacks)}"]
    found += [*_submitted(numbers, attacks), *_proven(summary, certificates)]
    raised = sum(finding["status"] == "flag" for finding in summary.get("sanity", []))
    if raised:
        checks = "A sanity check speaks" if raised == 1 else f"{raised} sanity checks speak"
        found.append(f"{checks} against these numbers.")
    return found


def radius(threat: ThreatModel) -> str:
    """Returns how far a ball reaches, as people write it: 8/255 (Linf), 0.5 (L2)."""
    if threat.norm in COUNTS:
        return f"{threat.eps:.0f} {NORMS[threat.norm]}"
    return f"{_size(threat)} ({NORMS[threat.norm]})"


def _size(threat: ThreatModel) -> str:
    """Returns a radius: in grey levels where they are whole or half and it has no short number."""
    levels = 2 * 255 * threat.eps
    is_short = abs(float(f"{threat.eps:.2g}") - threat.eps) < 1e-9
    if threat.norm != "linf" or is_short or abs(levels - round(levels)) > 1e-4:
        return f"{threat.eps:.4g}"
    return f"{round(levels) / 2:g}/255"


def _images(summary: Summary) -> str:
    """Returns how many images there are, and that they were chosen for being right."""
    number = summary["num_examples"]
    words = f"{number:,} image" + ("" if number == 1 else "s")
    candidates = summary.get("candidates")
    if candidates is None:
        return words
    right = _share(candidates["clean_accuracy"], candidates["num_examples"])
    return f"{words} that were chosen for being right ({right} of {candidates['num_examples']:,})"


def _share(value: float, number: int) -> str:
    """Returns a share of so many images: 41 %, or 3 of a few."""
    if value == 0:
        return "none"
    if value == 1:
        return "all" if number > 1 else "1"
    if number < COUNTED_SINGLY:
        return f"{round(value * number)}"
    if value < 0.01:
        return "less than 1 %"
    return "more than 99 %" if value >= 0.995 else f"{100 * value:.0f} %"


def _are(share: str) -> str:
    """Returns the share with its verb."""
    return f"{share} {'is' if share in ('none', '1') else 'are'}"


def _still(share: str) -> str:
    """Returns the share that stands, with its verb."""
    if share == "none":
        return "none is right"
    return f"{share} still {'is' if share == '1' else 'are'}"


def _under_attack(summary: Summary, name: str, attacks: Attacks) -> str:
    """Returns the rest of the first sentence."""
    judge, number = summary["judges"][name], summary["num_examples"]
    clean = f"{_are(_share(judge['clean_accuracy'], number))} classified right"
    counted = list(judge["robust_accuracy"])
    if not counted:
        why = "no attack counts here" if attacks else "nothing was attacked"
        return f"{clean}; {why}, so nothing is said of robustness."
    # Not all images are counted by every judge.
    given_right = judge["counts"] == "given_clean_correct"
    number = judge["num_counted"] if given_right else number
    joined = f"{clean}{'; of these,' if given_right else ', and'}"
    inside, all_inside = balls(attacks, counted), balls(attacks, list(attacks))
    if not inside:
        return f"{joined} {_without_bound(summary, name, attacks, number)}."
    left = {ball: _share(judge["worst_case_accuracy"][str(ball)] or 0.0, number) for ball in inside}
    papers = _of_the_paper(summary, name, attacks)
    if len(inside) == 1:
        ((ball, members),) = inside.items()
        which = _which(members, all_inside[ball])
        paper = f"; the paper's own protocol says {papers[ball]}" if ball in papers else ""
        return f"{joined} {_still(left[ball])} under {which} within {radius(ball)}{paper}."
    shown = _ends(list(inside)) if len(inside) > MOST_BALLS else list(inside)
    places = [f"within {radius(ball)}{_beside(papers.get(ball))}" for ball in shown]
    every = all(len(inside[ball]) == len(all_inside[ball]) for ball in shown)
    which = "every attack made" if every else "every attack that counts here"
    first = f"{_still(left[shown[0]])} under {which} {places[0]}"
    others = [f"{left[ball]} {place}" for ball, place in zip(shown, places, strict=True)]
    apart = "; " if papers else ", "
    last = "; and " if papers else " and "
    return f"{joined} {apart.join([first, *others[1:-1]])}{last}{others[-1]}."


def _which(counted: Sequence[str], made: Sequence[str]) -> str:
    """Returns which attacks of a ball count: a judge may leave out the adaptive ones."""
    counts = "" if len(counted) == len(made) else " that counts here"
    if len(counted) == 1:
        return f"the one attack{counts}, {counted[0]},"
    return f"every attack{counts or ' made'}"


def _beside(paper: str | None) -> str:
    return "" if paper is None else f", where the paper's own protocol says {paper}"


def _ends(threats: Sequence[ThreatModel]) -> list[ThreatModel]:
    """Returns the smallest and the largest ball of each norm, which come in this order."""
    by_norm: dict[Norm, list[ThreatModel]] = {}
    for threat in threats:
        by_norm.setdefault(threat.norm, []).append(threat)
    return [one for each in by_norm.values() for one in dict.fromkeys((each[0], each[-1]))]


def _of_the_paper(summary: Summary, name: str, attacks: Attacks) -> dict[ThreatModel, str]:
    """Returns what the paper's column leaves, by ball, where it is another than the deciding one.

    It is its worst case; of a column that counts otherwise than right before and after, its least
    number.
    """
    if PAPER not in summary["judges"] or name == PAPER:
        return {}
    paper, found = summary["judges"][PAPER], {}
    for ball, members in balls(attacks, list(paper["robust_accuracy"])).items():
        value = paper["worst_case_accuracy"][str(ball)]
        if paper["counts"] != "clean_and_attacked":
            each = [paper["robust_accuracy"].get(member) for member in members]
            value = min((one for one in each if one is not None), default=None)
        if value is not None:
            of = " of those right before" if paper["counts"] == "given_clean_correct" else ""
            found[ball] = _share(value, paper["num_counted"]) + of
    return found


def _without_bound(summary: Summary, name: str, attacks: Attacks, number: int) -> str:
    """Returns what the strongest attack without a bound leaves, and how near its images lie."""
    robust = summary["judges"][name]["robust_accuracy"]
    strongest = min(robust, key=lambda attack: robust[attack] or 0.0)
    share = _share(robust[strongest] or 0.0, number)
    after_alone = summary["judges"][name]["counts"] == "attacked"
    left = f"{_are(share)} right" if after_alone else _still(share)
    words = f"{left} under {strongest}, an attack without a bound"
    attack, found = attacks[strongest].attack, summary["distances"].get(strongest)
    # Distances are of the headline's judge.
    if found is None or name != next(iter(summary["judges"])):
        return words
    norm: Norm = attack.norm if isinstance(attack, MinimumNormAttack) else "l2"
    distances = {"linf": found["linf"], "l2": found["l2"], "l1": found["l1"], "l0": found["l0"]}
    distance = distances.get(norm)
    if distance is None:
        return words
    size = f"{distance:g} pixels" if norm == "l0" else f"{distance:.2g} in {NORMS[norm]}"
    return f"{words}; half of the images that fell changed by {size} or less"


def _submitted(judge: JudgeSummary, attacks: Attacks) -> list[str]:
    """Returns what many submissions of an image to a random defence come to, if it is one."""
    times = max(judge["submissions"], key=int, default=None)
    rows = {} if times is None else judge["submissions"][times]
    attacked = {name: wrong for name, wrong in rows.items() if name in judge["robust_accuracy"]}
    if not attacked:
        return []
    inside = balls(attacks, list(judge["robust_accuracy"]))
    where = " without a bound"
    if inside:  # the smallest: of larger ones little is left anyway
        ball, members = next(iter(inside.items()))
        attacked = {name: attacked[name] for name in members if name in attacked}
        where = f" within {radius(ball)}" if len(inside) > 1 else ""
    worst = max(attacked, key=lambda name: attacked[name])
    # An estimate, not a count.
    share = _share(attacked[worst], COUNTED_SINGLY)
    share = {"none": "hardly any", "all": "nearly all"}.get(share, share)
    return [
        f"The defence is random: attacked by {worst}{where} and submitted {times} times, {share} "
        "of the images are wrong at least once."
    ]


_RULES = {"vote": "", "mean_logit": ", by the members' mean logit,"}
"""What a certificate by bounds is of, where that need not be what is deployed."""


def _proven(summary: Summary, certificates: Mapping[str, Smoothing | Margins]) -> list[str]:
    """Returns what certificates of the model itself prove: by bounds in each ball, by smoothing."""

    def images(one: CertificateSummary, rule: str = "") -> str:
        number = one["num_images"]
        of = f"Of {number:,} image{'' if number == 1 else 's'}"
        return f"{of}, {_are(_share(one['certified_accuracy'], number))} proven right{rule}"

    # Those of other checkpoints have other names.
    found = {name: one for name, one in summary.get("certificates", {}).items()
             if name in certificates}  # fmt: skip
    by_ball: dict[tuple[ThreatModel, str], CertificateSummary] = {}
    for name, one in found.items():
        certifier = certificates[name]
        if isinstance(certifier, Margins):
            of = ThreatModel(certifier.norm, certifier.eps), _RULES[certifier.of]
            known = by_ball.get(of, one)
            by_ball[of] = max(known, one, key=lambda each: each["certified_accuracy"])
    sentences = [f"{images(one, rule)} within {radius(ball)}."
                 for (ball, rule), one in by_ball.items()]  # fmt: skip
    smoothed = [name for name in found if isinstance(certificates[name], Smoothing)]
    if smoothed:
        best = max(smoothed, key=lambda name: found[name]["average_certified_radius"])
        far = found[best]["average_certified_radius"]
        mean = f"; the mean radius, 0 where nothing is proven, is {far:.2g} (L2)" if far else ""
        sentences.append(f"{images(found[best])} under noise ({best}){mean}.")
    return sentences
