"""What a run prints and writes: progress bar, metrics.jsonl, TensorBoard, tables."""

import contextlib
import json
import logging
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import rich.console
import rich.progress
import rich.table

from robust_jax import formats
from robust_jax.runtime.wording import NOTHING, gibibytes, percent

console = rich.console.Console(stderr=False)


@contextlib.contextmanager
def only_errors() -> Iterator[None]:
    """Keeps remarks of absl's users off the screen (orbax: a save that no metric came with)."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class MetricWriter:
    """Appends metrics to metrics.jsonl and TensorBoard, from process 0 alone.

    Where tensorboardX is not installed, a line says that there will be no TensorBoard files.
    Lines of steps that the run is about to take again (after it was stopped between two
    checkpoints) are dropped, so each step has one line.
    """

    def __init__(self, workdir: pathlib.Path, *, start: int) -> None:
        self._active = jax.process_index() == 0
        if not self._active:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = [line for line in path.read_bytes().split(b"\n") if _step(line) <= start]
            with formats.replacing(path) as partial:
                partial.write_bytes(b"".join(line + b"\n" for line in lines))
        self._file = path.open("a", buffering=1)
        self._board = _board(workdir / "tensorboard", purge_step=start + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._file.close()
            if self._board is not None:
                self._board.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)


def _board(directory: pathlib.Path, *, purge_step: int) -> Any:
    """Returns TensorBoard's writer; None, and a line says so, where tensorboardX is missing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        say("tensorboardX is not installed: metrics.jsonl is written, TensorBoard files are not.")
        return None
    return SummaryWriter(str(directory), purge_step=purge_step)


def _step(line: bytes) -> float:
    """Returns the step of a line; a line that a crash left torn counts as one to drop."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Rate:
    """Images per second between two readings."""

    def __init__(self) -> None:
        self._time, self._images = time.perf_counter(), 0

    def add(self, num_images: int) -> None:
        """Counts images."""
        self._images += num_images

    def read(self) -> float:
        """Returns the rate since the last reading."""
        now = time.perf_counter()
        rate = self._images / max(now - self._time, 1e-9)
        self._time, self._images = now, 0
        return rate


def progress_bar(*, enabled: bool) -> rich.progress.Progress:
    """Returns the bar of a run: what, how far, time left, and a line of metrics."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[status]}"),
        console=console,
        disable=not enabled or jax.process_index() != 0,
        refresh_per_second=4,
    )


def status(metrics: Mapping[str, float]) -> str:
    """Returns the text beside the bar."""
    return (
        f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.3f}  "
        f"{metrics['images_per_second']:.0f} images/s"
    )


def say(text: str) -> None:
    """Prints a line, from process 0 alone."""
    if jax.process_index() == 0:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_summary(title: str, summary: Mapping[str, Any], descriptions: Mapping[str, str]) -> None:
    """Prints the table of an evaluation, from process 0 alone.

    Args:
        title: heading.
        summary: from `records.summarize`.
        descriptions: what each attack is, by its name.
    """
    if jax.process_index() != 0:
        return
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

    def row(name: str, cells: list[tuple[float, list[float]] | None], what: str) -> None:
        draws = [percent(found.get(name)) for found in (submitted or {}).values()]
        beside = [printed_cell(found, name) for found in printed.values()]
        table.add_row(name, *map(_cell, cells), *draws, *beside, what)

    def cells(field: str, name: str) -> list[tuple[float, list[float]] | None]:
        return [
            (found[field][name], found["intervals"][field][name]) if name in found[field] else None
            for found in judges.values()
        ]

    def names(field: str) -> list[str]:
        return list(dict.fromkeys(name for found in judges.values() for name in found[field]))

    def overall(field: str) -> list[tuple[float, list[float]] | None]:
        return [(found[field], found["intervals"][field]) for found in judges.values()]

    row("clean", overall("clean_accuracy"), "")
    for name in names("robust_accuracy"):
        row(name, cells("robust_accuracy", name), descriptions.get(name, ""))
    for name in names("worst_of"):
        row(name, cells("worst_of", name), "under every one of them")
    worst_cases = names("worst_case_accuracy") if len(names("robust_accuracy")) > 1 else []
    for name in worst_cases:
        row(f"worst case, {name}", cells("worst_case_accuracy", name), IN_THE_BALL)
    again = rejudged(summary)
    if again is not None:
        table.add_row(
            "clean, judged again", *again, *[NOTHING for _ in (*(submitted or {}), *printed)], AGAIN
        )
    console.print(table)
    lines = [f"{summary['num_examples']} examples, {summary['wall_seconds']:.1f} s"]
    if summary.get("peak_bytes") is not None:
        lines.append(f"At most {gibibytes(summary['peak_bytes'])} of a device's memory in use")
    if summary["selection"] != "first":
        lines.append(f"Selection: {selected(summary)}")
    if summary["budget"] == "reduced":
        lines.append("REDUCED BUDGET: not comparable with any other number")
    for line in lines:
        console.print(line, highlight=False)


def selected(summary: Mapping[str, Any]) -> str:
    """Returns how the examples were chosen, in words."""
    found = summary.get("candidates")
    if found is None:
        return summary["selection"]
    share = percent(found["clean_accuracy"])
    return f"{summary['selection']}, of {found['num_examples']} of which {share} are right clean"


COUNTED = {
    "clean_and_attacked": "right before and after",
    "attacked": "right after the attack",
    "given_clean_correct": "of those right clean",
}
"""What a judge's column counts under attack."""

IN_THE_BALL = "right clean and under every attack in this ball"
AGAIN = "by independent draws, as often as a worst case judges: luck at most (attacks share draws)"


def submissions(summary: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    """Returns of a random defence, by heading and row, what single draws of it come to.

    They are those of the last judge that has them, the honest one where there is one.
    """
    found = [judge for judge in summary["judges"].values() if judge["submissions"]]
    if not found:
        return None
    lines = {f"wrong in\n1 of {k}": rows for k, rows in found[-1]["submissions"].items()}
    return {"one draw": found[-1]["single_draw"], **lines}


def rejudged(summary: Mapping[str, Any]) -> list[str] | None:
    """Returns by judge the accuracy on clean images that are judged again, in words."""
    found = [judge["rejudged"] for judge in summary["judges"].values()]
    if not any(found):
        return None
    return [
        NOTHING if one is None else f"{percent(one['accuracy'])} ({one['times']} times)"
        for one in found
    ]


COUNTS = {
    "accuracy": "",
    "given_clean_correct": "of those right clean",
    "successes": "of those that fell in the first column",
}
"""What a paper's number counts, where that is not all images."""


def printed_cell(printed: Mapping[str, Any], row: str) -> str:
    """Returns a paper's numbers, and ours where the column beside has another.

    It has accuracy over all images: neither over some of them alone, nor of five classes.

    Args:
        printed: from `records.beside_the_paper`.
        row: name of the row.
    """
    found = []
    counted = "" if row == "clean" else COUNTS[printed["of"]]
    # Summaries of earlier versions have no top 5.
    for rows, words in ((printed["rows"], counted), (printed.get("top5", {}), "top 5")):
        if row in rows:
            paper, ours = (percent(rows[row][name]) for name in ("paper", "ours"))
            found.append(f"{paper} {words} (ours: {ours})" if words else paper)
    return ", ".join(found) or "-"


def print_findings(findings: Iterable[Any]) -> None:
    """Prints flags and notes of the sanity checks, and how many passed or did not run.

    Args:
        findings: `sanity.Finding`s.
    """
    findings = list(findings)
    for finding in findings:
        if finding.status in ("flag", "note"):
            words = {"flag": "FLAG", "note": "Note"}[finding.status]
            say(f"{words}: {finding.check}. {finding.text} {finding.next_step}")
    counts = {name: sum(f.status == name for f in findings) for name in ("passed", "not run")}
    unchecked = ", ".join(f.check for f in findings if f.status == "not run")
    say(
        f"Sanity checks: {counts['passed']} passed, {counts['not run']} not run"
        + (f" ({unchecked})." if unchecked else ".")
    )


def _cell(found: tuple[float, list[float]] | None) -> str:
    if found is None:
        return NOTHING
    value, (low, high) = found
    return f"{percent(value)} ({100 * low:.2f} .. {100 * high:.2f})"
