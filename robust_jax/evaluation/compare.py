"""Several evaluations in one table and one page.

    python -m robust_jax.evaluation.compare DIR DIR ... [--out compare.html]

A DIR is where evaluate.py wrote `summary.json`. Evaluations of one configuration under the same
protocol (other seeds, other checkpoints) are one column: mean and standard deviation over them. An
attack whose settings differ between evaluations is several rows.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import rich.console
import rich.table

from robust_jax import formats, serialization
from robust_jax.evaluation import claims, descriptions
from robust_jax.evaluation.attack_runs import balls
from robust_jax.evaluation.protocol import CLEAN, Evaluation, Judge
from robust_jax.evaluation.report.page import Section, table, write_page
from robust_jax.evaluation.report.terminal import COUNTED
from robust_jax.evaluation.summary import Summary
from robust_jax.runtime import command_line, python_file
from robust_jax.runtime.wording import NOTHING, percent, text


class Run(NamedTuple):
    """An evaluation on disk.

    Attributes:
        directory: where it lies.
        name: of the checkpoint's configuration.
        config: the protocol.
        identity: what evaluations of one column share, as JSON: all but seeds and weights, and of
            images drawn at random the seed too.
        summary: its numbers.
        data: fingerprint of the images and labels; None in early formats.
        weights: fingerprint of the model's arrays.
        sources: those of the models that attacks are transferred from, by name.
    """

    directory: pathlib.Path
    name: str
    config: Evaluation
    identity: str
    summary: Summary
    data: str | None
    weights: str
    sources: dict[str, str]


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        judge: whose decision.
        name: of the attack, "clean" or "worst case".
        what: the attack's settings in words.
        cells: by column, (accuracy, its 95 % interval) of every evaluation that has the row.
    """

    judge: str
    name: str
    what: str
    cells: list[list[tuple[float, list[float]]]]


def read(directory: pathlib.Path) -> Run:
    """Returns the evaluation that a directory holds.

    Raises:
        ValueError: it holds none that has ended.
    """
    files = [directory / name for name in ("evaluation.json", "summary.json")]
    if not all(file.is_file() for file in files):
        raise ValueError(f"Expected {str(directory)!r} to hold an evaluation that has ended.")
    description = claims.read(directory)
    # It was written as one; `formats` has brought it to today's shape.
    summary = cast(Summary, formats.read("summary", files[1]))
    name = repr(str(files[0]))
    # No row is made of certificates, and those of earlier formats are named as none of today's is.
    evaluation = claims.part(description, "evaluation")
    asked = {**evaluation, "certificates": {}}
    config = serialization.from_json(Evaluation, asked, name=name)
    # Of images that are drawn it says which.
    seed = config.seed if config.selection.rule == "random" else None
    data = description["data"]
    shared: formats.Tree = {
        "name": description["name"],
        "method": description["method"],
        "sources": sorted(claims.part(description, "sources")),
        "evaluation": {**evaluation, "seed": seed},
        "data": data,
    }
    if summary["draws"] != "row":  # judged otherwise, if random: not in one column with others
        shared["draws"] = summary["draws"]
    identity = json.dumps(shared, sort_keys=True)
    return Run(
        directory, str(description["name"]), config, identity, summary,
        None if data is None else str(data), str(description["weights"]),
        descriptions.networks(claims.part(description, "sources")),
    )  # fmt: skip


def columns(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Returns the evaluations by column, whose heading is the configuration's name.

    Where two columns share the name, the first directory of each stands behind it.
    """
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(run.identity, []).append(run)
    names = [members[0].name for members in alike.values()]
    return {
        name if names.count(name) == 1 else f"{name} ({members[0].directory})": members
        for name, members in zip(names, alike.values(), strict=True)
    }


def rows(by_column: dict[str, list[Run]]) -> Iterator[Row]:
    """Yields the lines of the table, judge after judge, in the order of the first evaluations."""
    runs = [run for members in by_column.values() for run in members]
    every = list(dict.fromkeys(judge for run in runs for judge in _judges(run)))
    for judge in every:
        lines = [[_accuracies(run, judge) for run in members] for members in by_column.values()]
        others = [other.config for other in every if other.name == judge.name]
        called = ", ".join([judge.name, *_apart(judge.config, others)])
        for key in dict.fromkeys(key for column in lines for run in column for key in run):
            cells = [[run[key] for run in column if key in run] for column in lines]
            yield Row(called, key.name, key.what, cells)


class _Judge(NamedTuple):
    """What makes two judges the same: the name, and by which rule."""

    name: str
    config: Judge


def _judges(run: Run) -> Iterator[_Judge]:
    """Yields an evaluation's judges.

    What they count is a line's own; of how many draws is a matter of how well it is known, and
    none of a model that does not draw.
    """
    neutral = Judge()
    same = {name: getattr(neutral, name) for name in ("adaptive", "counts", "num_draws")}
    for name in run.summary["judges"]:
        yield _Judge(name, dataclasses.replace(run.config.judges[name], **same))


def _apart(config: Judge, others: Sequence[Judge]) -> list[str]:
    """Returns in words what tells a judge from others of its name."""
    fields = {
        field.name: {getattr(other, field.name) for other in others}
        for field in dataclasses.fields(config)
    }
    return [f"{n} {getattr(config, n)}" for n, values in fields.items() if len(values) > 1]


class _Key(NamedTuple):
    """What makes two lines the same: the attack's name, its settings in words and as JSON."""

    name: str
    what: str
    settings: str


def _accuracies(run: Run, judge: _Judge) -> dict[_Key, tuple[float, list[float]]]:
    """Returns a judge's accuracies with their intervals."""
    if judge not in _judges(run):
        return {}
    numbers, described = run.summary["judges"][judge.name], run.config.descriptions
    bounds, counted = numbers["intervals"], numbers["robust_accuracy"]
    settings = {name: repr(serialization.to_json(run.config.attacks[name])) for name in counted}
    lines = {_Key(CLEAN, "", ""): (numbers["clean_accuracy"], bounds["clean_accuracy"])}
    counts = numbers["counts"]
    words = "" if counts == "clean_and_attacked" else f", {COUNTED[counts]}"
    for name, value in counted.items():
        if value is None:  # of no image
            continue
        key = _Key(name, described[name] + words, f"{counts} {settings[name]}")
        lines[key] = (value, bounds["robust_accuracy"][name])
    inside = {str(b): names for b, names in balls(run.config.attacks, list(counted)).items()}
    for ball, value in numbers["worst_case_accuracy"].items():
        if value is None:
            continue
        members = inside.get(ball, list(counted))  # of format 2: all attacks
        what = f"under all {len(members)} attacks of its evaluation in this ball{words}"
        settled = f"{counts} {sorted(settings[name] for name in members)}"
        key = _Key(f"worst case, {ball}", what, settled)
        lines[key] = (value, bounds["worst_case_accuracy"][ball])
    return lines


def cell(values: Sequence[tuple[float, Sequence[float]]]) -> str:
    """Returns one accuracy with its interval, or the mean of several with their deviation."""
    if not values:
        return NOTHING
    if len(values) == 1:
        ((value, (low, high)),) = values
        return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"
    shares = [100 * value for value, _ in values]
    mean, deviation = statistics.mean(shares), statistics.stdev(shares)
    return f"{mean:.2f} % +- {deviation:.2f}, n = {len(shares)}"


def warnings(runs: Sequence[Run]) -> list[str]:
    """Returns why the columns cannot be compared, a line each."""
    lines = []
    if any(run.summary["budget"] == "reduced" for run in runs):
        lines.append("Reduced budget: not comparable with any other number.")
    kinds = {
        "data": [((r.data or "unknown")[:8],) for r in runs],
        "images": [
            (
                r.config.selection.split,
                r.config.selection.rule,
                r.summary["num_examples"],
                *(["seed", r.config.seed] if r.config.selection.rule == "random" else []),
            )
            for r in runs
        ],
        "draws, if the method is random": [(r.summary["draws"],) for r in runs],
        "labels to move away from": [(r.config.adversary.labels,) for r in runs],
    }
    for words, values in kinds.items():
        if len(set(values)) > 1:
            listed = "; ".join(" ".join(map(str, value)) for value in dict.fromkeys(values))
            lines.append(f"Not the same {words}: {listed}.")
    if len(runs) > 1 and any(run.config.selection.by_correctness for run in runs):
        lines.append("Images chosen for being right: each evaluation has its own.")
    for name in dict.fromkeys(name for run in runs for name in run.config.judges):
        judges = [run.config.judges[name] for run in runs if name in run.config.judges]
        draws = dict.fromkeys(one.num_draws for one in judges if one.rule != "paper")
        if len(draws) > 1:
            lines.append(f"Not the same draws of judge {name!r}: {', '.join(map(str, draws))}.")
    for name in dict.fromkeys(name for run in runs for name in run.sources):
        if len({run.sources[name] for run in runs if name in run.sources}) > 1:
            lines.append(f"Not the same source {name!r} of transferred examples.")
    alike: dict[tuple[str, int, str], list[str]] = {}
    for run in runs:
        place = str(run.directory)
        alike.setdefault((run.weights, run.config.seed, run.identity), []).append(place)
    for places in alike.values():
        if len(places) > 1:
            lines.append(f"One evaluation more than once, no further seed: {', '.join(places)}.")
    flagged = {
        f["check"] for run in runs for f in run.summary.get("sanity", []) if f["status"] == "flag"
    }
    if flagged:
        lines.append(f"Flagged in some of them: {', '.join(sorted(flagged))}. Read their reports.")
    return lines


def compare(directories: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Prints the table of some evaluations and writes it as a page.

    Args:
        directories: of evaluations that have ended.
        out: file of the page.

    Raises:
        ValueError: no directory, one that holds no evaluation, or one that is named twice.
    """
    if not directories:
        raise ValueError("Expected at least one directory of an evaluation.")
    places = [directory.resolve() for directory in directories]
    if twice := [str(place) for place in places if places.count(place) > 1]:
        raise ValueError(f"Expected {twice[0]!r} once: it would count as another seed.")
    runs = [read(directory) for directory in directories]
    by_column = columns(runs)
    headings = ["judge", "attack", *by_column]
    lines = list(rows(by_column))
    printed = rich.table.Table(*headings)
    for row in lines:
        printed.add_row(row.judge, row.name, *map(cell, row.cells))
    console = rich.console.Console(markup=False)
    console.print(printed)
    cautions = warnings(runs)
    for line in cautions:
        console.print(line, highlight=False)
    lead = "".join(f'<div class="stamp">{text(line)}</div><br>' for line in cautions)
    words = (
        "<p>Accuracy over all chosen images, right before and after the attack where no row says "
        "otherwise: of one evaluation with its 95 % interval, of several "
        "alike (other seeds, other checkpoints) the mean and the standard deviation over them.</p>"
    )
    body = words + table(
        headings,
        [
            [
                text(row.judge),
                f"{text(row.name)}<br><small>{text(row.what)}</small>",
                *(text(cell(values)) for values in row.cells),
            ]
            for row in lines
        ],
    )
    sources = table(
        ["column", "evaluations"],
        [
            [text(name), "<br>".join(text(run.directory) for run in members)]
            for name, members in by_column.items()
        ],
    )
    parts = [Section("Accuracy", body), Section("Where the numbers are from", sources)]
    write_page(out, "Evaluations compared", lead, parts)
    console.print(f"Page in {out}", highlight=False)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        directories: where evaluate.py wrote summaries.
        out: file of the page.
    """

    directories: tuple[pathlib.Path, ...]
    out: pathlib.Path = pathlib.Path("compare.html")


if __name__ == "__main__":
    with command_line.one_line_errors():
        given = command_line.parse(
            Arguments, args=python_file.defined(sys.argv[1:]), positional="directories",
            description=python_file.described(__doc__),
        )  # fmt: skip
        compare(given.directories, given.out)
