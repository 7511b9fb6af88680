"""Trains and judges what is missing of a study, and writes its table and page.

    python -m robust_jax.study configs/studies/mnist.py [--only ROW ...] [--seeds 0 1]

Each row is a process of its own, whose words are kept beside its results; the same command goes on
where it was stopped. Machines that share the directory share the rows: each takes what no other
works on.
"""

import dataclasses
import pathlib
import sys

import rich.table

from robust_jax.runtime import command_line, logging
from robust_jax.runtime.wording import NOTHING, percent
from robust_jax.study import page, run, table


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
    """

    study: str
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    out: pathlib.Path | None = None
    data_dir: str | None = None
    budget: run.Budget = "full"
    show: bool = False


def main(arguments: Arguments) -> int:
    """Does what the arguments say; returns the exit status, 1 where a row failed."""
    study = run.load(arguments.study)
    name = pathlib.Path(arguments.study).stem
    name = name if arguments.budget == "full" else f"{name}-reduced"
    out = arguments.out or pathlib.Path("runs") / "studies" / name
    todo = run.tasks(study, arguments.only, arguments.seeds)
    place = arguments.data_dir
    given = [] if place is None else ["--data.source.data-dir", place]
    failed = []
    if not arguments.show:
        failed = run.run(arguments.study, todo, out=out, budget=arguments.budget, given=given)
    lines = table.read(study, table.found(study, out), out)
    if not lines:
        raise ValueError(f"Expected out={str(out)!r} to hold a row that is done.")
    ball = str(study.threats[0])
    printed = rich.table.Table("defence", "clean", "paper", "frugal", f"worst, {ball}", "flags")
    for line in lines:
        shares = (line.clean, line.paper, line.frugal, line.worst.get(ball))
        cells = [NOTHING if share is None else percent(share.value) for share in shares]
        printed.add_row(f"{line.title}, seed {line.task.seed}", *cells, "; ".join(line.flags))
    logging.console.print(printed)
    if any(line.budget == "reduced" for line in lines):
        logging.console.print(page.REDUCED)
    written = page.write(study, lines, spec=arguments.study, out=out)
    logging.console.print(f"Page in {written}", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    with command_line.one_line_errors():
        sys.exit(main(command_line.parse(Arguments, description=__doc__, positional="study")))
