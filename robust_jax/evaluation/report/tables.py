"""The report's tables: accuracy, the paper's numbers, findings, other columns."""

from collections.abc import Mapping, Sequence

from robust_jax.evaluation.protocol import CLEAN, Printed
from robust_jax.evaluation.report.page import table
from robust_jax.evaluation.report.terminal import (
    AGAIN,
    COUNTED,
    COUNTS,
    IN_THE_BALL,
    Cell,
    cells,
    clean_cells,
    names,
    printed_cell,
    rejudged,
    submissions,
)
from robust_jax.evaluation.sanity import Finding
from robust_jax.evaluation.summary import Row, Summary
from robust_jax.runtime.wording import NOTHING, percent, text

STATUS_WORDS = {"flag": "FLAG", "note": "Note", "passed": "Passed", "not run": "Not run"}


def with_interval(number: Cell) -> str:
    """Returns a number and its interval as a cell."""
    if number is None:
        return NOTHING
    value, (low, high) = number
    return f"{percent(value)} <small>{100 * low:.1f} to {100 * high:.1f}</small>"


def headline(summary: Summary, descriptions: Mapping[str, str]) -> str:
    """Returns the table of accuracies: attacks are rows, judges columns, the paper's last."""
    judges, paper = summary["judges"], summary.get("printed")
    submitted = submissions(summary)

    def row(kind: Row, name: str) -> list[str]:
        return [*map(with_interval, cells(summary, kind, name)), *beside(name)]

    def beside(name: str) -> list[str]:
        draws = [percent(rows.get(name)) for rows in (submitted or {}).values()]
        return draws if paper is None else [*draws, text(printed_cell(paper, name))]

    def named(name: str, what: str) -> str:
        return f"{text(name)}<br><small>{text(what)}</small>"

    rows = [["clean", *map(with_interval, clean_cells(summary)), *beside("clean")]]
    for name in names(summary, "robust_accuracy"):
        rows.append([named(name, descriptions.get(name, "")), *row("robust_accuracy", name)])
    for name in names(summary, "worst_of"):
        rows.append([named(name, "worst case of its attacks"), *row("worst_of", name)])
    again = rejudged(summary)
    if again is not None:
        rows.append([named("clean, judged again", AGAIN), *again, *beside("")])
    for name in names(summary, "worst_case_accuracy"):
        what = named(f"worst case, {name}", IN_THE_BALL)
        rows.append([what, *row("worst_case_accuracy", name)])
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
    columns = [f"{name}: {COUNTED[judge['counts']]}" for name, judge in judges.items()]
    worst = bool(names(summary, "worst_case_accuracy"))
    headings = ["attack", *columns, *(submitted or {}), *printed]
    return lead + table(headings, rows, total=worst)


def papers_table(printed: Printed | None) -> str:
    """Returns the whole table of the paper, folded."""
    if printed is None:
        return ""
    rows = {model: [text(model)] for model in printed.rows}
    headings = ["model"]
    for numbers, words in ((printed.rows, ""), (printed.top5, ", top 5")):
        columns = list(dict.fromkeys(column for row in numbers.values() for column in row))
        headings += [column + words for column in columns]
        for model, row in rows.items():
            cells = numbers.get(model, {})
            row += [f"{cells[column]:.2f} %" if column in cells else NOTHING for column in columns]
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


def details(summary: Summary) -> str:
    """Returns what papers count besides, distances, passes and time of each attack, the command."""
    judges = summary["judges"]
    headings = ["attack"]
    for judge in judges:
        headings += [f"{judge}: given clean right", "one draw", "top 5", "#S, right of those"]
    rows = []
    for name in names(summary, "robust_accuracy"):
        row = [text(name)]
        for judge in judges.values():
            if name not in judge["robust_accuracy"]:
                row += [NOTHING] * 4
                continue
            successes = judge["successes"][name]
            row += [
                percent(judge["given_clean_correct"][name]),
                percent(judge["single_draw"][name]),
                percent(judge["top5_accuracy"][name]),
                f"{successes['count']}, {percent(successes['accuracy'])}",
            ]
        passes, seconds = summary["passes"].get(name), summary["seconds"].get(name)
        cost = NOTHING
        if passes is not None:
            cost = f"{passes['forward']:,.0f} + {passes['backward']:,.0f}"
        took = NOTHING if seconds is None else f"{seconds:.1f} s"
        rows.append([*row, *_distances(summary, name), cost, took])
    words = (
        "<p>#S: images that the attack turned wrong for the first column's judge. The share that "
        "a column has right of those alone is what some papers print; it is no robust accuracy. "
        "Top 5: images, clean and attacked, whose label is among the five largest scores, where "
        "none was left out because it was wrong; clean: "
        + text(
            ", ".join(f"{n} {percent(one['top5_accuracy'][CLEAN])}" for n, one in judges.items())
        )
        + ". Linf, L2, L1 and changed pixels (L0): medians over the images of #S. Passes: forward "
        "and backward ones of the network on an image, the mean of those that were attacked.</p>"
    )
    command = f"<p>Command: <code>{text(summary.get('command', ''))}</code></p>"
    headings += ["Linf", "L2", "L1", "L0", "passes", "time"]
    return words + table(headings, rows) + command if rows else command


def _distances(summary: Summary, name: str) -> list[str]:
    """Returns the medians of an attack's changes, a cell a norm."""
    found = summary["distances"].get(name)
    if found is None:
        return [NOTHING] * 4
    medians = (found["linf"], found["l2"], found["l1"], found["l0"])
    return [NOTHING if value is None else f"{value:.4g}" for value in medians]
