"""The numbers of a study, read from what its rows left on disk."""

import json
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from robust_jax import formats
from robust_jax.evaluation.summary import JudgeSummary, Summary
from robust_jax.study.definition import FRUGAL, HONEST, PAPER, Study
from robust_jax.study.run import Budget, Task


class Share(NamedTuple):
    """A share of the images, with its 95 % interval."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """What a study says of a row with a seed; None where its evaluation does not ask.

    Attributes:
        task: of which.
        title: as the study calls it.
        family: of the row.
        num_images: of the evaluation.
        budget: of the evaluation.
        clean: accuracy.
        paper: robust accuracy under the paper's own attack, counted as the paper counts.
        frugal: under the suite of few passes.
        worst: by ball, right clean and under every attack in it.
        single_draw: least accuracy of one draw, or of one member, under an attack.
        certified: share that bounds or votes prove, at the evaluation's radius.
        flags: checks that were raised.
        images_per_second: of training, the median; None where nothing was trained.
    """

    task: Task
    title: str
    family: str
    num_images: int
    budget: Budget
    clean: Share
    paper: Share | None
    frugal: Share | None
    worst: dict[str, Share]
    single_draw: float | None
    certified: Share | None
    flags: tuple[str, ...]
    images_per_second: float | None


def read(study: Study, tasks: Iterable[Task], out: pathlib.Path) -> list[Line]:
    """Returns the lines of the tasks that are done, in the order of the study."""
    return [
        line_of(study, task, task.workdir(out))
        for task in tasks
        if (task.workdir(out) / "summary.json").is_file()
    ]


def line_of(study: Study, task: Task, directory: pathlib.Path) -> Line:
    """Returns a task's line.

    Raises:
        ValueError: a summary that a later version wrote.
    """
    summary = cast(Summary, formats.read("summary", directory / "summary.json"))
    judges = summary["judges"]
    honest = judges[HONEST]
    row = study.rows[task.name]
    certificates = list(summary.get("certificates", {}).values())
    proven = certificates[0] if certificates else None
    draws = [one["single_draw"].values() for one in judges.values()]
    return Line(
        task=task,
        title=row.title,
        family=row.family,
        num_images=summary["num_examples"],
        budget=summary["budget"],
        clean=Share(honest["clean_accuracy"], *honest["intervals"]["clean_accuracy"]),
        paper=_robust(judges.get(PAPER), PAPER),
        frugal=_robust(honest, FRUGAL),
        worst=_worst(honest),
        single_draw=min((value for values in draws for value in values), default=None),
        certified=None
        if proven is None or proven["intervals"] is None
        else Share(proven["certified_accuracy"], *proven["intervals"]["certified_accuracy"]),
        flags=tuple(f["check"] for f in summary.get("sanity", []) if f["status"] == "flag"),
        images_per_second=_rate(directory / "metrics.jsonl"),
    )


def _robust(judge: JudgeSummary | None, attack: str) -> Share | None:
    value = None if judge is None else judge["robust_accuracy"].get(attack)
    if judge is None or value is None:
        return None
    return Share(value, *judge["intervals"]["robust_accuracy"][attack])


def _worst(judge: JudgeSummary) -> dict[str, Share]:
    return {
        ball: Share(value, *judge["intervals"]["worst_case_accuracy"][ball])
        for ball, value in judge["worst_case_accuracy"].items()
        if value is not None
    }


def _rate(file: pathlib.Path) -> float | None:
    """Returns the median rate of a run's log; None without one."""
    if not file.is_file():
        return None
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return statistics.median(rates) if rates else None


def relative_times(study: Study, lines: Sequence[Line]) -> dict[Task, float]:
    """Returns the training time of each line relative to that of the reference with its seed.

    All rows train on as many images, so it is the ratio of their rates.
    """
    reference = {
        line.task.seed: line.images_per_second
        for line in lines
        if line.task.name == study.reference
    }
    return {
        line.task: whole / line.images_per_second
        for line in lines
        if line.images_per_second is not None and (whole := reference.get(line.task.seed))
    }


def found(study: Study, out: pathlib.Path) -> list[Task]:
    """Returns the tasks that lie in a study's directory, row after row, by seed."""
    return [
        Task(name, int(place.name.removeprefix("seed")), row.after)
        for name, row in study.rows.items()
        for place in sorted((out / name).glob("seed*[0-9]"))
        if place.is_dir()
    ]
