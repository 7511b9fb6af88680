"""What a section is made of, and how its rows are kept: a line of JSON each, then one page."""

import json
import pathlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Value = float | int | str | bool | None


class Task(NamedTuple):
    """One row to be measured.

    Attributes:
        table: heading of the table that the row belongs to.
        name: of the row, unique within its table.
        run: measures it; returns the row's values by column.
    """

    table: str
    name: str
    run: Callable[[], dict[str, Value]]


class Setting(NamedTuple):
    """What every section is given.

    Attributes:
        toy: toy sizes, for a rehearsal on the CPU.
        carried: folder that `prepare` wrote: weights, images, the CPU's numbers.
        out: folder of the results.
        deadline: seconds of `time.monotonic` after which no further row is begun.
    """

    toy: bool
    carried: pathlib.Path
    out: pathlib.Path
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


Section = Callable[[Setting], Iterable[Task]]


class Results:
    """Rows on disk, `rows.jsonl`: a run that is stopped or started again keeps what it has.

    A row is done once it was measured on the same hardware, versions and commit; one that failed
    or was not reached is tried again.
    """

    def __init__(self, out: pathlib.Path, machine: dict[str, Value]) -> None:
        self._file, self._machine = out / "rows.jsonl", machine
        out.mkdir(parents=True, exist_ok=True)

    def run(self, section: str, tasks: Iterable[Task], setting: Setting) -> None:
        """Runs the tasks of a section in turn until the deadline, and keeps a row of each."""
        done = {
            (row["table"], row["name"])
            for row in read(self._file)
            if row["section"] == section
            and row["machine"] == self._machine
            and "error" not in row["values"]
        }
        for task in tasks:
            if (task.table, task.name) in done:
                continue
            start = time.monotonic()
            if setting.seconds_left <= 0:
                values: dict[str, Value] = {"error": "not reached within the time limit"}
            else:
                try:
                    values = task.run()
                except Exception as error:  # the other rows go on
                    traceback.print_exc()
                    first = (str(error).strip().splitlines() or [""])[0]
                    values = {"error": f"{type(error).__name__}: {first}"[:300]}
            row = {
                "section": section, "table": task.table, "name": task.name, "values": values,
                "wall_seconds": round(time.monotonic() - start, 2), "machine": self._machine,
            }  # fmt: skip
            with self._file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(f"[{section}] {task.table}: {task.name}: {values}", flush=True)


def read(file: pathlib.Path) -> list[dict]:
    """Returns the rows of a file, of each name the last one that was measured, else the last."""
    kept: dict[tuple[str, str, str], dict] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut short by a kill
            continue
        name = (row["section"], row["table"], row["name"])
        if name not in kept or "error" in kept[name]["values"] or "error" not in row["values"]:
            kept[name] = row
    return list(kept.values())


def page(rows: list[dict], title: str) -> str:
    """Returns the rows as a Markdown page, a table for each heading."""
    lines = [f"# {title}", ""]
    machines = _unique(row["machine"] for row in rows)
    for mark, machine in enumerate(machines, 1):
        text = "; ".join(f"{name} {value}" for name, value in machine.items())
        lines += [text if len(machines) == 1 else f"[{mark}] {text}", ""]
    if len(machines) > 1:
        marks = (f"{row['name']} [{machines.index(row['machine']) + 1}]" for row in rows)
        rows = [{**row, "name": name} for row, name in zip(rows, marks, strict=True)]
    for section in _unique(row["section"] for row in rows):
        lines += [f"## {section}", ""]
        of_section = [row for row in rows if row["section"] == section]
        for table in _unique(row["table"] for row in of_section):
            lines += [f"### {table}", "", *_table([r for r in of_section if r["table"] == table])]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict]) -> Iterator[str]:
    columns = _unique(
        name for row in rows for name, value in row["values"].items() if value is not None
    )
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for row in rows:
        cells = (_text(row["values"].get(column)) for column in columns)
        yield f"| {row['name']} | " + " | ".join(cells) + " |"
    yield ""


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _unique(values: Iterable) -> list:
    found = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
