"""Trains and judges the rows of a study that are missing, each in a process of its own."""

import contextlib
import dataclasses
import itertools
import pathlib
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Sequence

from robust_jax.commands.train import LOCK
from robust_jax.evaluation import claims, descriptions
from robust_jax.experiment import config
from robust_jax.experiment.reading import steps_of
from robust_jax.runtime import locks, logging
from robust_jax.study.definition import Study
from robust_jax.types import Budget

CHECKPOINT = "best.safetensors"
"""In a row's directory, the checkpoint of one that was restored."""


def load(spec: str) -> Study:
    """Returns the study of a file.

    Raises:
        ValueError: no such file, or one without a study, or a row that is none of its variants.
    """
    module, _ = config.load_module(spec)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"Expected {spec} to define STUDY, a robust_jax.study.Study.")
    strange = sorted(set(study.rows) - set(module.VARIANTS))
    if strange:
        raise ValueError(f"Expected rows={strange} of {spec} to be variants of it.")
    return study


@dataclasses.dataclass(frozen=True)
class Task:
    """A row with a seed.

    Attributes:
        name: of the row.
        seed: of its training.
        after: the row that it starts from; None for none.
    """

    name: str
    seed: int
    after: str | None

    def workdir(self, out: pathlib.Path) -> pathlib.Path:
        """Returns where it lies in a study's directory."""
        return out / self.name / f"seed{self.seed}"

    def before(self, out: pathlib.Path) -> pathlib.Path | None:
        """Returns where the checkpoint lies that it starts from; None for none."""
        return None if self.after is None else self.source(out, self.after)

    def source(self, out: pathlib.Path, name: str) -> pathlib.Path:
        """Returns where another row with this seed has, or will have, its checkpoint."""
        directory = out / name / f"seed{self.seed}"
        return checkpoint_of(directory) or directory

    def __str__(self) -> str:
        return self.name if self.seed == 0 else f"{self.name}, seed {self.seed}"


def tasks(study: Study, only: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """Returns the tasks in an order in which each comes after that which it starts from.

    Args:
        study: the study.
        only: names of rows; none for all.
        seeds: of each row.

    Raises:
        ValueError: a name that is no row's, or no seed.
    """
    strange = [name for name in only if name not in study.rows]
    if strange:
        raise ValueError(f"Expected only={strange} among {list(study.rows)}.")
    if not seeds:
        raise ValueError("Expected at least one seed.")
    return [
        Task(name, seed, row.after)
        for seed in seeds
        for name, row in study.rows.items()
        if not only or name in only
    ]


def is_done(spec: str, task: Task, out: pathlib.Path, budget: Budget) -> bool:
    """Returns whether a task's evaluation, as its file has it today, has ended."""
    wanted = config.load(f"{spec}:{task.name}").evaluation
    wanted = wanted.reduced() if budget == "reduced" else wanted
    return claims.has_ended(task.workdir(out), descriptions.of_evaluation(wanted))


def run(
    spec: str,
    todo: Sequence[Task],
    *,
    out: pathlib.Path,
    budget: Budget,
    given: Sequence[str] = (),
) -> list[Task]:
    """Runs the tasks that are not done; returns those that failed.

    What another process works on, and what starts from it, is left to a later start.

    Args:
        spec: file of the study.
        todo: the tasks, in order.
        out: directory of the study.
        budget: of the evaluations.
        given: further words for every training's command line.
    """
    missing = [task for task in todo if not is_done(spec, task, out, budget)]
    _say(f"{len(todo) - len(missing)} of {len(todo)} rows are done.")
    failed: list[Task] = []
    begun, ran = time.monotonic(), 0
    for number, task in enumerate(missing):
        needed = [name for name in _needed(spec, task)
                  if checkpoint_of(out / name / f"seed{task.seed}") is None]  # fmt: skip
        if needed:
            _say(f"{task}: waits for {', '.join(needed)}, not done or here without a checkpoint.")
            continue
        if not steps_of(task.workdir(out)) and any(task.workdir(out).glob("records/*.jsonl")):
            # Trained again it is another network to the last bit, whose records those are not.
            _say(
                f"{task}: its evaluation is another now, and its records are of a network that is "
                f"not here to go on with; remove {task.workdir(out)} to train it again."
            )
            failed.append(task)
            continue
        # Ours until the row's process holds its own, which it does even where ours is gone.
        ours, own = out / task.name / f"seed{task.seed}.lock", task.workdir(out) / LOCK
        with locks.locked(ours) as mine:
            if not mine or locks.is_locked(own):
                _say(f"{task}: {locks.holder(own if mine else ours)} works on it.")
                continue
            started = time.monotonic()
            if not (start(spec, task, out, budget, given) and is_done(spec, task, out, budget)):
                failed.append(task)
                continue
        ran += 1
        now = time.monotonic()
        left = (now - begun) / ran * (len(missing) - number - 1)
        _say(
            f"{task}: done in {(now - started) / 60:.1f} min; "
            f"{len(missing) - number - 1} rows left, {left / 60:.0f} min at this pace."
        )
    return failed


def checkpoint_of(directory: pathlib.Path) -> pathlib.Path | None:
    """Returns what `checkpoints.load` reads of a row; None before it is done, or without one.

    A row that was restored has its best checkpoint as a file, where the study keeps it.
    """
    if not (directory / "summary.json").is_file():
        return None
    if steps_of(directory):
        return directory
    file = directory / CHECKPOINT
    return file if file.is_file() else None


def _needed(spec: str, task: Task) -> list[str]:
    """Returns the rows that a task starts from, or is attacked through."""
    sources = config.load(f"{spec}:{task.name}").evaluation.sources
    return list(dict.fromkeys([*([task.after] if task.after else []), *sources]))


def _say(line: str) -> None:
    """Prints a line; `logging.say` would start devices here, which are the rows' own."""
    logging.console.print(line, highlight=False, markup=False, soft_wrap=True)


def start(spec: str, task: Task, out: pathlib.Path, budget: Budget, given: Sequence[str]) -> bool:
    """Returns whether a task's process has ended well; what it says is kept beside its results.

    Args:
        spec: file of the study.
        task: what to train and judge.
        out: directory of the study.
        budget: of the evaluation.
        given: further words for the training's command line.
    """
    log, summary = out / task.name / f"seed{task.seed}.log", task.workdir(out) / "summary.json"
    if not steps_of(task.workdir(out)):  # restored: what is trained now is not done before its end
        summary.unlink(missing_ok=True)
    words = [f"{spec}:{task.name}", "--workdir", str(out / task.name)]
    words += ["--seeds", str(task.seed), "--budget", budget]
    first = task.before(out)
    if first is not None:
        words += ["--training.init-from", str(first)]
    # Rows that another is attacked through have the names of its evaluation's sources.
    sources = config.load(f"{spec}:{task.name}").evaluation.sources
    places = [(name, str(task.source(out, name))) for name in sources]
    words += ["--sources", *itertools.chain(*places)] if places else []
    _say(f"{task}: {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as opened:
        command = [sys.executable, "-m", "robust_jax.commands.train", *words, *given]
        process = subprocess.Popen(command, stdout=opened, stderr=subprocess.STDOUT)
        with _handed_on(process):
            status = process.wait()
    # A run that was asked to stop has saved, ends well and has no summary.
    ended = status == 0 and summary.is_file()
    if not ended:
        last = log.read_text().strip().splitlines()[-1:]
        _say(f"{task}: {'failed' if status else 'not done'}: {' '.join(last)}")
    return ended


@contextlib.contextmanager
def _handed_on(process: subprocess.Popen) -> Iterator[None]:
    """Has SIGINT and SIGTERM reach a row, which saves; the study stops when it has ended."""
    asked: list[int] = []

    def hand_on(number: int, frame: types.FrameType | None) -> None:
        del frame
        asked.append(number)
        process.send_signal(signal.SIGTERM)

    before = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        _say("Stopped; the same command goes on.")
        raise SystemExit(128 + asked[0])
