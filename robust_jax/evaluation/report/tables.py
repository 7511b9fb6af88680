"""The report's tables: accuracy, the paper's numbers, other columns."""

from collections.abc import Mapping

from robust_jax.evaluation.protocol import CLEAN, Printed
from robust_jax.evaluation.report.page import filled_table, table
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
from robust_jax.evaluation.summary import JudgeSummary, Row, Summary
from robust_jax.runtime.wording import NOTHING, percent, text


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
    notes = (
        "<p>Accuracy, with 95 % Wilson intervals. The columns judge the same adversarial images by "
        "different rules; a dash: an attack that the column does not count. Of one norm balls "
        "nest: what breaks an image inside counts outside. An attack without a bound is in no "
        "worst case.</p>"
    )
    if submitted is not None:
        judge = [name for name, one in judges.items() if one["submissions"]][-1]
        notes += (
            f"<p>The judge {text(judge)} decides at random: every image has its own draws, the "
            "same clean and under every attack. <b>one draw</b>: accuracy of a single draw; "
            "<b>wrong in 1 of k</b>: images that one of k submissions gets wrong.</p>"
        )
    printed = [] if paper is None else [f"printed, {paper['table']}"]
    columns = [f"{name}\n{COUNTED[judge['counts']]}" for name, judge in judges.items()]
    headings = ["attack", *columns, *(submitted or {}), *printed]
    return table(headings, rows, total=len(names(summary, "worst_case_accuracy"))) + notes


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


def details(summary: Summary) -> str:
    """Returns what papers count besides, by judge, and each attack's changes, passes and time."""
    attacks = names(summary, "robust_accuracy")
    if not attacks:
        return ""
    parts = [
        "<p>#S: images that the attack turned wrong for the first column's judge. The share that "
        "a judge has right of those alone is what some papers print; it is no robust accuracy. "
        "Top 5: images, clean and attacked, whose label is among the five largest scores, where "
        "none was left out because it was wrong.</p>"
    ]
    headings = ["attack", "given clean right", "one draw", "top 5", "#S", "right of #S"]
    for position, (name, judge) in enumerate(summary["judges"].items()):
        rows = [_counted(judge, attack) for attack in attacks if attack in judge["robust_accuracy"]]
        shown = len(headings) if position else -1  # of those the first judge has none right
        top5 = percent(judge["top5_accuracy"][CLEAN])
        parts.append(f"<h3>{text(name)}</h3><p>Top 5 of the clean images: {top5}.</p>")
        parts.append(filled_table(headings[:shown], [row[:shown] for row in rows]))
    parts.append(
        "<h3>Changes and costs</h3><p>Linf, L2, L1 and changed pixels (L0): medians over the "
        "images of #S. Passes: forward and backward ones of the network on an image, the mean of "
        "those that were attacked.</p>"
    )
    rows = [[text(name), *_distances(summary, name), *_costs(summary, name)] for name in attacks]
    parts.append(filled_table(["attack", "Linf", "L2", "L1", "L0", "passes", "time"], rows))
    return "".join(parts)


def _counted(judge: JudgeSummary, attack: str) -> list[str]:
    """Returns what a judge counts of an attack beside its robust accuracy."""
    successes = judge["successes"][attack]
    return [
        text(attack),
        percent(judge["given_clean_correct"][attack]),
        percent(judge["single_draw"][attack]),
        percent(judge["top5_accuracy"][attack]),
        str(successes["count"]),
        percent(successes["accuracy"]),
    ]


def _costs(summary: Summary, name: str) -> list[str]:
    """Returns the passes and the time of an attack."""
    passes, seconds = summary["passes"].get(name), summary["seconds"].get(name)
    cost = NOTHING
    if passes is not None:
        cost = f"{passes['forward']:,.0f} + {passes['backward']:,.0f}"
    return [cost, NOTHING if seconds is None else f"{seconds:.1f} s"]


def _distances(summary: Summary, name: str) -> list[str]:
    """Returns the medians of an attack's changes, a cell a norm."""
    found = summary["distances"].get(name)
    if found is None:
        return [NOTHING] * 4
    medians = (found["linf"], found["l2"], found["l1"], found["l0"])
    return [NOTHING if value is None else f"{value:.4g}" for value in medians]
