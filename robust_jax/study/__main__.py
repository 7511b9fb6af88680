"""Trains and judges what is missing of a study, and writes its table and page.

    python -m robust_jax.study configs/studies/mnist.py [--only ROW ...] [--seeds 0 1]

Each row is a process of its own, whose words are kept beside its results; the same command goes on
where it was stopped. Machines that share the directory share the rows: each takes what no other
works on.
"""

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Sequence

import rich.table

from robust_jax.runtime import command_line, logging
from robust_jax.runtime.wording import NOTHING, percent
from robust_jax.study import kept, page, plan, run, steps, table
from robust_jax.types import Budget


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        study: a configuration file that defines STUDY.
        only: names of rows; none for all.
        seeds: of each of these rows.
        out: directory; None for runs/studies/NAME, NAME-reduced at the reduced budget.
        data_dir: where the dataset lies; None for where the file says.
        budget: "reduced" for 64 examples and small attacks, not comparable.
        show: run nothing, show what is there.
        plan: run a little of each row, and say how long the whole will take.
        time: measure how long each row trains beside the reference, and run nothing.
        restore: directory of archives that `keep` wrote, whose rows are put into `out` first.
        keep: directory for the records of what is done, an archive for each row, and for tables
            and figure; None for none.
    """

    study: str
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    out: pathlib.Path | None = None
    data_dir: str | None = None
    budget: Budget = "full"
    show: bool = False
    plan: bool = False
    time: bool = False
    restore: pathlib.Path | None = None
    keep: pathlib.Path | None = None


def main(arguments: Arguments) -> int:
    """Does what the arguments say; returns the exit status, 1 where a row failed."""
    study = run.load(arguments.study)
    name = pathlib.Path(arguments.study).stem
    name = name if arguments.budget == "full" else f"{name}-reduced"
    out = arguments.out or pathlib.Path("runs") / "studies" / name
    todo = run.tasks(study, arguments.only, arguments.seeds)
    place = arguments.data_dir
    given = [] if place is None else ["--data.source.data-dir", place]
    if arguments.plan:
        return _plan(plan.rehearse(arguments.study, todo, out=out / "plan", given=given), todo)
    if arguments.restore is not None:
        kept.restore(arguments.restore, out)
    if arguments.time:
        names = list(dict.fromkeys(task.name for task in todo))
        steps.measure(arguments.study, study, names, out=out, data_dir=place)
        return 0
    failed = []
    if not arguments.show:
        failed = run.run(arguments.study, todo, out=out, budget=arguments.budget, given=given)
    lines = table.read(study, table.found(study, out), out)
    if not lines:
        raise ValueError(f"Expected out={str(out)!r} to hold a row that is done.")
    balls = [str(threat) for threat in study.threats]
    columns = [f"{what}, {ball}" for ball in balls for what in ("paper", "worst")]
    printed = rich.table.Table("defence", "clean", *columns, "checks raised")
    for line in lines:
        lefts = [line.balls.get(ball) for ball in balls]
        shares = [share for left in lefts for share in (left and left.paper, left and left.worst)]
        cells = [NOTHING if share is None else percent(share.value)
                 for share in (line.clean, *shares)]  # fmt: skip
        printed.add_row(
            f"{line.title}, seed {line.task.seed}", *cells, str(len(line.flags) or NOTHING)
        )
    logging.console.print(printed)
    outdated = [line for line in lines
                if not run.is_done(arguments.study, line.task, out, line.budget)]  # fmt: skip
    if outdated:
        names = ", ".join(str(line.task) for line in outdated)
        logging.console.print(f"Of an earlier evaluation than the file asks for: {names}")
    if any(line.budget == "reduced" for line in lines):
        logging.console.print(page.REDUCED)
    written = page.write(study, lines, spec=arguments.study, out=out, outdated=outdated)
    logging.console.print(f"Page in {written}", highlight=False)
    if arguments.keep is not None:
        if outdated or any(line.budget == "reduced" for line in lines):
            raise ValueError(
                f"Expected rows of the full budget and of today's evaluation to keep in "
                f"{str(arguments.keep)!r}."
            )
        kept.keep(
            arguments.study, [line.task for line in lines], out, arguments.keep,
            checkpoints=study.checkpoints, rows=study.rows,
        )  # fmt: skip
        (arguments.keep / "study.md").write_text(page.markdown(study, lines))
        shutil.copy(written.with_suffix(".png"), arguments.keep / "study.png")
    return 1 if failed else 0


def _plan(found: Sequence[plan.Forecast], todo: Sequence[run.Task]) -> int:
    printed = rich.table.Table(
        "minutes", "start and compile", "training", "attacks", "certificates", "whole"
    )
    for one in found:
        parts = (one.fixed, one.training, one.attacks, one.certificates, one.total)
        printed.add_row(str(one.task), *(f"{part / 60:.1f}" for part in parts))
    logging.console.print(printed)
    hours = sum(one.total for one in found) / 3600
    logging.console.print(
        f"{len(found)} of {len(todo)} rows: {hours:.1f} hours and the checks", highlight=False
    )
    return int(len(found) < len(todo))


if __name__ == "__main__":
    with command_line.one_line_errors():
        sys.exit(main(command_line.parse(Arguments, description=__doc__, positional="study")))
