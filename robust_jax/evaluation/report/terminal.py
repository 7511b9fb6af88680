"""The table of an evaluation and what its sanity checks found, as a terminal shows them."""

import io
from collections.abc import Iterable, Mapping

import jax
import rich.console
import rich.table

from robust_jax.evaluation.sanity import Finding
from robust_jax.evaluation.summary import BesidePaper, Row, Summary
from robust_jax.runtime.logging import console, say
from robust_jax.runtime.wording import NOTHING, gibibytes, percent

Cell = tuple[float | None, list[float]] | None
"""A number and its interval; None where a judge does not count the row."""


def print_summary(
    title: str, summary: Summary, descriptions: Mapping[str, str], words: str = ""
) -> None:
    """Prints the table of an evaluation, from process 0 alone.

    Args:
        title: heading.
        summary: from `reductions.summarize`.
        descriptions: what each attack is, by its name.
        words: what it comes to, `sentence.sentences`; printed below.
    """
    if jax.process_index() == 0:
        _show_on(title, summary, descriptions, words, console)


def as_text(
    title: str, summary: Summary, descriptions: Mapping[str, str], width: int, words: str = ""
) -> str:
    """Returns what `print_summary` prints on a terminal of some width."""
    page = rich.console.Console(markup=False, width=width, file=io.StringIO(), force_jupyter=False)
    with page.capture() as captured:
        _show_on(title, summary, descriptions, words, page)
    return captured.get()


def as_html(
    title: str,
    summary: Summary,
    descriptions: Mapping[str, str],
    findings: Iterable[Finding],
    words: str = "",
) -> str:
    """Returns the table, and what the checks found, as a piece of a page."""
    page = rich.console.Console(
        markup=False, width=120, file=io.StringIO(), record=True, force_jupyter=False
    )
    _show_on(title, summary, descriptions, words, page)
    for line in lines_of(findings):
        page.print(line, highlight=False, markup=False, soft_wrap=True)
    code = '<pre style="line-height: 1.2; overflow-x: auto">{code}</pre>'
    return page.export_html(inline_styles=True, code_format=code)


def _show_on(
    title: str,
    summary: Summary,
    descriptions: Mapping[str, str],
    words: str,
    console: rich.console.Console,
) -> None:
    table = rich.table.Table(title=title, title_justify="left")
    judges, paper = summary["judges"], summary.get("printed")
    printed = {} if paper is None else {f"printed, {paper['table']}": paper}
    submitted = submissions(summary)
    columns = [f"{name}\n{COUNTED[found['counts']]}" for name, found in judges.items()]
    # Numbers on one line where the terminal is wide enough for all columns.
    wide = 28 + 27 * len(columns) + 11 * len(submitted or {}) + 20 * len(printed)
    whole = wide <= console.width
    for heading in ("attack", *columns, *(submitted or {}), *printed, "what"):
        numbers = heading not in ("attack", "what")
        table.add_column(heading, no_wrap=numbers and whole, min_width=10 if not numbers else None)

    def row(name: str, cells: list[Cell], what: str) -> None:
        draws = [percent(rows.get(name)) for rows in (submitted or {}).values()]
        beside = [printed_cell(table, name) for table in printed.values()]
        table.add_row(name, *map(_cell, cells), *draws, *beside, what)

    row("clean", clean_cells(summary), "")
    for name in names(summary, "robust_accuracy"):
        row(name, cells(summary, "robust_accuracy", name), descriptions.get(name, ""))
    for name in names(summary, "worst_of"):
        row(name, cells(summary, "worst_of", name), "under every one of them")
    if len(names(summary, "robust_accuracy")) > 1:
        for name in names(summary, "worst_case_accuracy"):
            what = cells(summary, "worst_case_accuracy", name)
            row(f"worst case, {name}", what, IN_THE_BALL)
    again = rejudged(summary)
    if again is not None:
        table.add_row(
            "clean, judged again", *again, *[NOTHING for _ in (*(submitted or {}), *printed)], AGAIN
        )
    console.print(table)
    if words:
        console.print(words, highlight=False, markup=False)
    lines = [f"{summary['num_examples']} examples, {summary['wall_seconds']:.1f} s"]
    peak = summary.get("peak_bytes")
    if peak is not None:
        lines.append(f"At most {gibibytes(peak)} of a device's memory in use")
    if summary["selection"] != "first":
        lines.append(f"Selection: {selected(summary)}")
    if summary["budget"] == "reduced":
        lines.append("REDUCED BUDGET: not comparable with any other number")
    for line in lines:
        console.print(line, highlight=False)


def clean_cells(summary: Summary) -> list[Cell]:
    """Returns each judge's clean accuracy."""
    return [
        (judge["clean_accuracy"], judge["intervals"]["clean_accuracy"])
        for judge in summary["judges"].values()
    ]


def cells(summary: Summary, kind: Row, name: str) -> list[Cell]:
    """Returns each judge's number in a row of the table."""
    return [
        (judge[kind][name], judge["intervals"][kind][name]) if name in judge[kind] else None
        for judge in summary["judges"].values()
    ]


def names(summary: Summary, kind: Row) -> list[str]:
    """Returns the names of the rows that any judge has a number of."""
    # In the order of the judge that has most of them.
    judges = sorted(summary["judges"].values(), key=lambda judge: -len(judge[kind]))
    return list(dict.fromkeys(name for judge in judges for name in judge[kind]))


def selected(summary: Summary) -> str:
    """Returns how the examples were chosen, in words."""
    candidates = summary.get("candidates")
    if candidates is None:
        return summary["selection"]
    share = percent(candidates["clean_accuracy"])
    number = candidates["num_examples"]
    return f"{summary['selection']}, of {number} of which {share} are right clean"


COUNTED = {
    "clean_and_attacked": "right before and after",
    "attacked": "right after the attack",
    "given_clean_correct": "of those right clean",
}
"""What a judge's column counts under attack."""

IN_THE_BALL = "right clean and under every attack in this ball"
AGAIN = "each of so many times, by independent draws; attacks share theirs, and lose less to luck"


def submissions(summary: Summary) -> Mapping[str, Mapping[str, float | None]] | None:
    """Returns of a random defence, by heading and row, what single draws of it come to.

    They are those of the last judge that has them, the honest one where there is one, and are
    called so where it is not alone.
    """
    submitted = {name: one for name, one in summary["judges"].items() if one["submissions"]}
    if not submitted:
        return None
    name, judge = list(submitted.items())[-1]
    whose = f"{name}:\n" if len(summary["judges"]) > 1 else ""
    lines = {f"{whose}wrong in\n1 of {k}": rows for k, rows in judge["submissions"].items()}
    return {f"{whose}one draw": judge["single_draw"], **lines}


def rejudged(summary: Summary) -> list[str] | None:
    """Returns by judge the accuracy on clean images that are judged again, in words."""
    by_judge = [judge["rejudged"] for judge in summary["judges"].values()]
    if not any(by_judge):
        return None
    return [
        NOTHING if one is None else f"{percent(one['accuracy'])} ({one['times']} times)"
        for one in by_judge
    ]


COUNTS = {
    "accuracy": "",
    "given_clean_correct": "of those right clean",
    "successes": "of those that fell in the first column",
}
"""What a paper's number counts, where that is not all images."""


def printed_cell(printed: BesidePaper, row: str) -> str:
    """Returns a paper's numbers, and ours where the column beside has another.

    It has accuracy over all images: neither over some of them alone, nor of five classes.

    Args:
        printed: from `reductions.beside_the_paper`.
        row: name of the row.
    """
    numbers = []
    counted = "" if row == "clean" else COUNTS[printed["of"]]
    # Summaries of earlier versions have no top 5.
    for rows, words in ((printed["rows"], counted), (printed.get("top5", {}), "top 5")):
        if row in rows:
            paper, ours = percent(rows[row]["paper"]), percent(rows[row]["ours"])
            numbers.append(f"{paper} {words} (ours: {ours})" if words else paper)
    return ", ".join(numbers) or "-"


def print_findings(findings: Iterable[Finding]) -> None:
    """Prints flags and notes of the sanity checks, and how many passed or did not run.

    Args:
        findings: of the checks.
    """
    for line in lines_of(findings):
        say(line)


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """Returns the lines of `print_findings`."""
    findings = list(findings)
    words = {"flag": "FLAG", "note": "Note"}
    lines = [
        f"{words[one.status]}: {one.check}. {one.text} {one.next_step}"
        for one in findings
        if one.status in words
    ]
    counts = {name: sum(f.status == name for f in findings) for name in ("passed", "not run")}
    unchecked = ", ".join(f.check for f in findings if f.status == "not run")
    last = f"Sanity checks: {counts['passed']} passed, {counts['not run']} not run"
    return [*lines, last + (f" ({unchecked})." if unchecked else ".")]


def _cell(number: Cell) -> str:
    if number is None:
        return NOTHING
    value, (low, high) = number
    return f"{percent(value)} ({100 * low:.2f} .. {100 * high:.2f})"
