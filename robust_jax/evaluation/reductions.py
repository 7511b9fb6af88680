"""Every number of an evaluation, a reduction of its records, judge by judge."""

import math
import statistics
from collections.abc import Iterable, Mapping

from robust_jax import metrics
from robust_jax.evaluation.attack_runs import balls
from robust_jax.evaluation.protocol import CLEAN, Evaluation, Printed
from robust_jax.evaluation.record import Records
from robust_jax.evaluation.summary import (
    AttackPasses,
    BesidePaper,
    Distances,
    JudgeSummary,
    Rejudged,
    Successes,
    Summary,
)

SUBMISSIONS = (10, 100)
"""How often an image is submitted, where the draws are enough."""


def share(right: Iterable[bool]) -> tuple[float, list[float]]:
    """Returns the share of examples that are right, and its 95 % Wilson interval."""
    values = list(right)
    return sum(values) / len(values), list(metrics.interval(sum(values), len(values)))


def all_right(share_right: float, num_drawn: int, times: int) -> float:
    """Returns the probability that fresh draws of an example are all right, estimated from others.

    The estimate has no bias: the share of the subsets of the draws made that are right throughout.

    Args:
        share_right: of the draws made.
        num_drawn: draws made.
        times: draws, no more than were made.
    """
    right = round(share_right * num_drawn)
    return math.comb(right, times) / math.comb(num_drawn, times)


def summarize(
    records: Records, config: Evaluation, seconds: Mapping[str, float] | None = None
) -> Summary:
    """Returns the numbers of an evaluation: the headline judge's at the top, every judge's below.

    Args:
        records: from `evaluate`.
        config: the protocol.
        seconds: time of each attack, `seconds_by_attack`.
    """
    judges = {judge: of_judge(records, config, judge) for judge in config.judges}
    headline = next(iter(judges.values()))
    return {
        "num_examples": len(records[CLEAN]),
        "selection": config.selection.rule,
        "budget": config.budget,
        "draws": "row",
        "wall_seconds": sum((seconds or {}).values()),
        "seconds": dict(seconds or {}),
        "passes": _passes(records),
        "distances": _distances(records, next(iter(config.judges))),
        "clean_accuracy": headline["clean_accuracy"],
        "robust_accuracy": headline["robust_accuracy"],
        "worst_case_accuracy": headline["worst_case_accuracy"],
        "intervals": headline["intervals"],
        "judges": judges,
    }


def _passes(records: Records) -> dict[str, AttackPasses]:
    """Returns what each attack cost on average, of images that were attacked and counted."""
    found = {}
    for name, rows in records.items():
        counts = [record.passes for record in rows.values() if record.passes is not None]
        if counts:
            forward, backward = (sum(each) / len(counts) for each in zip(*counts, strict=True))
            found[name] = AttackPasses(forward=forward, backward=backward, num_images=len(counts))
    return found


def _distances(records: Records, judge: str) -> dict[str, Distances]:
    """Returns how far the images lie that each attack turns wrong for a judge, in the median."""
    clean = [row for row, record in records[CLEAN].items() if record.decisions[judge].correct]
    found = {}
    for name, rows in records.items():
        fallen = [rows[row] for row in clean if not rows[row].decisions[judge].correct]
        if not fallen:
            continue
        sums = [record.l1 for record in fallen if record.l1 is not None]
        counts = [record.l0 for record in fallen if record.l0 is not None]
        found[name] = Distances(
            num_images=len(fallen),
            linf=statistics.median(record.linf for record in fallen),
            l2=statistics.median(record.l2 for record in fallen),
            l1=statistics.median(sums) if len(sums) == len(fallen) else None,
            l0=float(statistics.median(counts)) if len(counts) == len(fallen) else None,
        )
    return found


def of_judge(records: Records, config: Evaluation, judge: str) -> JudgeSummary:
    """Returns the numbers of a judge."""
    rule = config.judges[judge]
    counted = config.counted(judge)
    clean, headline = records[CLEAN], next(iter(config.judges))

    def correct(name: str, row: int, by: str = judge) -> bool:
        return records[name][row].decisions[by].correct

    right_clean = [row for row in clean if correct(CLEAN, row)]
    population = right_clean if rule.counts == "given_clean_correct" else list(clean)

    before = () if rule.counts == "attacked" else (CLEAN,)

    def standing(names: Iterable[str]) -> tuple[float | None, list[float]]:
        names = list(names)
        if not population:
            return None, [0.0, 1.0]
        return share(all(correct(name, row) for name in names) for row in population)

    def given_clean_correct(name: str) -> float | None:
        right = sum(correct(name, row) for row in right_clean)
        return right / len(right_clean) if right_clean else None

    def successes(name: str) -> Successes:
        fallen = [
            row
            for row in clean
            if correct(CLEAN, row, headline) and not correct(name, row, headline)
        ]
        right = sum(correct(name, row) for row in fallen)
        return {"count": len(fallen), "accuracy": right / len(fallen) if fallen else None}

    def top5(name: str) -> float | None:
        run = config.attacks.get(name)
        attacks_all = (
            run is None or run.source is not None or not config.adversary.skip_misclassified
        )
        before = CLEAN if run is None else run.after or CLEAN
        attacks_all &= before == CLEAN
        if not attacks_all and not all(one.right_somewhere for one in records[before].values()):
            return None  # what was left out stands as its image before
        attacked = [records[name][row] for row in clean]
        return share(record.label in record.decisions[judge].top5 for record in attacked)[0]

    clean_accuracy, clean_interval = share(correct(CLEAN, row) for row in clean)
    robust = {name: standing((*before, name)) for name in counted}
    # The clean image lies in every ball, whatever the column counts.
    inside = balls(config.attacks, counted)
    worst = {str(ball): standing((CLEAN, *members)) for ball, members in inside.items()}
    groups = {name: standing((*before, *members)) for name, members in config.worst_of.items()
              if set(members) <= set(counted)}  # fmt: skip
    submissions, rejudged = _of_draws(records, config, judge, counted)
    return {
        "counts": rule.counts,
        "num_counted": len(population),
        "clean_accuracy": clean_accuracy,
        "robust_accuracy": {name: value for name, (value, _) in robust.items()},
        "worst_case_accuracy": {name: value for name, (value, _) in worst.items()},
        "worst_of": {name: value for name, (value, _) in groups.items()},
        "given_clean_correct": {name: given_clean_correct(name) for name in counted},
        "top5_accuracy": {name: top5(name) for name in [CLEAN, *counted]},
        "single_draw": {
            name: sum(records[name][row].decisions[judge].share_correct for row in clean)
            / len(clean)
            if _is_drawn(records, config, judge, name)
            else None
            for name in [CLEAN, *counted]
        },
        "submissions": submissions,
        "rejudged": rejudged,
        "successes": {name: successes(name) for name in counted},
        "intervals": {
            "clean_accuracy": clean_interval,
            "robust_accuracy": {name: bounds for name, (_, bounds) in robust.items()},
            "worst_case_accuracy": {name: bounds for name, (_, bounds) in worst.items()},
            "worst_of": {name: bounds for name, (_, bounds) in groups.items()},
        },
    }


def _is_drawn(records: Records, config: Evaluation, judge: str, name: str) -> bool:
    """Returns whether what draws say of a row's images is known.

    A row after another does not attack what every judge has wrong there; of a random method draws
    of it may be right still, and nobody knows of how many the larger ball would leave.
    """
    run = config.attacks.get(name)
    if run is None or run.after is None:
        return True
    fallen = (one for one in records[run.after].values() if not one.right_somewhere)
    return not any(one.decisions[judge].share_correct for one in fallen)


def _of_draws(
    records: Records, config: Evaluation, judge: str, counted: list[str]
) -> tuple[dict[str, dict[str, float]], Rejudged | None]:
    """Returns what submissions of an image, and judgements of the clean one, come to.

    Nothing of a method without randomness (whose draws agree on every image), and nothing of a
    judge whose draws are no submissions. Of one member at random it is exact; there is nothing
    where the deployed rule is random, or no judge tells.
    """
    rule = config.judges[judge]
    names = [name for name in (CLEAN, *counted) if _is_drawn(records, config, judge, name)]
    if rule.of_a_member:
        # Their share is known, unless they are drawn themselves; each submission draws a member.
        others = [name for name, one in config.judges.items() if one.is_deployed]
        if not others or any(
            0 < record.decisions[other].share_correct < 1
            for name in names for record in records[name].values() for other in others
        ):  # fmt: skip
            return {}, None
        shares = {name: [record.decisions[judge].share_correct for record in records[name].values()]
                  for name in names}  # fmt: skip
        return {
            str(k): {
                name: 1 - sum(right**k for right in each) / len(each)
                for name, each in shares.items()
            }
            for k in SUBMISSIONS
        }, None
    num_drawn = rule.num_drawn(config.adversary.num_submissions)
    num_judgements = num_drawn // rule.num_deciding
    decisions = {name: [record.decisions[judge] for record in records[name].values()]
                 for name in names}  # fmt: skip
    everything = [decision for each in decisions.values() for decision in each]
    random = any(0 < decision.share_correct < 1 for decision in everything)
    older = any(decision.share_rejudged is None for decision in everything)
    if not random or older or not rule.is_deployed:
        return {}, None
    submissions = {
        str(k): {
            name: 1 - sum(all_right(d.share_correct, num_drawn, k) for d in each) / len(each)
            for name, each in decisions.items()
        }
        for k in SUBMISSIONS
        if k <= num_drawn
    }
    combined = max((len(members) for members in balls(config.attacks, counted).values()), default=0)
    times = min(1 + combined, num_judgements)
    clean = [decision.share_rejudged or 0.0 for decision in decisions[CLEAN]]
    accuracy = sum(all_right(right, num_judgements, times) for right in clean) / len(clean)
    rejudged: Rejudged | None = {"times": times, "accuracy": accuracy} if times > 1 else None
    return submissions, rejudged


def beside_the_paper(summary: Summary, printed: Printed | None, name: str) -> BesidePaper | None:
    """Returns what the paper prints for a checkpoint, and our number counted as it counts.

    Args:
        summary: from `summarize`.
        printed: what the paper prints.
        name: the checkpoint's configuration.

    Returns:
        None where the paper's table does not have the checkpoint.
    """
    if printed is None or name not in printed.rows:
        return None
    of = printed.of
    judge = summary["judges"][printed.judge or next(iter(summary["judges"]))]

    def ours(row: str) -> float | None:
        if row == CLEAN:
            return judge["clean_accuracy"]
        if of == "accuracy":
            return (judge["robust_accuracy"] | judge["worst_of"])[row]
        if of == "successes":
            return judge["successes"][row]["accuracy"]
        return judge["given_clean_correct"][row]

    return {
        "table": printed.table,
        "of": of,
        "rows": {
            row: {"paper": percent / 100, "ours": ours(row)}
            for row, percent in printed.rows[name].items()
        },
        "top5": {
            row: {"paper": percent / 100, "ours": judge["top5_accuracy"][row]}
            for row, percent in printed.top5.get(name, {}).items()
        },
    }
