"""Checks that need the records alone: orders of attacks that masked gradients turn round."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from robust_jax import metrics, serialization
from robust_jax.evaluation.attack_runs import AttackRun, balls
from robust_jax.evaluation.judges import HONEST, PAPER
from robust_jax.evaluation.protocol import CLEAN
from robust_jax.evaluation.records import Records
from robust_jax.evaluation.sanity.findings import Finding, outranks

WIDE = 0.05
"""Half width of an interval from which on examples are called too few."""

MISSED = 0.2
"""Share of the images, right clean, that fool the attacked view but not the judge: too many."""

STRENGTHS = ("eps", "num_steps", "num_restarts", "eot_samples")
"""Fields of which more may never help the defence."""


def check_records(records: Records, attacks: Mapping[str, AttackRun], judge: str) -> list[Finding]:
    """Returns what the records of an evaluation say about its attacks.

    Args:
        records: of every attack.
        attacks: of the evaluation, by name.
        judge: whose word counts, `Evaluation.deciding`.
    """
    return [
        *no_numbers(records, judge),
        *no_starts(records),
        too_few(records),
        attacked_view_decides(records, attacks, judge),
        black_box(records, attacks, judge),
        honest_column(records, attacks),
        adaptive_attacks(records, attacks, judge),
        *monotone(records, attacks, judge),
    ]


def no_numbers(records: Records, judge: str) -> Iterator[Finding]:
    """Yields a flag where adversarial images have NaN scores, which count as not robust."""
    counts = {
        name: sum(rows[row].decisions[judge].prediction < 0 for row in records[CLEAN])
        for name, rows in records.items()
    }
    broken = [f"{name} {count}" for name, count in counts.items() if count]
    if broken:
        yield Finding(
            "scores are numbers",
            "flag",
            f"Scores are NaN on adversarial images ({', '.join(broken)}), counted as not robust.",
            "Find the operation that overflows or divides by zero; a deployed model must decide.",
        )


def no_starts(records: Records) -> Iterator[Finding]:
    """Yields a flag where an attack found no image to begin at, and so attacked nothing."""
    counts = {name: sum(not r.started for r in rows.values()) for name, rows in records.items()}
    without = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    if without:
        yield Finding(
            "every image has a start",
            "flag",
            f"Attacks that begin at other images found none to begin at ({without}): these "
            "examples count as robust, though nothing was tried.",
            "Quote these attacks on the other examples alone; try Square, which needs no start.",
        )


def too_few(records: Records) -> Finding:
    """Returns a note where the interval of a robust accuracy is wide."""
    number = len(records[CLEAN])
    low, high = metrics.interval(number // 2, number)
    half = (high - low) / 2
    if half <= WIDE:
        return Finding("number of examples", "passed", f"{number} examples: +-{100 * half:.1f} %.")
    return Finding(
        "number of examples",
        "note",
        f"{number} examples give intervals of up to +-{100 * half:.1f} %.",
        "Take at least 1,000 before comparing methods.",
    )


def standing(records: Records, name: str, judge: str) -> list[bool]:
    """Returns which examples are right clean and under an attack, in order of the clean ones."""
    clean = records[CLEAN]
    return [
        record.decisions[judge].correct and records[name][row].decisions[judge].correct
        for row, record in clean.items()
    ]


def is_black_box(run: AttackRun) -> bool:
    """Returns whether an attack sees scores or decisions alone, or another model."""
    return run.source is not None or not run.attack.needs_logits


def attacked_view_decides(
    records: Records, attacks: Mapping[str, AttackRun], judge: str
) -> Finding:
    """Returns a flag where attacks fool what they see, and not what decides.

    Of each ball the white-box attack that carries over best counts: an oblivious attack of a paper
    is no defect of an evaluation that has an adaptive one beside it.
    """
    name = "attacked view and judge agree"
    worst: tuple[float, str, str] | None = None
    for threat, members in balls(attacks, nested=False).items():
        best: tuple[float, str] | None = None
        for member in members:
            if attacks[member].source is not None:
                continue
            right = [row for row, r in records[CLEAN].items() if r.decisions[judge].correct]
            attacked = [records[member][row] for row in right]
            if sum(record.view_fooled for record in attacked) < 5:
                continue
            missed = sum(r.view_fooled and r.decisions[judge].correct for r in attacked)
            missed /= len(attacked)
            if best is None or missed < best[0]:
                best = (missed, member)
        if best is not None and (worst is None or best[0] > worst[0]):
            worst = (*best, str(threat))
    if worst is None:
        return Finding(name, "not run", "No white-box attack fooled as many as five images.")
    missed, member, ball = worst
    text = (
        f"In the ball {ball} the attack that carries over best, {member}, fools the view that it "
        f"sees, but not the judge {judge!r}, on {100 * missed:.1f} % of the images."
    )
    if missed <= MISSED:
        return Finding(name, "passed", text)
    return Finding(
        name,
        "flag",
        text,
        "Attack what decides: the deployed view, through EOT where it is random; check that the "
        "attack's draws are not frozen ones that the judge never uses.",
    )


def black_box(records: Records, attacks: Mapping[str, AttackRun], judge: str) -> Finding:
    """Returns a flag where queries or transfer beat the white-box attacks of the same ball."""
    name, compared = "white box beats black box", 0
    for threat, members in balls(attacks, nested=False).items():
        white = [m for m in members if not is_black_box(attacks[m])]
        black = [m for m in members if is_black_box(attacks[m])]
        if not white or not black:
            continue
        together = worst_case(records, white, judge)
        for member in black:
            compared += 1
            beaten, alone = outranks(standing(records, member, judge), together)
            if beaten:
                return Finding(
                    name,
                    "flag",
                    f"{member} makes {alone} examples wrong that stand under every white-box "
                    f"attack at {threat}: gradients are masked.",
                    "Do not quote the white-box number. Try more steps and restarts, other losses "
                    "(margin, DLR), logits divided by their gap, EOT or BPDA.",
                )
    if not compared:
        return Finding(
            name,
            "not run",
            "No ball of this evaluation has both kinds.",
            "Add Square or a transfer attack at the eps of the white-box attacks.",
        )
    return Finding(name, "passed", f"{compared} black-box attacks, none beats the white box.")


def honest_column(records: Records, attacks: Mapping[str, AttackRun]) -> Finding:
    """Returns a flag where the honest column leaves more standing than the paper's own.

    Ball by ball and image by image: the worst case of all attacks by the honest judge against the
    worst case of the paper's attacks by the paper's judge.
    """
    name = "honest column at or below the paper's"
    judges = {judge for record in records[CLEAN].values() for judge in record.decisions}
    if not {PAPER, HONEST} <= judges:
        return Finding(name, "not run", "This evaluation does not have both columns.")
    sides = [
        (ball, worst_case(records, own + adaptive, HONEST), worst_case(records, own, PAPER))
        for ball, own, adaptive in by_origin(attacks)
        if own
    ]
    return at_or_below(
        name,
        sides,
        said="Honest to paper's",
        absent="No bounded attack is counted by the paper's column.",
        wrong="examples stand in the honest column alone",
        step="Attack what the honest column decides by: its own draws (draws='fixed'), more of "
        "them (EOT), more steps and restarts. Until then quote the paper's column.",
    )


def adaptive_attacks(records: Records, attacks: Mapping[str, AttackRun], judge: str) -> Finding:
    """Returns a flag where a paper's own attacks beat those made against its defence."""
    name = "adaptive attacks beat the paper's"
    if PAPER not in {judge for record in records[CLEAN].values() for judge in record.decisions}:
        # Adaptive ones are tried beside the others then, and need not be the strongest.
        return Finding(name, "not run", "This evaluation has no column of a paper's own attacks.")
    sides = [
        (ball, worst_case(records, adaptive, judge), worst_case(records, own, judge))
        for ball, own, adaptive in by_origin(attacks)
        if own and adaptive
    ]
    return at_or_below(
        name,
        sides,
        said="Left by adaptive attacks to the paper's",
        absent="No ball of this evaluation has both kinds.",
        wrong="examples that stand under every adaptive attack fall to the paper's",
        step="The adaptive attacks do not adapt: check their views and losses, add steps.",
    )


def by_origin(attacks: Mapping[str, AttackRun]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each ball in words, its attacks of the paper, and its adaptive ones."""
    for threat, members in balls(attacks, nested=False).items():
        adaptive = [name for name in members if attacks[name].adaptive]
        own = [name for name in members if name not in adaptive]
        yield str(threat), own, adaptive


def at_or_below(
    name: str,
    sides: Sequence[tuple[str, list[bool], list[bool]]],
    *,
    said: str,
    absent: str,
    wrong: str,
    step: str,
) -> Finding:
    """Returns a flag where, beyond chance, the first side leaves more standing than the second.

    Args:
        name: of the check.
        sides: by ball, which examples stand under each side.
        said: what the shares are.
        absent: the text where nothing can be compared.
        wrong: what is said of the examples that stand on the first side alone.
        step: what to do then.
    """
    compared = []
    for ball, low, high in sides:
        shares = f"{100 * sum(low) / len(low):.1f} % to {100 * sum(high) / len(high):.1f} %"
        above, alone = outranks(high, low)
        if above:
            return Finding(name, "flag", f"At {ball} {alone} {wrong} ({shares}).", step)
        compared.append(f"{ball}: {shares}")
    if not compared:
        return Finding(name, "not run", absent)
    return Finding(name, "passed", f"{said}, {'; '.join(compared)}.")


def worst_case(records: Records, names: Sequence[str], judge: str) -> list[bool]:
    """Returns which examples are right clean and under each of the attacks."""
    return [all(row) for row in zip(*(standing(records, n, judge) for n in names), strict=True)]


def monotone(records: Records, attacks: Mapping[str, AttackRun], judge: str) -> list[Finding]:
    """Returns for each kind of strength whether more of it leaves more examples standing."""
    findings = []
    for field in STRENGTHS:
        name, pairs, bad = f"monotone in {field}", 0, []
        for weaker, stronger in pairs_by(attacks, field):
            pairs += 1
            beaten, alone = outranks(
                standing(records, weaker, judge), standing(records, stronger, judge)
            )
            if beaten:
                bad.append(f"{alone} examples fall to {weaker} and stand under {stronger}")
        if not pairs:
            text = f"No two attacks differ in {field} alone."
            findings.append(Finding(name, "not run", text))
        elif bad:
            findings.append(
                Finding(
                    name,
                    "flag",
                    "; ".join(bad) + ".",
                    "The stronger attack's optimisation fails: lower its step, keep its best "
                    "iterate, add restarts, or look for masked gradients.",
                )
            )
        else:
            findings.append(Finding(name, "passed", f"{pairs} pairs of attacks."))
    return findings


def pairs_by(attacks: Mapping[str, AttackRun], field: str) -> Iterator[tuple[str, str]]:
    """Yields the pairs (weaker, stronger) of neighbours in one field that agree in the others."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for name, run in attacks.items():
        described, attack = serialization.to_json(run), serialization.to_json(run.attack)
        del described["adaptive"], described["attack"]
        holder = described if field == "eot_samples" else attack
        if field == "eps":
            holder = attack.get("threat")
        if not isinstance(holder, dict) or field not in holder:
            continue
        strength, step_size = holder.pop(field), attack.get("step_size")
        if not isinstance(strength, int | float):
            continue
        if field == "eps" and isinstance(step_size, float):
            # A step that follows eps belongs to it.
            attack["step_size"] = round(step_size / (strength or 1.0), 6)
        groups.setdefault(repr((described, attack)), []).append((strength, name))
    for members in groups.values():
        for (low, weaker), (high, stronger) in itertools.pairwise(sorted(members)):
            if low < high:
                yield weaker, stronger
