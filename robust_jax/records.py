"""Records of an evaluation on disk, and the numbers that are reductions of them.

For each attack a file `records/NAME.jsonl` grows by one line per example; `records/clean.jsonl`
holds the clean predictions. An evaluation that was stopped goes on after the last whole batch.
"""

import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from robust_jax import metrics, serialization

CLEAN = "clean"
"""Name of the records without an attack."""


class Record(NamedTuple):
    """One example under one attack, a line of records/NAME.jsonl.

    Attributes:
        index: row of the example in its split.
        label: its class.
        prediction: the class predicted.
        correct: is that its class?
        top5: classes of the largest scores.
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
    """

    index: int
    label: int
    prediction: int
    correct: bool
    top5: list[int]
    linf: float
    l2: float


Records = dict[str, dict[int, Record]]
"""By attack (and CLEAN), by row."""


def append_lines(file: pathlib.Path, lines: Iterable[dict[str, Any]]) -> None:
    """Appends JSON lines, from process 0 alone."""
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))


def resume(file: pathlib.Path | None, rows: np.ndarray, size: int) -> dict[int, Record]:
    """Returns the records of the whole batches in a file, and cuts anything after them off.

    Several processes read the file that process 0 writes, so they must share it.
    """
    if file is None or not file.is_file():
        return {}
    records: list[Record] = []
    for line in file.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        records.append(Record(**json.loads(line)))
    whole = len(records) if len(records) == len(rows) else len(records) // size * size
    records = records[:whole]
    if [record.index for record in records] != rows[:whole].tolist():
        raise ValueError(f"Expected {str(file)!r} to hold this evaluation's examples in order.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"read {file.name}")
    if jax.process_index() == 0:
        partial = file.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record._asdict()) + "\n" for record in records))
        partial.replace(file)
    return {record.index: record for record in records}


def read_records(directory: str | pathlib.Path) -> Records:
    """Returns the records that an evaluation wrote; the attacks' lack what they skipped."""
    records: Records = {}
    for file in sorted((pathlib.Path(directory) / "records").glob("*.jsonl")):
        lines = [Record(**json.loads(line)) for line in file.read_text().splitlines()]
        records[file.stem] = {record.index: record for record in lines}
    return records


def wall_seconds(directory: pathlib.Path) -> float:
    """Returns the time that the batches of an evaluation took, over all its starts."""
    lines = (directory / "seconds.jsonl").read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines)


def summarize(records: Records, wall_seconds: float) -> dict[str, Any]:
    """Returns the numbers of an evaluation, fractions in [0, 1] with 95 % Wilson intervals.

    `worst_case_accuracy` counts the examples that are right clean and under every attack.

    Args:
        records: from `evaluate`.
        wall_seconds: time the evaluation took.
    """
    clean = records[CLEAN]
    attacks = [name for name in records if name != CLEAN]

    def share(correct: Iterable[bool]) -> tuple[float, list[float]]:
        values = list(correct)
        return sum(values) / len(values), list(metrics.interval(sum(values), len(values)))

    clean_accuracy, clean_interval = share(record.correct for record in clean.values())
    robust = {
        name: share(clean[row].correct and records[name][row].correct for row in clean)
        for name in attacks
    }
    worst, worst_interval = share(all(records[n][row].correct for n in records) for row in clean)
    return {
        "num_examples": len(clean),
        "clean_accuracy": clean_accuracy,
        "robust_accuracy": {name: value for name, (value, _) in robust.items()},
        "worst_case_accuracy": worst,
        "wall_seconds": wall_seconds,
        "intervals": {
            "clean_accuracy": clean_interval,
            "robust_accuracy": {name: bounds for name, (_, bounds) in robust.items()},
            "worst_case_accuracy": worst_interval,
        },
    }


def claim(directory: pathlib.Path, description: dict[str, Any]) -> None:
    """Makes a directory the home of an evaluation, or finds that it is so already.

    The first start writes `evaluation.json`, which names what is evaluated.

    Raises:
        ValueError: the directory holds another evaluation; names the fields that differ.
    """
    file = directory / "evaluation.json"
    description = json.loads(json.dumps(description))
    if file.is_file():
        lines = serialization.differences(json.loads(file.read_text()), description, name="")
        if lines:
            raise ValueError(
                f"Expected out={str(directory)!r} to be new or to hold this evaluation; it has "
                + "; ".join(lines)
                + "."
            )
    elif jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(description, indent=2))
