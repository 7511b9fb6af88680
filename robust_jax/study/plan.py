"""How long the rows of a study will take, measured on a little of each."""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from robust_jax.data import open_data
from robust_jax.evaluation import certification, records
from robust_jax.experiment import checkpoints, config
from robust_jax.runtime import logging
from robust_jax.study import run

STEPS = 100
IMAGES = 32
CERTIFIED = 16
"""Of each row's training and evaluation: enough for a second reading of the time, without
compilation. Images that are certified all at once compile in the one reading there is."""
WORDS = (
    "--training.max-steps", str(STEPS), "--runtime.log-every", str(STEPS // 4),
    "--evaluation.selection.num-examples", str(IMAGES), "--evaluation.batch-size", str(IMAGES // 2),
    "--evaluation.num-certified", str(CERTIFIED), "--evaluation.no-sanity",
)  # fmt: skip


class Forecast(NamedTuple):
    """Seconds that a task will take.

    Attributes:
        task: which.
        fixed: of starting, compiling and the rehearsal itself, in which no check asks the model:
            the checks of sanity come on top of the sum.
        training: of the other steps.
        attacks: of the other images.
        certificates: of the other images that are certified.
    """

    task: run.Task
    fixed: float
    training: float
    attacks: float
    certificates: float

    @property
    def total(self) -> float:
        """Returns the sum."""
        return self.fixed + self.training + self.attacks + self.certificates


def rehearse(
    spec: str, todo: Sequence[run.Task], *, out: pathlib.Path, given: Sequence[str] = ()
) -> list[Forecast]:
    """Runs a little of each task, and returns what the whole of those that went well will take.

    Images are attacked in small batches here, which takes longer for each.

    Args:
        spec: file of the study.
        todo: the tasks, in order.
        out: directory of the rehearsal; what lies there is not run again.
        given: further words for every training's command line.
    """
    found = []
    for task in todo:
        took = out / task.name / f"seed{task.seed}.seconds"
        if not took.is_file():
            logging.console.print(f"{task}: a little of it", highlight=False)
            started = time.monotonic()
            if not run.start(spec, task, out, "full", [*WORDS, *given]):
                continue
            took.write_text(str(time.monotonic() - started))
        found.append(_forecast(spec, task, task.workdir(out), float(took.read_text())))
    return found


def _forecast(spec: str, task: run.Task, place: pathlib.Path, fixed: float) -> Forecast:
    """Returns a task's forecast from the files of its rehearsal."""
    wanted = config.load(f"{spec}:{task.name}")
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    training = 0.0
    for line in (line for line in lines if "images_per_second" in line):
        # The last line is of steps that compiled nothing.
        images = line["step"] * wanted.training.phases[0].batch_size
        epochs = sum(phase.epochs for phase in wanted.training.phases) - line["epoch"]
        training = epochs * images / line["epoch"] / line["images_per_second"]
    evaluation, data = wanted.evaluation, open_data(checkpoints.config_of(place).data)
    split = data.split(evaluation.selection.split)
    images = evaluation.selection.most(len(split), data.task.num_classes)
    certified = min(images, evaluation.num_certified or images)
    attacks = certificates = 0.0
    for name, seconds in records.seconds_by_attack(place, last=True).items():
        folder, _, title = name.rpartition("/")
        if folder == certification.FOLDER:
            at_once = evaluation.certificates[title.partition("@")[0]].images_at_once
            of_last = (CERTIFIED - 1) % min(at_once, CERTIFIED) + 1
            certificates += seconds / of_last * max(0, certified - CERTIFIED)
        else:
            attacks += seconds / (IMAGES // 2) * max(0, images - IMAGES)
    return Forecast(task, fixed, training, attacks, certificates)
