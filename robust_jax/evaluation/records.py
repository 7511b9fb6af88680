"""Records of an evaluation on disk.

For each attack a file `records/NAME.jsonl` grows by one line per example; `records/clean.jsonl`
holds the clean predictions. An evaluation that was stopped goes on after the last whole batch. What
a file's records are of stands beside it (`claims.py`).
"""

import contextlib
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import BinaryIO, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from robust_jax import formats
from robust_jax.evaluation.protocol import CLEAN, AttackRun
from robust_jax.evaluation.record import Decision, Record, Records
from robust_jax.evaluation.reductions import share
from robust_jax.evaluation.summary import Candidates
from robust_jax.runtime.logging import say

__all__ = ["Decision", "Record", "Records"]


def check_numbers(records: Iterable[Record], name: str) -> None:
    """Raises ValueError where a score was NaN, and names the examples."""
    broken = [r.index for r in records if any(d.prediction < 0 for d in r.decisions.values())]
    if broken:
        more = f" and {len(broken) - 8} more" if len(broken) > 8 else ""
        raise ValueError(
            f"Expected the scores of {name} images to be numbers, found NaN on examples "
            f"{broken[:8]}{more}."
        )


def append_lines(file: pathlib.Path, lines: Iterable[Mapping[str, object]]) -> None:
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
        with (
            formats.replacing(file.with_suffix(".npz")) as partial,
            partial.open("wb") as stream,
        ):
            np.savez_compressed(stream, index=index, images=images[: len(kept)])


def read_shown(directory: str | pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and images [n h w k] that `save_shown` wrote for an attack.

    None of one that was skipped, or whose pictures are damaged: no number is made of them.
    """
    file = pathlib.Path(directory) / "records" / f"{name}.npz"
    if file.is_file():
        with (
            contextlib.suppress(Exception),  # whatever zip, zlib and NumPy's header raise
            file.open("rb") as stream,
            np.load(stream) as arrays,
        ):
            return arrays["index"], arrays["images"]
    return np.zeros(0, np.int32), np.zeros((0, 0, 0, 0), np.float32)


def set_aside(file: pathlib.Path) -> None:
    """Renames a file of a random method's records that formats before 3 judged, and says so.

    They gave all rows of a batch one key, and every attack another: nothing of today's may be
    mixed with them. The evaluation's summary, which is of those records, is removed.
    """
    if not file.is_file():
        return
    decisions = [
        d for record in _records_in(file, torn="the end") for d in record.decisions.values()
    ]
    if all(decision.share_rejudged is not None for decision in decisions):
        return
    kept = file.with_name(f"{file.name}.format2")
    say(f"Judged anew, each image by draws of its own: {str(file)!r}, kept as {kept.name!r}.")
    several = jax.process_count() > 1
    if several:  # every host has read it before the first renames it
        multihost_utils.sync_global_devices(f"set aside {file.name}")
    if jax.process_index() == 0:
        (file.parent.parent / "summary.json").unlink(missing_ok=True)
        file.replace(kept)
    if several:
        multihost_utils.sync_global_devices(f"renamed {file.name}")


def resume(file: pathlib.Path | None, rows: np.ndarray, size: int) -> dict[int, Record]:
    """Returns the records of the whole batches in a file, and cuts anything after them off.

    So too from a line on that is torn: what follows it is made anew.

    Several processes read the file that process 0 writes, so they must share it.
    """
    if file is None or not file.is_file():
        return {}
    records = _records_in(file, torn="the end")
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
        records[file.stem] = {record.index: record for record in _records_in(file)}
    return records


def with_skipped(
    run: AttackRun,
    before: Mapping[int, Record],
    attacked: Mapping[int, Record],
    judges: Collection[str],
) -> dict[int, Record]:
    """Returns a run's record of every image: one that was already wrong is not robust.

    Args:
        run: an attack.
        before: records of all chosen images, clean or in the ball before this one.
        attacked: of those that the run attacked, whatever was done to them.
        judges: the protocol's, in its order.
    """
    if run.after is None:
        return {row: attacked.get(row) or one.left_alone() for row, one in before.items()}
    return {row: one.in_a_larger_ball(attacked.get(row), judges) for row, one in before.items()}


def _records_in(
    file: pathlib.Path, *, torn: Literal["refused", "the end"] = "refused"
) -> list[Record]:
    records = []
    for number, line in enumerate(formats.read_lines("record", file, torn=torn), start=1):
        try:
            records.append(Record.from_json(line))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected {str(file)!r}, line {number}, to be a record: {error}"
            ) from error
    return records


def candidates(directory: str | pathlib.Path, judges: Iterable[str]) -> Candidates:
    """Returns of how many examples a selection by correctness chose, and their clean accuracy."""
    clean = _records_in(pathlib.Path(directory) / "records" / f"{CLEAN}.jsonl")
    right, interval = share(record.headline(judges).correct for record in clean)
    return {"num_examples": len(clean), "clean_accuracy": right, "interval": interval}


def seconds_by_attack(directory: pathlib.Path, *, last: bool = False) -> dict[str, float]:
    """Returns the time that the batches of each attack took, over all starts of an evaluation.

    Torn lines do not count: a stop leaves the numbers of records whole, and of seconds nearly.

    Args:
        directory: of the evaluation.
        last: of the last batch alone, in which nothing is compiled?
    """
    seconds: dict[str, float] = {}
    file = directory / "seconds.jsonl"
    lines = formats.read_lines("seconds", file, torn="left out") if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        name, took = line.get("name"), line.get("seconds")
        if not isinstance(name, str) or not isinstance(took, int | float):
            raise ValueError(f"Expected {str(file)!r}, line {number}, to have name and seconds.")
        seconds[name] = took + (0.0 if last else seconds.get(name, 0.0))
    return seconds


def forget_seconds(directory: pathlib.Path, name: str, num_done: int) -> None:
    """Removes the time of batches whose records are gone: set aside, torn or never written.

    Args:
        directory: of the evaluation.
        name: of the attack.
        num_done: how many records are left.
    """
    file = directory / "seconds.jsonl"
    if not file.is_file() or jax.process_index() != 0:
        return
    lines = formats.read_lines("seconds", file, torn="left out")

    def is_kept(line: Mapping[str, object]) -> bool:
        # Lines of format 2 do not say to which record they lead.
        led_to = line.get("num_done", num_done)
        return line.get("name") != name or (isinstance(led_to, int) and 0 < led_to <= num_done)

    kept = [line for line in lines if is_kept(line)]
    if kept != lines:
        formats.write_lines(file, kept)
