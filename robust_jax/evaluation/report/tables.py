"""The report's tables: accuracy, the paper's numbers, findings, other columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from robust_jax.evaluation.protocol import CLEAN, Printed
from robust_jax.evaluation.report.page import table
from robust_jax.evaluation.report.terminal import (
    AGAIN,
    COUNTED,
    COUNTS,
    IN_THE_BALL,
    printed_cell,
    rejudged,
    submissions,
)
from robust_jax.evaluation.sanity import Finding
from robust_jax.runtime.wording import NOTHING, percent, text

STATUS_WORDS = {"flag": "FLAG", "note": "Note", "passed": "Passed", "not run": "Not run"}


def _with_interval(value: float, bounds: Sequence[float]) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in bounds)
    return f"{percent(value)} <small>{low} to {high}</small>"


def headline(summary: Mapping[str, Any], descriptions: Mapping[str, str]) -> str:
    """Returns the table of accuracies: attacks are rows, judges columns, the paper's last."""
    judges, paper = summary["judges"], summary.get("printed")
    submitted = submissions(summary)

    def cells(field: str, name: str) -> list[str]:
        found = []
        for judge in judges.values():
            values, bounds = judge[field], judge["intervals"][field]
            known = name in values
            found.append(_with_interval(values[name], bounds[name]) if known else NOTHING)
        return [*found, *beside(name)]

    def beside(name: str) -> list[str]:
        draws = [percent(rows.get(name)) for rows in (submitted or {}).values()]
        return draws if paper is None else [*draws, text(printed_cell(paper, name))]

    def names(field: str) -> list[str]:
        return list(dict.fromkeys(name for found in judges.values() for name in found[field]))

    def named(name: str, what: str) -> str:
        return f"{text(name)}<br><small>{text(what)}</small>"

    clean = [_with_interval(judge["clean_accuracy"], judge["intervals"]["clean_accuracy"])
             for judge in judges.values()]  # fmt: skip
    rows = [["clean", *clean, *beside("clean")]]
    for name in names("robust_accuracy"):
        what = descriptions.get(name, "")
        rows.append([named(name, what), *cells("robust_accuracy", name)])
    for name in names("worst_of"):
        rows.append([named(name, "worst case of its attacks"), *cells("worst_of", name)])
    again = rejudged(summary)
    if again is not None:
        rows.append([named("clean, judged again", AGAIN), *again, *beside("")])
    for name in names("worst_case_accuracy"):
        rows.append(
            [named(f"worst case, {name}", IN_THE_BALL), *cells("worst_case_accuracy", name)]
        )
    lead = (
        "<p>Accuracy, with 95 % Wilson intervals. The columns judge the same adversarial images by "
        "different rules; a dash: an attack that the column does not count. Of one norm balls "
        "nest: what breaks an image inside counts outside. An attack without a bound is in no "
        "worst case.</p>"
    )
    if submitted is not None:
        lead += (
            "<p>The defence is random, and every image has its own draws, the same clean and under "
            "every attack. <b>one draw</b>: accuracy of a single draw; <b>wrong in 1 of k</b>: "
            "images that one of k submissions gets wrong.</p>"
        )
    printed = [] if paper is None else [f"printed, {paper['table']}"]
    columns = [f"{name}: {COUNTED[found['counts']]}" for name, found in judges.items()]
    worst = bool(names("worst_case_accuracy"))
    headings = ["attack", *columns, *(submitted or {}), *printed]
    return lead + table(headings, rows, total=worst)


def papers_table(printed: Printed | None) -> str:
    """Returns the whole table of the paper, folded."""
    if printed is None:
        return ""
    rows = {model: [text(model)] for model in printed.rows}
    headings = ["model"]
    for numbers, words in ((printed.rows, ""), (printed.top5, ", top 5")):
        names = list(dict.fromkeys(name for row in numbers.values() for name in row))
        headings += [name + words for name in names]
        for model, cells in rows.items():
            found = numbers.get(model, {})
            cells += [f"{found[name]:.2f} %" if name in found else NOTHING for name in names]
    for model in printed.cited:
        rows[model][0] += " <small>cited from others</small>"
    counted = COUNTS[printed.of]
    words = f" Under attack it counts accuracy {counted}." if counted else ""
    return (
        f"<details><summary>The paper's {text(printed.table)}</summary><p>As printed; not measured "
        f"here.{words}</p>{table(headings, list(rows.values()))}</details>"
    )


def checks(findings: Sequence[Finding]) -> str:
    """Returns the flags and notes of the sanity checks, and the others folded."""

    def rows(statuses: Sequence[str]) -> list[list[str]]:
        return [
            [
                f'<span class="status {status.replace(" ", "")}">{STATUS_WORDS[status]}</span>',
                text(finding.check),
                f"{text(finding.text)} <b>{text(finding.next_step)}</b>"
                if status in ("flag", "note") else text(finding.text),
            ]
            for status in statuses
            for finding in findings
            if finding.status == status
        ]  # fmt: skip

    raised, others = rows(("flag", "note")), rows(("passed", "not run"))
    num_flags = sum(finding.status == "flag" for finding in findings)
    lead = f"<p>{num_flags} flags among {len(findings)} checks.</p>"
    body = table(["", "check", "what was found, and what to do"], raised) if raised else ""
    rest = table(["", "check", "what was found"], others)
    return f"{lead}{body}<details><summary>All other checks</summary>{rest}</details>"


def details(summary: Mapping[str, Any]) -> str:
    """Returns what the papers count besides, the time of each attack, and the command."""
    judges = summary["judges"]
    headings = ["attack"]
    for judge in judges:
        headings += [f"{judge}: given clean right", "one draw", "top 5", "#S, right of those"]
    rows = []
    for name in dict.fromkeys(n for judge in judges.values() for n in judge["robust_accuracy"]):
        row = [text(name)]
        for found in judges.values():
            if name not in found["robust_accuracy"]:
                row += [NOTHING] * 4
                continue
            successes = found["successes"][name]
            row += [
                percent(found["given_clean_correct"][name]),
                percent(found["single_draw"][name]),
                percent(found["top5_accuracy"][name]),
                f"{successes['count']}, {percent(successes['accuracy'])}",
            ]
        seconds = summary["seconds"].get(name)
        rows.append([*row, NOTHING if seconds is None else f"{seconds:.1f} s"])
    words = (
        "<p>#S: images that the attack turned wrong for the first column's judge. The share that "
        "a column has right of those alone is what some papers print; it is no robust accuracy. "
        "Top 5: images, clean and attacked, whose label is among the five largest scores, where "
        "none was left out because it was wrong; clean: "
        + text(
            ", ".join(f"{n} {percent(one['top5_accuracy'][CLEAN])}" for n, one in judges.items())
        )
        + ".</p>"
    )
    command = f"<p>Command: <code>{text(summary.get('command', ''))}</code></p>"
    return words + table([*headings, "time"], rows) + command if rows else command
