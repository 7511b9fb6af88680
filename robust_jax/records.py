"""Records of an evaluation on disk, and the numbers that are reductions of them.

For each attack a file `records/NAME.jsonl` grows by one line per example; `records/clean.jsonl`
holds the clean predictions. An evaluation that was stopped goes on after the last whole batch.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from robust_jax import formats, metrics
from robust_jax.protocol import CLEAN, Evaluation


class Decision(NamedTuple):
    """What one judge says of an example.

    Attributes:
        prediction: the class predicted; -1 where a score is NaN.
        correct: is that the label?
        top5: classes of the largest scores.
        share_correct: share of the judge's draws of which each alone is right.
    """

    prediction: int
    correct: bool
    top5: list[int]
    share_correct: float


class Record(NamedTuple):
    """One example under one attack, a line of records/NAME.jsonl.

    Attributes:
        index: row of the example in its split.
        label: its class.
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
        view_fooled: does what the attack saw have it wrong? False on clean images.
        decisions: by judge, the headline's first.
        started: False where the attack begins at other images and found none to begin at.
    """

    index: int
    label: int
    linf: float
    l2: float
    view_fooled: bool
    decisions: dict[str, Decision]
    started: bool = True

    @property
    def headline(self) -> Decision:
        """Returns the decision of the first judge."""
        return next(iter(self.decisions.values()))

    @property
    def right_somewhere(self) -> bool:
        """Returns whether any judge has it right."""
        return any(found.correct for found in self.decisions.values())

    def to_json(self) -> dict[str, Any]:
        """Returns the line."""
        decisions = {judge: found._asdict() for judge, found in self.decisions.items()}
        return self._asdict() | {"decisions": decisions}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Record":
        """Returns the record of a line."""
        decisions = {judge: Decision(**found) for judge, found in line["decisions"].items()}
        fields: dict[str, Any] = {**line, "decisions": decisions}
        return cls(**fields)


def check_numbers(records: Iterable[Record], name: str) -> None:
    """Raises ValueError where a score was NaN, and names the examples."""
    found = [r.index for r in records if any(d.prediction < 0 for d in r.decisions.values())]
    if found:
        raise ValueError(
            f"Expected the scores of {name} images to be numbers, found NaN on examples {found}."
        )


Records = dict[str, dict[int, Record]]
"""By attack (and CLEAN), by row."""


def append_lines(file: pathlib.Path, lines: Iterable[dict[str, Any]]) -> None:
    """Appends JSON lines, from process 0 alone; a line that a stop cut short is cut off first."""
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+") as stream:
            if stream.tell() and not _ends_line(stream):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(formats.as_lines(lines).encode())


def _ends_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def save_shown(file: pathlib.Path, records: Sequence[Record], images: np.ndarray) -> None:
    """Writes the first images of a records file beside it, from process 0 alone."""
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = records[: len(images)]
        index = np.asarray([record.index for record in kept], np.int32)
        np.savez_compressed(file.with_suffix(".npz"), index=index, images=images[: len(kept)])


def read_shown(directory: str | pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and images [n h w k] that `save_shown` wrote for an attack; none it skipped."""
    if not (pathlib.Path(directory) / "records" / f"{name}.npz").is_file():
        return np.zeros(0, np.int32), np.zeros((0, 0, 0, 0), np.float32)
    with np.load(pathlib.Path(directory) / "records" / f"{name}.npz") as found:
        return found["index"], found["images"]


def resume(file: pathlib.Path | None, rows: np.ndarray, size: int) -> dict[int, Record]:
    """Returns the records of the whole batches in a file, and cuts anything after them off.

    Several processes read the file that process 0 writes, so they must share it.
    """
    if file is None or not file.is_file():
        return {}
    records = _read(file, resumed=True)
    whole = len(records) if len(records) == len(rows) else len(records) // size * size
    records = records[:whole]
    if [record.index for record in records] != rows[:whole].tolist():
        raise ValueError(f"Expected {str(file)!r} to hold this evaluation's examples in order.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"read {file.name}")
    if jax.process_index() == 0:
        formats.write_lines(file, (record.to_json() for record in records))
    return {record.index: record for record in records}


def read_records(directory: str | pathlib.Path) -> Records:
    """Returns the records that an evaluation wrote; the attacks' lack what they skipped."""
    records: Records = {}
    for file in sorted((pathlib.Path(directory) / "records").glob("*.jsonl")):
        records[file.stem] = {record.index: record for record in _read(file)}
    return records


def _read(file: pathlib.Path, *, resumed: bool = False) -> list[Record]:
    found = []
    for number, line in enumerate(formats.read_lines("record", file, resumed=resumed), start=1):
        try:
            found.append(Record.from_json(line))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected {str(file)!r}, line {number}, to be a record: {error}"
            ) from error
    return found


def candidates(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns of how many examples a selection by correctness chose, and their clean accuracy."""
    found = read_records(directory)[CLEAN].values()
    share, interval = _share(record.headline.correct for record in found)
    return {"num_examples": len(found), "clean_accuracy": share, "interval": interval}


def seconds_by_attack(directory: pathlib.Path) -> dict[str, float]:
    """Returns the time that the batches of each attack took, over all starts of an evaluation."""
    found: dict[str, float] = {}
    file = directory / "seconds.jsonl"
    lines = formats.read_lines("seconds", file, resumed=True)
    for number, line in enumerate(lines, start=1):
        if not line.keys() >= {"name", "seconds"}:
            raise ValueError(f"Expected {str(file)!r}, line {number}, to have name and seconds.")
        found[line["name"]] = found.get(line["name"], 0.0) + line["seconds"]
    return found


def summarize(
    records: Records, config: Evaluation, seconds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Returns the numbers of an evaluation, fractions in [0, 1] with 95 % Wilson intervals.

    The headline judge's numbers stand at the top, every judge's under `judges`:

    * `clean_accuracy`, `robust_accuracy` (right clean and attacked) over all chosen examples;
    * `worst_case_accuracy`: right clean and under every attack that the judge counts;
    * `worst_of`: the same over the attacks that a row of the protocol names;
    * `given_clean_correct`: robust accuracy over the examples that are right clean;
    * `top5_accuracy`: share of the images, clean and attacked, whose label is among the five
      classes of largest score; None of an attack that was not made on all of them;
    * `single_draw`: mean accuracy of one draw on the same images (random methods);
    * `successes`: how many examples, right clean by the headline's judge, an attack makes wrong for
      it, and the judge's accuracy on those alone (the only ones that the REGroup paper counts).

    Args:
        records: from `evaluate`.
        config: the protocol.
        seconds: time of each attack, `seconds_by_attack`.
    """
    judges = {judge: _of_judge(records, config, judge) for judge in config.judges}
    headline = next(iter(judges.values()))
    top = ("clean_accuracy", "robust_accuracy", "worst_case_accuracy", "intervals")
    return {
        "num_examples": len(records[CLEAN]),
        "selection": config.selection,
        "budget": config.budget,
        "wall_seconds": sum((seconds or {}).values()),
        "seconds": dict(seconds or {}),
        **{name: headline[name] for name in top},
        "judges": judges,
    }


def beside_the_paper(
    summary: Mapping[str, Any], config: Evaluation, name: str
) -> dict[str, Any] | None:
    """Returns what the paper prints for a checkpoint, and our number counted as it counts.

    Args:
        summary: from `summarize`.
        config: the protocol.
        name: the checkpoint's configuration.

    Returns:
        `table`, `of` (what is counted) and `rows`: by row, `paper` and `ours`, fractions. None
        where the paper's table does not have the checkpoint.
    """
    found = config.printed
    if found is None or name not in found.rows:
        return None
    judge = summary["judges"][found.judge or next(iter(summary["judges"]))]

    def ours(row: str) -> float | None:
        if row == CLEAN:
            return judge["clean_accuracy"]
        if found.of == "accuracy":
            return (judge["robust_accuracy"] | judge["worst_of"])[row]
        value = judge[found.of][row]
        return value["accuracy"] if found.of == "successes" else value

    return {
        "table": found.table,
        "of": found.of,
        "rows": {
            row: {"paper": percent / 100, "ours": ours(row)}
            for row, percent in found.rows[name].items()
        },
    }


def _share(correct: Iterable[bool]) -> tuple[float, list[float]]:
    values = list(correct)
    return sum(values) / len(values), list(metrics.interval(sum(values), len(values)))


def _of_judge(records: Records, config: Evaluation, judge: str) -> dict[str, Any]:
    counted = [n for n, run in config.attacks.items()
               if config.judges[judge].adaptive or not run.adaptive]  # fmt: skip
    clean, headline = records[CLEAN], next(iter(config.judges))

    def correct(name: str, row: int, by: str = judge) -> bool:
        return records[name][row].decisions[by].correct

    def worst(names: Iterable[str]) -> tuple[float, list[float]]:
        names = [CLEAN, *names]
        return _share(all(correct(name, row) for name in names) for row in clean)

    def successes(name: str) -> dict[str, Any]:
        fallen = [
            row
            for row in clean
            if correct(CLEAN, row, headline) and not correct(name, row, headline)
        ]
        right = sum(correct(name, row) for row in fallen)
        return {"count": len(fallen), "accuracy": right / len(fallen) if fallen else None}

    def top5(name: str) -> float | None:
        run = config.attacks.get(name)
        attacks_all = run is None or run.source is not None or not config.skip_misclassified
        if not attacks_all and not all(record.right_somewhere for record in clean.values()):
            return None  # what was left out stands as its clean image
        found = [records[name][row] for row in clean]
        return _share(record.label in record.decisions[judge].top5 for record in found)[0]

    clean_accuracy, clean_interval = worst(())
    robust = {name: worst((name,)) for name in counted}
    worst_case, worst_interval = worst(counted)
    groups = {name: worst(members) for name, members in config.worst_of.items()
              if set(members) <= set(counted)}  # fmt: skip
    num_clean = sum(correct(CLEAN, row) for row in clean)
    return {
        "clean_accuracy": clean_accuracy,
        "robust_accuracy": {name: value for name, (value, _) in robust.items()},
        "worst_case_accuracy": worst_case,
        "worst_of": {name: value for name, (value, _) in groups.items()},
        "given_clean_correct": {
            name: round(value * len(clean)) / num_clean if num_clean else None
            for name, (value, _) in robust.items()
        },
        "top5_accuracy": {name: top5(name) for name in [CLEAN, *counted]},
        "single_draw": {
            name: sum(records[name][row].decisions[judge].share_correct for row in clean)
            / len(clean)
            for name in [CLEAN, *counted]
        },
        "successes": {name: successes(name) for name in counted},
        "intervals": {
            "clean_accuracy": clean_interval,
            "robust_accuracy": {name: bounds for name, (_, bounds) in robust.items()},
            "worst_case_accuracy": worst_interval,
            "worst_of": {name: bounds for name, (_, bounds) in groups.items()},
        },
    }
