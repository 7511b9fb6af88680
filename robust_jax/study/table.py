"""The numbers of a study, read from what its rows left on disk."""

import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple, cast

from robust_jax import formats
from robust_jax.attacks import ThreatModel
from robust_jax.evaluation.summary import JudgeSummary, Summary
from robust_jax.study import steps
from robust_jax.study.definition import (
    CROWN,
    FRUGAL,
    HONEST,
    PAPER,
    TRANSFER,
    Study,
    in_ball,
)
from robust_jax.study.run import Task
from robust_jax.types import Budget


class Share(NamedTuple):
    """A share of the images, with its 95 % interval."""

    value: float
    low: float
    high: float


class InBall(NamedTuple):
    """What is left in a ball; None where a row's evaluation does not ask.

    Attributes:
        worst: right clean and under every attack in the ball.
        paper: robust accuracy under the paper's own attack, counted as the paper counts.
        frugal: under the suite of few passes.
        transfer: under what fools a plain row.
        one_draw: least accuracy of one draw of the deployed rule, or of one member, under an
            attack; None where nothing is drawn.
        certified: share that bounds prove, of the first `num_certified`.
        num_certified: images that were certified.
    """

    worst: Share
    paper: Share | None
    frugal: Share | None
    transfer: Share | None
    one_draw: float | None
    certified: Share | None
    num_certified: int | None = None


class Line(NamedTuple):
    """What a study says of a row with a seed.

    Attributes:
        task: of which.
        title: as the study calls it.
        family: of the row.
        num_images: of the evaluation.
        budget: of the evaluation.
        clean: accuracy.
        balls: what is left in each of the study's balls that the row's evaluation attacks in.
        flags: checks that were raised, each with the views that it was raised of.
        training_time: of an image, relative to the reference's; None where it was not measured.
    """

    task: Task
    title: str
    family: str
    num_images: int
    budget: Budget
    clean: Share
    balls: dict[str, InBall]
    flags: tuple[str, ...]
    training_time: float | None


def read(study: Study, tasks: Iterable[Task], out: pathlib.Path) -> list[Line]:
    """Returns the lines of the tasks that are done, in the order of the study."""
    times = steps.read(out)
    return [
        line_of(study, task, task.workdir(out) / "summary.json", times.get(task.name))
        for task in tasks
        if (task.workdir(out) / "summary.json").is_file()
    ]


def line_of(study: Study, task: Task, file: pathlib.Path, time: steps.Time | None = None) -> Line:
    """Returns a task's line.

    Args:
        study: the study.
        task: of it.
        file: the summary of its evaluation.
        time: of its training.

    Raises:
        ValueError: a summary that a later version wrote.
    """
    summary = cast(Summary, formats.read("summary", file))
    honest, row = summary["judges"][HONEST], study.rows[task.name]
    balls = {str(threat): _in_ball(summary, threat) for threat in study.threats}
    return Line(
        task=task,
        title=row.title,
        family=row.family,
        num_images=summary["num_examples"],
        budget=summary["budget"],
        clean=Share(honest["clean_accuracy"], *honest["intervals"]["clean_accuracy"]),
        balls={ball: left for ball, left in balls.items() if left is not None},
        flags=raised(f["check"] for f in summary.get("sanity", []) if f["status"] == "flag"),
        training_time=None if time is None else time.ratio,
    )


def raised(checks: Iterable[str]) -> tuple[str, ...]:
    """Returns each check that was raised once, the views that it was raised of in brackets.

    Args:
        checks: names of findings, such as "view 'deployed': gradients beat queries".
    """
    views: dict[str, list[str]] = {}
    for check in checks:
        viewed = re.fullmatch(r"view '(.+?)':? (.+)", check)
        view, name = viewed.groups() if viewed else (None, check)
        found = views.setdefault(name, [])
        if view is not None and view not in found:
            found.append(view)
    return tuple(name + (f" ({', '.join(of)})" if of else "") for name, of in views.items())


def _in_ball(summary: Summary, threat: ThreatModel) -> InBall | None:
    judges, ball = summary["judges"], str(threat)
    honest = judges[HONEST]
    worst = honest["worst_case_accuracy"].get(ball)
    if worst is None:
        return None
    proven = summary.get("certificates", {}).get(in_ball(CROWN, threat))
    # Another judge's may be of a network without noise, or of a vote.
    drawn = [judge["single_draw"] for judge in judges.values() if judge["submissions"]]
    draws = [share for one in drawn for name, share in one.items()
             if share is not None and name.endswith(in_ball("", threat))]  # fmt: skip
    return InBall(
        worst=Share(worst, *honest["intervals"]["worst_case_accuracy"][ball]),
        paper=_robust(judges[PAPER], in_ball(PAPER, threat)),
        frugal=_robust(honest, in_ball(FRUGAL, threat)),
        transfer=_robust(honest, in_ball(TRANSFER, threat)),
        one_draw=min(draws, default=None),
        certified=None
        if proven is None or proven["intervals"] is None
        else Share(proven["certified_accuracy"], *proven["intervals"]["certified_accuracy"]),
        num_certified=None if proven is None else proven["num_images"],
    )


def _robust(judge: JudgeSummary, attack: str) -> Share | None:
    value = judge["robust_accuracy"].get(attack)
    return None if value is None else Share(value, *judge["intervals"]["robust_accuracy"][attack])


def found(study: Study, out: pathlib.Path) -> list[Task]:
    """Returns the tasks that lie in a study's directory, row after row, by seed."""
    return [
        Task(name, int(place.name.removeprefix("seed")), row.after)
        for name, row in study.rows.items()
        for place in sorted((out / name).glob("seed*[0-9]"), key=lambda place: int(place.name[4:]))
        if place.is_dir()
    ]
